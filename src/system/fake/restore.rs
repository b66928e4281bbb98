//! Putting items back: the full, then every change on it.

use futures_util::StreamExt;

use super::backup::{CHANGES, Changes, FULL, artifact};
use super::client::{Call, Content, decode};
use super::{Engine, FakeSystem};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestorePlan, RestoreRequest, Restored};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

/// Bound of one artifact in memory. Only a fake may collect an artifact.
const ARTIFACT_BYTES_MAX: usize = 64 * 1024 * 1024;

impl FakeSystem {
    pub(super) async fn plan_target(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        self.server.pass(Call::PlanRestore, job).await?;
        let last = point(&request.chain)?;
        if last.engine != Self::KIND {
            return Err(Error::new(ErrorKind::Conflict, "restore into fake").with("engine", &last.engine));
        }
        let used = self.server.read(&request.place).is_ok_and(|c| !c.items.is_empty());
        if used && request.existing == Existing::Refuse && !self.is_of_run(&request) {
            return Err(Error::new(ErrorKind::Conflict, "restore over what is there")
                .with("place", request.place.describe())
                .hint("choose an empty directory, or allow replacing it"));
        }
        Ok(RestorePlan {
            actions: vec![format!(
                "put {} items into {}",
                last.captured.fingerprint.total(),
                request.place.describe()
            )],
            bytes: request.chain.iter().map(Manifest::raw_bytes).sum(),
            free_bytes: None,
            missing: Vec::new(),
            unknown: Vec::new(),
            detail: serde_json::Value::Null,
            request,
        })
    }

    pub(super) async fn put_back(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        self.server.pass(Call::Restore, job).await?;
        let mut content = Content::default();
        let mut bytes = 0;
        for backup in &plan.request.chain {
            let name = if backup.parent.is_none() { FULL } else { CHANGES };
            let body = collect(backup, name, source, job).await?;
            bytes += body.len() as u64;
            if backup.parent.is_none() {
                content = decode(&body)?;
            } else {
                let changes = serde_json::from_slice(&body)
                    .map_err(|e| Error::new(ErrorKind::Corrupt, "read changes").because(e))?;
                apply(&mut content, changes);
            }
        }
        let items = content.items.len() as u64;
        self.server.write(&plan.request.place, content)?;
        self.remember(&plan.request);
        Ok(Restored {
            point: plan.request.point().map(|m| m.id.clone()),
            items,
            bytes,
            ..Restored::default()
        })
    }

    pub(super) fn content_at(&self, place: &Place) -> Result<Content> {
        self.server.read(place)
    }
}

async fn collect(
    backup: &Manifest,
    name: &str,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Vec<u8>> {
    let op = "fetch items";
    let mut stream = job.run(op, source.open(&backup.id, &artifact(name)?, job)).await?;
    let mut body = Vec::new();
    while let Some(chunk) = job.run(op, async { stream.next().await.transpose() }).await? {
        if body.len() + chunk.len() > ARTIFACT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, op).with("backup", &backup.id));
        }
        body.extend_from_slice(&chunk);
        job.progress().advance(chunk.len() as u64);
    }
    Ok(body)
}

fn apply(content: &mut Content, changes: Changes) {
    content.version = changes.version;
    content.items.extend(changes.set);
    content.items.retain(|key, _| !changes.removed.contains(key));
    content.canaries = changes.canaries;
}
