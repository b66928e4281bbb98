//! Backups and their copies as rows. Owns which knowledge about a backup outlives a new commit of it.

use rusqlite::{Row, Transaction, named_params, params};

use super::row::{all, column, execute, from_json, from_word, instant, json, maybe_word};
use crate::catalog::{BackupQuery, BackupRecord, Proof};
use crate::domain::Timestamp;
use crate::domain::backup::BackupState;
use crate::domain::id::{BackupId, DestinationName, SystemName};
use crate::domain::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};

/// Destinations in order of their names, so that a rebuilt catalog equals the lost one.
const SELECT: &str = "SELECT b.*,
        (SELECT json_group_array(c.destination ORDER BY c.destination) FROM copy c WHERE c.backup = b.id)
        AS destinations
    FROM backup b";

fn record(row: &Row<'_>) -> Result<BackupRecord> {
    let proof: Option<String> = column(row, "proof")?;
    Ok(BackupRecord {
        manifest: from_json(row, "manifest")?,
        state: from_word(row, "state")?,
        destinations: from_json(row, "destinations")?,
        verified_at: maybe_word(row, "verified_at")?,
        proof: match proof {
            Some(_) => Some(from_json(row, "proof")?),
            None => None,
        },
    })
}

pub(super) fn get(tx: &Transaction<'_>, id: &BackupId) -> Result<BackupRecord> {
    find(tx, id)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "find backup").with("backup", id).hint(
            "`lifeboat list` lists every backup; `lifeboat catalog rebuild` reads the destinations anew",
        )
    })
}

fn find(tx: &Transaction<'_>, id: &BackupId) -> Result<Option<BackupRecord>> {
    Ok(all(tx, &format!("{SELECT} WHERE b.id = ?1"), [id.as_str()], record)?.pop())
}

pub(super) fn list(tx: &Transaction<'_>, query: &BackupQuery) -> Result<Vec<BackupRecord>> {
    let system = query.system.as_ref().map(SystemName::as_str);
    // a negative limit is none
    let limit = query.limit.map_or(-1, i64::from);
    all(
        tx,
        &format!("{SELECT} WHERE ?1 IS NULL OR b.system = ?1 ORDER BY b.started_at DESC, b.id DESC LIMIT ?2"),
        params![system, limit],
        record,
    )
}

/// What stays true of a backup that is committed once more, to another destination or again.
fn after_commit(known: BackupState) -> BackupState {
    match known {
        BackupState::Running | BackupState::Stored | BackupState::Expired => BackupState::Stored,
        BackupState::Verified | BackupState::Proven | BackupState::Suspect | BackupState::Failed => known,
    }
}

pub(super) fn commit(tx: &Transaction<'_>, manifest: &Manifest, destination: &DestinationName) -> Result<()> {
    let known = find(tx, &manifest.id)?;
    let state = match &known {
        Some(known) if known.manifest == *manifest => after_commit(known.state),
        Some(_) => {
            forget(tx, &manifest.id)?;
            BackupState::Stored
        }
        None => BackupState::Stored,
    };
    execute(
        tx,
        "commit backup",
        "INSERT INTO backup (id, system, started_at, state, manifest)
         VALUES (:id, :system, :started_at, :state, :manifest)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state",
        named_params! {
            ":id": manifest.id.as_str(),
            ":system": manifest.system.as_str(),
            ":started_at": instant(manifest.started_at),
            ":state": state.as_str(),
            ":manifest": json(manifest)?,
        },
    )?;
    execute(
        tx,
        "commit backup",
        "INSERT INTO copy (backup, destination) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        [manifest.id.as_str(), destination.as_str()],
    )?;
    Ok(())
}

pub(super) fn set_state(tx: &Transaction<'_>, id: &BackupId, next: BackupState, at: Timestamp) -> Result<()> {
    let known = get(tx, id)?;
    let proven = known.state == BackupState::Proven && next == BackupState::Verified;
    let state = if proven { BackupState::Proven } else { next };
    let verified_at = (next == BackupState::Verified).then(|| instant(at));
    execute(
        tx,
        "set backup state",
        "UPDATE backup SET state = ?2, verified_at = coalesce(?3, verified_at) WHERE id = ?1",
        params![id.as_str(), state.as_str(), verified_at],
    )?;
    Ok(())
}

pub(super) fn record_proof(tx: &Transaction<'_>, id: &BackupId, proof: &Proof) -> Result<()> {
    let known = get(tx, id)?.proof;
    if known.is_some_and(|k| k.at > proof.at) {
        return Ok(());
    }
    execute(
        tx,
        "record proof",
        "UPDATE backup SET proof = ?2 WHERE id = ?1",
        params![id.as_str(), json(proof)?],
    )?;
    Ok(())
}

pub(super) fn forget(tx: &Transaction<'_>, id: &BackupId) -> Result<()> {
    execute(tx, "forget backup", "DELETE FROM backup WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn forget_copy(tx: &Transaction<'_>, id: &BackupId, destination: &DestinationName) -> Result<()> {
    execute(
        tx,
        "forget copy",
        "DELETE FROM copy WHERE backup = ?1 AND destination = ?2",
        [id.as_str(), destination.as_str()],
    )?;
    execute(
        tx,
        "forget copy",
        "DELETE FROM backup WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM copy WHERE backup = ?1)",
        [id.as_str()],
    )?;
    Ok(())
}
