//! SQLite engine: a database file that other programs have open.
//!
//! Everything goes through SQLite itself; the file is never read in any other way while it may be in use. An incremental
//! stores nothing when nothing changed, and becomes a full otherwise.

mod backup;
mod canary;
mod client;
mod fingerprint;
#[cfg(test)]
mod live_tests;
mod probe;
mod restore;
mod sandbox;
mod scratch;
mod settings;
mod verify;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackupSink, BackupSource, Canary, DataSystem, Engine, EngineDeps, Health, Queries, Sandboxing};
use crate::domain::backup::{BackupPlan, BackupRequest, Captured, Lease, Watermark};
use crate::domain::id::SystemName;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
pub use settings::Settings;

/// The one artifact: the database file.
pub const ARTIFACT: &str = "database.sqlite";

#[derive(Debug)]
pub struct SqliteSystem {
    settings: Settings,
    busy: Duration,
    deps: EngineDeps,
}

impl SqliteSystem {
    fn path(&self) -> &Path {
        &self.settings.path
    }
}

impl Engine for SqliteSystem {
    const KIND: &'static str = "sqlite";
    type Settings = Settings;

    fn check(settings: &Settings) -> Vec<(String, String)> {
        settings.check()
    }

    fn build(settings: Settings, deps: EngineDeps) -> Result<Self> {
        if let Some((key, message)) = settings.check().into_iter().next() {
            return Err(Error::new(ErrorKind::Config, "use settings")
                .with("system", &deps.name)
                .with("key", key)
                .why(message));
        }
        let busy = settings.busy_timeout().map_err(|e| Error::bug("read checked busy_timeout").why(e))?;
        Ok(Self { settings, busy, deps })
    }
}

#[async_trait]
impl DataSystem for SqliteSystem {
    fn name(&self) -> &SystemName {
        &self.deps.name
    }

    fn kind(&self) -> &'static str {
        Self::KIND
    }

    async fn probe(&self, job: &JobContext) -> Result<Health> {
        self.look(job).await
    }

    async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        self.plan(request, job).await
    }

    async fn backup(&self, plan: &BackupPlan, sink: &dyn BackupSink, job: &JobContext) -> Result<Captured> {
        self.capture(plan, sink, job).await
    }

    async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        self.plan_target(request, job).await
    }

    async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        self.put_back(plan, source, job).await
    }

    async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        _source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        self.compare(chain, place, job).await
    }

    /// SQLite keeps no time of its newest write.
    async fn watermark(&self, _place: &Place, _job: &JobContext) -> Result<Option<Watermark>> {
        Ok(None)
    }

    /// There is nothing to give back: a file has no leases.
    async fn release(&self, _lease: &Lease, _job: &JobContext) -> Result<()> {
        Ok(())
    }

    fn canary(&self) -> Option<&dyn Canary> {
        Some(self)
    }

    fn sandboxing(&self) -> Option<&dyn Sandboxing> {
        Some(self)
    }

    fn queries(&self) -> Option<&dyn Queries> {
        Some(self)
    }
}
