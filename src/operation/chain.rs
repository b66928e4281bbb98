//! Which backups a recovery point needs: from the full at its root to the point itself.

use crate::catalog::{BackupQuery, BackupRecord};
use crate::domain::Timestamp;
use crate::domain::backup::BackupState;
use crate::domain::id::{BackupId, SystemName};
use crate::domain::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;

/// A chain has at most this many links; a longer one is a loop or a mistake.
const CHAIN_LINKS_MAX: usize = 10_000;

/// The chain of a backup, full first. `Corrupt` when a link is missing.
pub async fn chain_of(node: &Node, id: &BackupId) -> Result<Vec<BackupRecord>> {
    let mut chain = vec![node.catalog.backup(id).await?];
    while let Some(parent) = chain.last().and_then(|r| r.manifest.parent.clone()) {
        let record = node.catalog.backup(&parent).await.map_err(|e| {
            Error::new(ErrorKind::Corrupt, "follow the chain of backups")
                .with("backup", id)
                .with("missing", &parent)
                .because(e)
                .hint("run `lifeboat catalog rebuild`; if the backup is really gone, use an older point (`lifeboat list`)")
        })?;
        if record.state == BackupState::Failed || chain.len() > CHAIN_LINKS_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "follow the chain of backups")
                .with("backup", id)
                .with("failed", &parent)
                .hint("a backup that this one builds on is damaged; use an older point (`lifeboat list`)"));
        }
        chain.push(record);
    }
    chain.reverse();
    Ok(chain)
}

/// The newest restorable point of a system with its whole chain; `None` when there is none.
///
/// "Newest" is by the instant the point represents, never by name. A point whose chain is broken is passed over.
pub async fn newest_point(node: &Node, system: &SystemName) -> Result<Option<Vec<BackupRecord>>> {
    newest_point_until(node, system, None).await
}

/// As [`newest_point`], not later than `not_after`.
pub async fn newest_point_until(
    node: &Node,
    system: &SystemName,
    not_after: Option<Timestamp>,
) -> Result<Option<Vec<BackupRecord>>> {
    let query = BackupQuery { system: Some(system.clone()), limit: None };
    let mut records = node.catalog.backups(&query).await?;
    records.retain(|r| {
        r.state.is_restorable()
            && !is_safety(r)
            && not_after.is_none_or(|t| r.manifest.captured.captured_at <= t)
    });
    records.sort_by_key(|r| r.manifest.captured.captured_at);
    while let Some(record) = records.pop() {
        match chain_of(node, &record.manifest.id).await {
            Ok(chain) => return Ok(Some(chain)),
            Err(error) => tracing::warn!(backup = %record.manifest.id, %error, "point cannot be used"),
        }
    }
    Ok(None)
}

/// Tier of backups taken before something is overwritten. They hold the damaged state: never chosen by themselves.
pub const SAFETY_TIER: &str = "safety";

fn is_safety(record: &BackupRecord) -> bool {
    record.manifest.tier.as_ref().is_some_and(|t| t.as_str() == SAFETY_TIER)
}

pub fn manifests(chain: &[BackupRecord]) -> Vec<Manifest> {
    chain.iter().map(|r| r.manifest.clone()).collect()
}
