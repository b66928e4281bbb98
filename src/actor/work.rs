//! What actors have done for them: the work behind commands, as a trait, so that actors are tested without servers.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::domain::backup::BackupKind;
use crate::domain::id::{RunId, SystemName, TierName};
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::Health;

/// A backup that was asked for.
#[derive(Clone, Debug)]
pub struct BackupOrder {
    pub run: RunId,
    pub system: SystemName,
    pub kind: BackupKind,
    pub tier: Option<TierName>,
    /// Who or what asked, for the run's record.
    pub reason: String,
}

/// The long work. Every call runs as a task on the workers, never on an actor's thread.
#[async_trait]
pub trait Work: Debug + Send + Sync + 'static {
    async fn probe(&self, system: &SystemName, job: &JobContext) -> Result<Health>;
    async fn backup(&self, order: BackupOrder, job: &JobContext) -> Result<()>;
    /// Writes one heartbeat record; does nothing for a system that has none.
    async fn beat(&self, system: &SystemName, job: &JobContext) -> Result<()>;
}
