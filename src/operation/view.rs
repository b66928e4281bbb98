//! What people and programs are shown of a backup: one line, the same on the command line and over HTTP.

use serde::Serialize;

use crate::catalog::{BackupQuery, BackupRecord};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, BackupState, Watermark};
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{BackupId, DestinationName, SystemName, TierName};
use crate::error::Result;
use crate::operation::Node;

#[derive(Clone, Debug, Serialize)]
pub struct BackupLine {
    pub id: BackupId,
    pub system: SystemName,
    pub engine: String,
    pub kind: BackupKind,
    pub tier: Option<TierName>,
    pub parent: Option<BackupId>,
    pub state: BackupState,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub watermark: Option<Watermark>,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    pub destinations: Vec<DestinationName>,
    pub proven: Option<EvidenceLevel>,
}

impl From<&BackupRecord> for BackupLine {
    fn from(r: &BackupRecord) -> Self {
        let m = &r.manifest;
        Self {
            id: m.id.clone(),
            system: m.system.clone(),
            engine: m.engine.clone(),
            kind: m.kind,
            tier: m.tier.clone(),
            parent: m.parent.clone(),
            state: r.state,
            started_at: m.started_at,
            finished_at: m.finished_at,
            watermark: m.captured.watermark,
            raw_bytes: m.raw_bytes(),
            stored_bytes: m.stored_bytes(),
            destinations: r.destinations.clone(),
            proven: r.proof.as_ref().map(|p| p.level),
        }
    }
}

/// Newest first.
pub async fn backups(node: &Node, query: &BackupQuery) -> Result<Vec<BackupLine>> {
    Ok(node.catalog.backups(query).await?.iter().map(BackupLine::from).collect())
}
