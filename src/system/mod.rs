//! System port: the contract of an engine, and the one registry of engines.
//!
//! An engine pushes bytes into a sink and pulls verified bytes from a source. It never sees storage, compression,
//! encryption or the catalog. Adding one: copy `fake`, fill it in, add one line to [`registry`].

pub mod conformance;
pub mod fake;
pub mod files;
pub mod postgres;
pub mod redis;
pub mod registry;
pub mod sqlite;
pub mod testing;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Captured, Lease, Watermark};
use crate::domain::canary::CanaryRecord;
use crate::domain::id::{ArtifactName, BackupId, SystemName};
use crate::domain::manifest::{Artifact, Manifest};
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;

/// Where an engine puts the bytes of a backup. Several artifacts may be open at once.
#[async_trait]
pub trait BackupSink: Send + Sync {
    /// Opens an artifact. `Conflict` when the name was used before in this backup.
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactWriter>>;
}

/// One open artifact. Dropped without `finish`: aborted, and the backup cannot be committed.
#[async_trait]
pub trait ArtifactWriter: Send {
    /// Takes the next bytes; waits while the pipeline is full (this is the backpressure).
    async fn write(&mut self, chunk: Bytes) -> Result<()>;
    /// Gives name and raw size. The segments may still be on their way: they are known to the sink at its own end, and are
    /// empty here.
    async fn finish(self: Box<Self>) -> Result<Artifact>;
}

pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Where an engine reads the bytes of a chain of backups from. Yields only verified, decrypted, decompressed bytes.
#[async_trait]
pub trait BackupSource: Send + Sync {
    /// The artifact from its first byte. `NotFound` when the backup has no such artifact; `Corrupt` inside the stream.
    async fn open(&self, backup: &BackupId, artifact: &ArtifactName, job: &JobContext) -> Result<ByteStream>;
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub state: HealthState,
    pub version: Option<String>,
    /// One line: why it is not healthy, or what was seen.
    pub summary: String,
    /// What would keep a backup from being complete, or soon will: rights missing, slot bloat, known-bad version.
    pub findings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    Healthy,
    /// Answers, but cannot be backed up as configured, or something is missing.
    Degraded,
    Down,
}

/// One protected data system. Every long call takes a job; findings are data, not errors.
#[async_trait]
pub trait DataSystem: Debug + Send + Sync + 'static {
    fn name(&self) -> &SystemName;
    fn kind(&self) -> &'static str;

    /// Cheap, read-only, bounded. A server that is down is a finding (`HealthState::Down`), not an error.
    async fn probe(&self, job: &JobContext) -> Result<Health>;

    /// Decides what will be captured and which leases are needed. Changes nothing.
    async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan>;

    /// Acquires the planned leases and streams every artifact into `sink`.
    /// Leases are released by the caller on every exit path.
    async fn backup(&self, plan: &BackupPlan, sink: &dyn BackupSink, job: &JobContext) -> Result<Captured>;

    /// Called once the backup is durable and committed: the engine may move its own cursors and caches now, not before.
    async fn committed(&self, _manifest: &Manifest, _job: &JobContext) -> Result<()> {
        Ok(())
    }

    /// Decides how the chain gets into the place; refuses one it could damage. Changes nothing.
    async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan>;

    /// Applies the plan. Repeating it after a crash is safe: what a dead attempt of the same run left is replaced.
    async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored>;

    /// Compares what is at `place` with the chain's last point. `Place::Directory` means files without a server.
    async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification>;

    /// The engine's own record of the newest write at `place`; `None` when it keeps none. Canaries are read apart.
    async fn watermark(&self, place: &Place, job: &JobContext) -> Result<Option<Watermark>>;

    /// Gives back a server-side resource. Idempotent; succeeds when it is already gone.
    async fn release(&self, lease: &Lease, job: &JobContext) -> Result<()>;

    // Abilities: present or absent, they cannot disagree with a flag.
    fn canary(&self) -> Option<&dyn Canary> {
        None
    }
    fn sandboxing(&self) -> Option<&dyn Sandboxing> {
        None
    }
    fn queries(&self) -> Option<&dyn Queries> {
        None
    }
}

/// Heartbeat records in the protected data itself.
#[async_trait]
pub trait Canary: Send + Sync {
    /// Writes one record into production and keeps at most `domain::canary::CANARIES_KEPT`. Acknowledged by the server on return.
    async fn write(&self, record: &CanaryRecord, job: &JobContext) -> Result<()>;
    /// All records at `place`; empty when there never was one.
    async fn read(&self, place: &Place, job: &JobContext) -> Result<Vec<CanaryRecord>>;
}

/// Application checks: a query against a copy and the text it answers (first column of the first row, or the value).
#[async_trait]
pub trait Queries: Send + Sync {
    /// `query` is SQL, a Redis command line, or a path for files (answers its size).
    async fn ask(&self, place: &Place, query: &str, job: &JobContext) -> Result<String>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxOrder {
    /// Files first, then a server on them.
    RestoreThenStart,
    /// An empty server first, then the restore through it.
    StartThenRestore,
    /// No server at all.
    FilesOnly,
}

/// How to start a throwaway server of this kind.
#[async_trait]
pub trait Sandboxing: Send + Sync {
    /// Programs needed and found. `Unsupported` with a hint names the missing one.
    fn programs(&self) -> Result<Vec<PathBuf>>;
    fn order(&self, point: &Captured) -> SandboxOrder;
    /// Makes an empty server's files in `dir`, as `account`.
    async fn initialise(&self, dir: &Path, account: Option<&Account>, job: &JobContext) -> Result<()>;
    /// Makes restored files in `dir` safe to start: no archiving, no replication, loopback only. Says what it did.
    async fn neutralise(&self, dir: &Path, port: u16, job: &JobContext) -> Result<Vec<String>>;
    /// The server program, listening on `127.0.0.1:port` only; `None` for engines without a server.
    fn server(&self, dir: &Path, port: u16) -> Result<Option<Program>>;
    /// Waits until the server answers and has finished recovery. Bounded by the job; the caller watches the process.
    async fn ready(&self, place: &Place, job: &JobContext) -> Result<()>;
}

/// What every engine is built with.
#[derive(Clone, Debug)]
pub struct EngineDeps {
    pub name: SystemName,
    /// Private directory of this system on this machine (0700), for caches that may be lost.
    pub state_dir: PathBuf,
}

/// Typed construction; the registry erases it.
pub trait Engine: DataSystem + Sized {
    const KIND: &'static str;
    type Settings: serde::de::DeserializeOwned + Send;
    /// Every problem of the settings at once, as `(key, message)`.
    fn check(settings: &Self::Settings) -> Vec<(String, String)>;
    fn build(settings: Self::Settings, deps: EngineDeps) -> Result<Self>;
}

pub type SharedSystem = Arc<dyn DataSystem>;

/// The usable chain for a backup of `kind`: empty means that a full must be taken.
pub fn usable_chain(kind: BackupKind, chain: &[Manifest]) -> &[Manifest] {
    match kind {
        BackupKind::Full => &[],
        BackupKind::Incremental => chain,
        BackupKind::Differential => chain.get(..1).unwrap_or_default(),
    }
}

/// For engines: the point of a chain, or a clear error.
pub fn point(chain: &[Manifest]) -> Result<&Manifest> {
    chain.last().ok_or_else(|| Error::bug("use an empty chain of backups"))
}

/// One check out of an application query: see `config` for what `expect`, `min` and `max` mean.
pub fn judge_answer(
    name: &str,
    answer: &str,
    expect: Option<&str>,
    min: Option<f64>,
    max: Option<f64>,
) -> Check {
    use crate::domain::evidence::EvidenceLevel::E6;
    let number = answer.trim().parse::<f64>();
    let bound = |text: String, held: bool| {
        if held { Check::passed(name, E6, answer) } else { Check::failed(name, E6, text, answer) }
    };
    match (expect, min, max, number) {
        (Some(e), _, _, _) => bound(e.to_owned(), answer.trim() == e),
        (None, None, None, _) => bound("an answer".to_owned(), !answer.trim().is_empty()),
        (None, lo, hi, Ok(n)) => bound(
            format!("between {lo:?} and {hi:?}"),
            lo.is_none_or(|lo| n >= lo) && hi.is_none_or(|hi| n <= hi),
        ),
        (None, _, _, Err(_)) => bound("a number".to_owned(), false),
    }
}
