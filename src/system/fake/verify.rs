//! Comparing items with what was captured.

use super::FakeSystem;
use super::backup::fingerprint;
use super::client::Call;
use crate::domain::evidence::EvidenceLevel::{E2, E3, E4};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::point;

impl FakeSystem {
    pub(super) async fn compare(
        &self,
        chain: &[Manifest],
        place: &Place,
        job: &JobContext,
    ) -> Result<Verification> {
        self.server.pass(Call::Verify, job).await?;
        let expected = &point(chain)?.captured;
        let mut found = Verification::new("items");
        let content = match self.content_at(place) {
            Ok(content) => content,
            Err(error) => {
                found.push(Check::failed("items can be read", E2, "readable", error.to_string()));
                return Ok(found);
            }
        };
        found.push(Check::passed("items can be read", E2, place.describe()));
        found.push(Check::equal("version", E3, &expected.position.end, content.version.to_string()));
        let actual = fingerprint(&content);
        for (name, digest) in &expected.fingerprint.items {
            let text = |d: Option<&crate::domain::backup::Digest>| {
                d.map_or_else(String::new, |d| format!("{} items, hash {}", d.count, d.hash))
            };
            found.push(Check::equal(name, E4, text(Some(digest)), text(actual.items.get(name))));
        }
        found.compared = actual.total();
        if expected.fingerprint.total() == 0 {
            found.push(Check::inconclusive("content", E4, "the backup is empty: nothing was compared"));
        }
        Ok(found)
    }
}
