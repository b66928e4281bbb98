//! PostgreSQL engine: physical backups over the replication protocol and logical ones through SQL.
//!
//! This file only decides who does what: the settings choose the method of new backups, and a backup says of itself how
//! it was taken, which decides about restoring and verifying it.

pub mod client;
pub mod logical;
pub mod physical;
pub mod programs;
pub mod rows;
pub mod settings;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use self::client::Connector;
use self::logical::Logical;
use self::physical::Physical;
use self::settings::{Method, Settings};
use super::{BackupSink, BackupSource, DataSystem, Engine, EngineDeps, Health};
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
    state_dir: PathBuf,
}

impl Engine for Postgres {
    const KIND: &'static str = "postgres";
    type Settings = Settings;

    fn check(settings: &Settings) -> Vec<(String, String)> {
        settings.problems()
    }

    fn build(settings: Settings, deps: EngineDeps) -> Result<Self> {
        let settings = Arc::new(settings);
        Ok(Self {
            name: deps.name,
            connector: Connector::new(settings.clone()),
            settings,
            state_dir: deps.state_dir,
        })
    }
}

impl Postgres {
    fn logical(&self) -> Logical<'_> {
        Logical {
            settings: &self.settings,
            connector: &self.connector,
            system: &self.name,
        }
    }

    fn physical(&self) -> Physical<'_> {
        Physical {
            settings: &self.settings,
            connector: &self.connector,
            system: &self.name,
        }
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
        let _ = (job, &self.state_dir);
        Err(Error::new(ErrorKind::Unsupported, "probe"))
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

    async fn watermark(&self, _place: &Place, _job: &JobContext) -> Result<Option<Watermark>> {
        Ok(None)
    }

    async fn release(&self, lease: &Lease, job: &JobContext) -> Result<()> {
        self.physical().release(lease, job).await
    }
}
