//! Verifying stored backups without restoring them: E1, or deeper with a key.

use std::sync::Arc;

use crate::domain::backup::BackupState;
use crate::domain::id::{BackupId, DestinationName};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;
use crate::pipeline::verify::{verify_decoded, verify_stored};
use crate::runtime::JobContext;

/// How deep a stored backup is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Size and SHA-256 of every stored segment; needs no key.
    Stored,
    /// Also decrypts and decompresses everything, to nothing.
    Decoded,
}

/// Reads a backup back at every destination that holds it. A red finding sets it FAILED; all green sets it VERIFIED.
pub async fn verify_backup(
    node: &Node,
    id: &BackupId,
    depth: Depth,
    job: &JobContext,
) -> Result<Verification> {
    let record = node.catalog.backup(id).await?;
    let mut all = Verification::default();
    job.progress().set_total(record.manifest.stored_bytes() * record.destinations.len() as u64);
    for destination in &record.destinations {
        all.merge(verify_copy(node, &record.manifest, destination, depth, job).await?);
    }
    let state = if all.is_red() { BackupState::Failed } else { BackupState::Verified };
    if state == BackupState::Failed
        || record.state == BackupState::Stored
        || record.state == BackupState::Verified
    {
        node.catalog.set_backup_state(id, state, job.now()).await?;
    }
    Ok(all)
}

async fn verify_copy(
    node: &Node,
    manifest: &crate::domain::manifest::Manifest,
    destination: &DestinationName,
    depth: Depth,
    job: &JobContext,
) -> Result<Verification> {
    let storage = node.storage(destination)?;
    match depth {
        Depth::Stored => verify_stored(manifest, storage, job).await,
        Depth::Decoded => verify_decoded(manifest, storage, Arc::new(node.identities()?), job).await,
    }
}

/// The read-back right after a backup: anything red is an error.
pub(super) async fn read_back(node: &Node, id: &BackupId, job: &JobContext) -> Result<()> {
    let found = verify_backup(node, id, Depth::Stored, job).await?;
    match found.failures().next() {
        None => Ok(()),
        Some(check) => Err(Error::new(ErrorKind::Corrupt, "read back what was stored")
            .with("backup", id)
            .with("check", &check.name)
            .why(format!("expected {}, found {}", check.expected, check.actual))
            .hint("the destination returns other bytes than it was given: do not trust it, and take the backup elsewhere")),
    }
}
