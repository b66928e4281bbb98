//! The manifest: what a backup is, in a form that stands alone in storage. Format version 1 (`docs/formats.md`).
//!
//! Invariants: written last and create-only; signed over its canonical bytes; names its own place, so that a manifest
//! moved to another backup's place is refused. Unknown keys are errors: a newer format must say so in `format`.

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::backup::{BackupKind, Captured};
use super::id::{ArtifactName, BackupId, SystemName, TierName};

pub const FORMAT_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub id: BackupId,
    pub system: SystemName,
    /// Engine kind: `postgres`, `redis`, …
    pub engine: String,
    pub tier: Option<TierName>,
    pub kind: BackupKind,
    pub parent: Option<BackupId>,
    /// The full at the root of the chain; its own id for a full.
    pub root: BackupId,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub lifeboat_version: String,
    pub host: String,
    pub captured: Captured,
    pub segment_encoding: SegmentEncoding,
    /// Sorted by name.
    pub artifacts: Vec<Artifact>,
}

/// How every segment of the backup is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentEncoding {
    /// Most raw bytes of a segment. The last one of an artifact is shorter, others may be.
    pub segment_bytes: u64,
    pub zstd_level: i32,
    /// age recipients; empty means not encrypted.
    pub recipients: Vec<String>,
}

impl SegmentEncoding {
    pub fn suffix(&self) -> &'static str {
        if self.recipients.is_empty() { "zst" } else { "zst.age" }
    }
}

/// One named byte stream, cut into segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    pub name: ArtifactName,
    pub raw_bytes: u64,
    pub segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes, lowercase hex.
    pub sha256: String,
}

impl Manifest {
    /// `{system}/{YYYY-MM-DD}/{id}`, the date taken from `started_at`.
    pub fn prefix(&self) -> String {
        backup_prefix(&self.system, &self.id)
    }

    pub fn key(&self) -> String {
        format!("{}/{MANIFEST_FILE}", self.prefix())
    }

    /// `{prefix}/{artifact}/000001.zst.age`; segments count from 1.
    pub fn segment_key(&self, artifact: &ArtifactName, number: usize) -> String {
        segment_key(&self.prefix(), artifact, number, self.segment_encoding.suffix())
    }

    pub fn artifact(&self, name: &ArtifactName) -> Option<&Artifact> {
        self.artifacts.iter().find(|a| a.name == *name)
    }

    pub fn raw_bytes(&self) -> u64 {
        self.artifacts.iter().map(|a| a.raw_bytes).sum()
    }

    pub fn stored_bytes(&self) -> u64 {
        self.artifacts.iter().flat_map(|a| &a.segments).map(|s| s.stored_bytes).sum()
    }
}

pub const MANIFEST_FILE: &str = "manifest.json";

/// The id begins with the date of the start, so the place follows from system and id alone.
pub fn backup_prefix(system: &SystemName, id: &BackupId) -> String {
    let d = id.as_str();
    format!("{system}/{}-{}-{}/{id}", &d[0..4], &d[4..6], &d[6..8])
}

pub fn segment_key(prefix: &str, artifact: &ArtifactName, number: usize, suffix: &str) -> String {
    format!("{prefix}/{artifact}/{number:06}.{suffix}")
}

/// What is stored as `manifest.json`: the manifest and a signature over its exact text.
///
/// The text is carried as a string, so that verification never depends on how JSON is written again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedManifest {
    /// JSON text of a [`Manifest`].
    pub manifest: String,
    /// Ed25519 public key of the signer, base64.
    pub signer: String,
    /// Ed25519 signature over the bytes of `manifest`, base64.
    pub signature: String,
}
