//! PostgreSQL engine: physical backups over the replication protocol and logical ones through SQL.
//!
//! This file only decides who does what: the settings choose the method of new backups, and a backup says of itself how
//! it was taken, which decides about restoring and verifying it.

mod base;
mod canary;
mod capture;
mod chain;
pub mod client;
mod consume;
mod direct;
mod fill;
mod health;
mod integrity;
mod listing;
pub mod logical;
mod login;
mod lsn;
mod notes;
pub mod physical;
mod point;
pub mod programs;
mod refusal;
mod replication;
mod restore;
pub mod rows;
mod sandbox;
pub mod settings;
mod slot;
mod target;
mod tls;
mod unpack;
mod verify;
mod wal;

#[cfg(test)]
mod live_tests;

use std::sync::Arc;

use async_trait::async_trait;

use self::client::Connector;
use self::logical::Logical;
use self::physical::Physical;
use self::settings::{Method, Settings};
use super::{BackupSink, BackupSource, Canary, DataSystem, Engine, EngineDeps, Health, Queries, Sandboxing};
use crate::domain::backup::{BackupPlan, BackupRequest, Captured, Lease, Watermark};
use crate::domain::id::SystemName;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// One PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    name: SystemName,
    settings: Arc<Settings>,
    connector: Connector,
}

impl Engine for Postgres {
    const KIND: &'static str = "postgres";
    type Settings = Settings;

    fn check(settings: &Settings) -> Vec<(String, String)> {
        settings.problems()
    }

    fn build(settings: Settings, deps: EngineDeps) -> Result<Self> {
        let settings = Arc::new(settings);
        Ok(Self { name: deps.name, connector: Connector::new(settings.clone()), settings })
    }
}

impl Postgres {
    fn logical(&self) -> Logical<'_> {
        Logical { settings: &self.settings, connector: &self.connector, system: &self.name }
    }

    fn physical(&self) -> Physical<'_> {
        Physical { settings: &self.settings, connector: &self.connector, system: &self.name }
    }
}

/// How a chain was taken; its last point decides.
fn method_of(chain: &[Manifest]) -> Result<Method> {
    let captured = &super::point(chain)?.captured;
    match captured.method.as_str() {
        "physical" => Ok(Method::Physical),
        "logical" => Ok(Method::Logical),
        other => Err(Error::new(ErrorKind::Unsupported, "read backup of this method")
            .with("method", other)
            .hint("this backup was made by a newer lifeboat: use that one")),
    }
}

#[async_trait]
impl DataSystem for Postgres {
    fn name(&self) -> &SystemName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        Self::KIND
    }

    async fn probe(&self, job: &JobContext) -> Result<Health> {
        health::probe(&self.connector, &self.name, job).await
    }

    async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        match self.settings.method {
            Method::Physical => self.physical().plan_backup(request, job).await,
            Method::Logical => self.logical().plan_backup(request, job).await,
        }
    }

    async fn backup(&self, plan: &BackupPlan, sink: &dyn BackupSink, job: &JobContext) -> Result<Captured> {
        match self.settings.method {
            Method::Physical => self.physical().backup(plan, sink, job).await,
            Method::Logical => self.logical().backup(plan, sink, job).await,
        }
    }

    async fn committed(&self, manifest: &Manifest, job: &JobContext) -> Result<()> {
        match method_of(std::slice::from_ref(manifest))? {
            Method::Physical => self.physical().committed(manifest, job).await,
            Method::Logical => Ok(()),
        }
    }

    async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        match method_of(&request.chain)? {
            Method::Physical => self.physical().plan_restore(request, job).await,
            Method::Logical => self.logical().plan_restore(request, job).await,
        }
    }

    async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        match method_of(&plan.request.chain)? {
            Method::Physical => self.physical().restore(plan, source, job).await,
            Method::Logical => self.logical().restore(plan, source, job).await,
        }
    }

    async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        match method_of(chain)? {
            Method::Physical => self.physical().verify(chain, place, source, job).await,
            Method::Logical => self.logical().verify(chain, place, source, job).await,
        }
    }

    /// Known only where the server keeps commit times (`track_commit_timestamp`).
    async fn watermark(&self, place: &Place, job: &JobContext) -> Result<Option<Watermark>> {
        if matches!(place, Place::Directory { .. }) {
            return Ok(None);
        }
        let client = self.connector.connect(place, &self.settings.database, job).await?;
        point::newest_commit(&client, job).await
    }

    async fn release(&self, lease: &Lease, job: &JobContext) -> Result<()> {
        self.physical().release(lease, job).await
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
