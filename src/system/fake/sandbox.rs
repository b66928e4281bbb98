//! A fake needs no server: files only. Canaries and queries.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::FakeSystem;
use crate::domain::backup::Captured;
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::{Canary, Queries, SandboxOrder, Sandboxing};

#[async_trait]
impl Sandboxing for FakeSystem {
    fn programs(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn order(&self, _point: &Captured) -> SandboxOrder {
        SandboxOrder::FilesOnly
    }
    async fn initialise(&self, _dir: &Path, _account: Option<&Account>, _job: &JobContext) -> Result<()> {
        Ok(())
    }
    async fn neutralise(&self, _dir: &Path, _port: u16, _job: &JobContext) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn server(&self, _dir: &Path, _port: u16) -> Result<Option<Program>> {
        Ok(None)
    }
    async fn ready(&self, place: &Place, _job: &JobContext) -> Result<()> {
        self.content_at(place).map(|_| ())
    }
}

#[async_trait]
impl Canary for FakeSystem {
    async fn write(&self, record: &CanaryRecord, _job: &JobContext) -> Result<()> {
        let mut content = self.content_at(&Place::Production)?;
        content.canaries.retain(|r| r.seq != record.seq);
        content.canaries.push(record.clone());
        let surplus = content.canaries.len().saturating_sub(CANARIES_KEPT);
        content.canaries.drain(..surplus);
        self.server.write(&Place::Production, content)
    }

    async fn read(&self, place: &Place, _job: &JobContext) -> Result<Vec<CanaryRecord>> {
        Ok(self.content_at(place)?.canaries)
    }
}

#[async_trait]
impl Queries for FakeSystem {
    /// `count`, or the key of an item.
    async fn ask(&self, place: &Place, query: &str, _job: &JobContext) -> Result<String> {
        let content = self.content_at(place)?;
        if query == "count" {
            return Ok(content.items.len().to_string());
        }
        let found = content.items.get(query).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "find item").with("key", query))
    }
}
