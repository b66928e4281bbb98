//! One captured recovery point: what an engine reports about it, and its state.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::id::{BackupId, SystemName, TierName};
use super::manifest::Manifest;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    Full,
    /// Builds on the newest backup of the chain.
    Incremental,
    /// Builds on the full of the chain.
    Differential,
}

impl BackupKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Life of a recovery point. Only VERIFIED and PROVEN points count for retention minimums and for RPO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum BackupState {
    Running,
    /// Manifest committed; stored bytes not read back yet.
    Stored,
    /// Every stored segment was read back and its checksum held.
    Verified,
    /// Restored and checked by content in a drill or a recovery.
    Proven,
    /// Looks wrong against its predecessors; pins them.
    Suspect,
    /// A check on it failed, or it never finished.
    Failed,
    Expired,
}

impl BackupState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Stored => "STORED",
            Self::Verified => "VERIFIED",
            Self::Proven => "PROVEN",
            Self::Suspect => "SUSPECT",
            Self::Failed => "FAILED",
            Self::Expired => "EXPIRED",
        }
    }

    /// May a recovery be built on it without anybody overriding?
    pub fn is_restorable(self) -> bool {
        matches!(self, Self::Stored | Self::Verified | Self::Proven)
    }
}

impl fmt::Display for BackupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An engine's own place in history, in its own words: LSN, replication offset, cluster time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Where the capture began; an incremental begins where its parent ended.
    pub start: Option<String>,
    /// The recovery point: where a restore of this backup ends.
    pub end: String,
}

/// The newest write that a copy contains, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    pub at: Timestamp,
    pub source: WatermarkSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatermarkSource {
    /// A canary record read from the data.
    Canary,
    /// The engine's own record of its newest write.
    Engine,
    /// The clock at the consistency point; the data says nothing.
    Clock,
}

/// Count and order-free hash of one unit of content (a table, a database number, the whole tree).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub count: u64,
    /// Lowercase hex. Empty means that no hash was taken.
    pub hash: String,
}

/// What the captured content looked like, taken from the very bytes that went into the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Names the way of hashing, so that a later version never compares unlike with unlike.
    pub algorithm: String,
    /// `rows`, `keys`, `files`.
    pub unit: String,
    pub items: BTreeMap<String, Digest>,
}

impl Fingerprint {
    pub fn total(&self) -> u64 {
        self.items.values().map(|d| d.count).sum()
    }
}

/// What an engine reports about a finished capture. Becomes part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// `physical`, `logical`, `rdb`, `online-backup`, `tar`.
    pub method: String,
    pub server_version: String,
    pub position: Position,
    /// Wall-clock instant that the recovery point represents.
    pub captured_at: Timestamp,
    pub watermark: Option<Watermark>,
    pub fingerprint: Fingerprint,
    /// The engine's own notes to its later self. Opaque to everyone else; never a secret.
    #[serde(default)]
    pub detail: serde_json::Value,
    /// What this backup does not carry or a person should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What is asked of an engine.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    pub id: BackupId,
    pub kind: BackupKind,
    pub tier: Option<TierName>,
    /// Newest usable backups of the system's current chain, full first; empty when there is none.
    pub chain: Vec<Manifest>,
}

/// What an engine will do. A value that can be shown; making it changes nothing.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    pub id: BackupId,
    /// May differ from the request: an incremental without a usable parent becomes a full, with a note.
    pub kind: BackupKind,
    /// The parent whose end this backup continues; `None` for a full.
    pub parent: Option<Manifest>,
    /// Server-side resources that `backup` will acquire. Written to the catalog before.
    pub leases: Vec<Lease>,
    /// Raw bytes expected, where the engine can tell; for progress bars only.
    pub bytes_estimate: Option<u64>,
    pub notes: Vec<String>,
    /// The engine's own.
    pub detail: serde_json::Value,
}

/// A server-side resource that must be given back: a replication slot, a pinned snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    pub system: SystemName,
    /// `replication_slot`, …
    pub kind: String,
    pub name: String,
    pub scope: LeaseScope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseScope {
    /// Released when the run ends, however it ends.
    Run,
    /// Kept for the next incremental when the run succeeds; released when it fails.
    Chain,
}
