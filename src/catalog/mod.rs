//! Catalog port: what lifeboat remembers between runs. A cache of what storage says about backups, and the only record
//! of runs, leases, sandboxes and canaries.
//!
//! Everything appended is durable when the call returns. `conformance` holds what every adapter must do.

pub mod conformance;
mod migrations;
pub mod rebuild;
pub mod sqlite;

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::backup::{BackupState, Lease};
use crate::domain::canary::CanaryRecord;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{BackupId, DestinationName, RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::run::{JournalRecord, Owner, RunEvent, RunKind, RunRecord, RunState};
use crate::error::Result;

/// A backup as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupRecord {
    pub manifest: Manifest,
    pub state: BackupState,
    /// Destinations that hold a committed copy.
    pub destinations: Vec<DestinationName>,
    pub verified_at: Option<Timestamp>,
    pub proof: Option<Proof>,
}

/// The newest restore of this backup whose content was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub at: Timestamp,
    pub run: RunId,
    pub level: EvidenceLevel,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, Default)]
pub struct BackupQuery {
    pub system: Option<SystemName>,
    /// Newest first; `None` means all.
    pub limit: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct NewRun {
    pub id: RunId,
    pub kind: RunKind,
    pub system: Option<SystemName>,
    pub subject: Option<String>,
    pub started_at: Timestamp,
    pub owner: Owner,
    pub detail: serde_json::Value,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct RunEnd {
    pub verdict: Option<Verdict>,
    pub level: Option<EvidenceLevel>,
    pub error: Option<String>,
    /// Replaces the run's detail when present.
    pub detail: Option<serde_json::Value>,
}

/// A lease that is held, and since when. `run` is `None` for a chain lease whose run has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    pub lease: Lease,
    pub run: Option<RunId>,
    pub since: Timestamp,
}

/// Something that a run made on this machine and that must be gone afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "resource")]
pub enum Resource {
    Directory { path: std::path::PathBuf },
    Process { pid: u32, started: String, program: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    pub id: i64,
    pub run: RunId,
    pub owner: Owner,
    pub resource: Resource,
    pub since: Timestamp,
}

#[async_trait]
pub trait Catalog: Debug + Send + Sync + 'static {
    // runs and their journal
    /// State running, epoch 1. `Conflict` when the id is taken.
    async fn open_run(&self, run: &NewRun) -> Result<()>;
    /// `NotFound` when there is no such run.
    async fn run(&self, id: &RunId) -> Result<RunRecord>;
    /// Newest first.
    async fn runs(&self, limit: u32) -> Result<Vec<RunRecord>>;
    /// Runs in a state that is not final, oldest first.
    async fn unfinished_runs(&self) -> Result<Vec<RunRecord>>;
    /// Takes over a run that is not final: new owner, epoch + 1, state running. Gives the new epoch.
    /// `Conflict` when it is final or when its epoch is no longer `seen_epoch` (somebody else was faster).
    async fn adopt_run(&self, id: &RunId, seen_epoch: u32, owner: &Owner) -> Result<u32>;
    /// Moves the run. `Conflict` for an illegal move or an epoch that is no longer the newest.
    async fn move_run(
        &self,
        id: &RunId,
        epoch: u32,
        state: RunState,
        end: RunEnd,
        at: Timestamp,
    ) -> Result<()>;
    /// Replaces the run's detail. `Conflict` for an old epoch.
    async fn set_run_detail(&self, id: &RunId, epoch: u32, detail: &serde_json::Value) -> Result<()>;
    /// Appends to the journal; durable on return. `Conflict` for an old epoch.
    async fn append(&self, id: &RunId, epoch: u32, event: &RunEvent, at: Timestamp) -> Result<u64>;
    async fn journal(&self, id: &RunId) -> Result<Vec<JournalRecord>>;

    // backups
    /// Adds or replaces the record of a committed backup and the destination that holds it. State STORED unless known
    /// better. Another manifest under the same id starts anew: nothing known about the old one holds for it.
    async fn commit_backup(&self, manifest: &Manifest, destination: &DestinationName) -> Result<()>;
    /// `NotFound` with a hint when there is no such backup.
    async fn backup(&self, id: &BackupId) -> Result<BackupRecord>;
    async fn backups(&self, query: &BackupQuery) -> Result<Vec<BackupRecord>>;
    /// VERIFIED also sets `verified_at`, and never takes PROVEN away: reading the stored bytes back proves less.
    async fn set_backup_state(&self, id: &BackupId, state: BackupState, at: Timestamp) -> Result<()>;
    /// Keeps the proof unless a newer one is known. The state is the caller's decision (`set_backup_state`).
    async fn record_proof(&self, id: &BackupId, proof: &Proof) -> Result<()>;
    /// Idempotent.
    async fn forget_backup(&self, id: &BackupId) -> Result<()>;
    /// The destination no longer holds it. The record goes with its last copy. Idempotent.
    async fn forget_copy(&self, id: &BackupId, destination: &DestinationName) -> Result<()>;

    // leases: written before they are acquired
    /// Takes over a kept chain lease and one of a dead run; `Conflict` when a run that goes on holds it.
    async fn record_lease(&self, run: &RunId, lease: &Lease, at: Timestamp) -> Result<()>;
    /// A chain lease outlives its run. `NotFound` when it was not recorded, `Conflict` for a lease of scope `Run`.
    async fn keep_lease(&self, lease: &Lease) -> Result<()>;
    /// Idempotent.
    async fn clear_lease(&self, lease: &Lease) -> Result<()>;
    async fn leases(&self) -> Result<Vec<HeldLease>>;

    // sandbox ledger: written before the resource is made
    async fn record_resource(
        &self,
        run: &RunId,
        owner: &Owner,
        resource: &Resource,
        at: Timestamp,
    ) -> Result<i64>;
    async fn clear_resource(&self, id: i64) -> Result<()>;
    async fn resources(&self) -> Result<Vec<LedgerEntry>>;

    // canaries: what was acknowledged by the source
    /// Next sequence number of a system, never given twice.
    async fn next_canary(&self, system: &SystemName) -> Result<u64>;
    /// The source has acknowledged the record. Also raises the counter, so that after the loss of the catalog it goes on
    /// behind the newest record found in the system.
    async fn canary_written(&self, system: &SystemName, record: &CanaryRecord) -> Result<()>;
    /// Records acknowledged with a sequence number above `seq` and not later than `until`.
    async fn canaries_after(&self, system: &SystemName, seq: u64, until: Timestamp) -> Result<u64>;
}
