//! Physical backups: the server's files and its WAL.

use crate::domain::backup::{BackupPlan, BackupRequest, Captured};
use crate::domain::id::SystemName;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::Connector;
use crate::system::postgres::settings::Settings;
use crate::system::{BackupSink, BackupSource};

#[derive(Clone, Copy, Debug)]
pub struct Physical<'a> {
    pub settings: &'a Settings,
    pub connector: &'a Connector,
    pub system: &'a SystemName,
}

impl Physical<'_> {
    fn missing(&self) -> Error {
        Error::new(ErrorKind::Unsupported, "use this method").with("system", self.system)
    }

    pub async fn plan_backup(&self, _request: &BackupRequest, _job: &JobContext) -> Result<BackupPlan> {
        Err(self.missing())
    }

    pub async fn backup(
        &self,
        _plan: &BackupPlan,
        _sink: &dyn BackupSink,
        _job: &JobContext,
    ) -> Result<Captured> {
        Err(self.missing())
    }

    pub async fn plan_restore(&self, _request: RestoreRequest, _job: &JobContext) -> Result<RestorePlan> {
        Err(self.missing())
    }

    pub async fn restore(
        &self,
        _plan: &RestorePlan,
        _source: &dyn BackupSource,
        _job: &JobContext,
    ) -> Result<Restored> {
        Err(self.missing())
    }

    pub async fn verify(
        &self,
        _chain: &[Manifest],
        _place: &Place,
        _source: &dyn BackupSource,
        _job: &JobContext,
    ) -> Result<Verification> {
        Err(self.missing())
    }

    pub async fn release(&self, _lease: &crate::domain::backup::Lease, _job: &JobContext) -> Result<()> {
        Err(self.missing())
    }
}
