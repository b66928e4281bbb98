//! What is held and must be given back, as rows: leases on servers, and the ledger of sandboxes.

use rusqlite::{Row, Transaction, named_params, params};

use super::row::{all, column, execute, from_json, from_word, instant, json, maybe_word, word};
use crate::catalog::{HeldLease, LedgerEntry, Resource};
use crate::domain::Timestamp;
use crate::domain::backup::{Lease, LeaseScope};
use crate::domain::id::RunId;
use crate::domain::run::{Owner, RunState};
use crate::error::{Error, ErrorKind, Result};

/// State and id of another run that holds the lease.
fn other_holder(tx: &Transaction<'_>, run: &RunId, lease: &Lease) -> Result<Option<(RunId, RunState)>> {
    let holders = all(
        tx,
        "SELECT r.id, r.state FROM lease l JOIN run r ON r.id = l.run
         WHERE l.system = ?1 AND l.kind = ?2 AND l.name = ?3 AND r.id <> ?4",
        [lease.system.as_str(), &lease.kind, &lease.name, run.as_str()],
        |row| Ok((from_word(row, "id")?, from_word(row, "state")?)),
    )?;
    Ok(holders.into_iter().next())
}

pub(super) fn record_lease(tx: &Transaction<'_>, run: &RunId, lease: &Lease, at: Timestamp) -> Result<()> {
    super::runs::get(tx, run)?;
    if let Some((holder, state)) = other_holder(tx, run, lease)?
        && matches!(state, RunState::Running | RunState::Paused)
    {
        return Err(Error::new(ErrorKind::Conflict, "record lease")
            .with("lease", &lease.name)
            .with("held by run", holder)
            .with("state", state)
            .hint("wait for that run, or end it: `lifeboat runs` shows it"));
    }
    execute(
        tx,
        "record lease",
        "INSERT INTO lease (system, kind, name, scope, run, since)
         VALUES (:system, :kind, :name, :scope, :run, :since)
         ON CONFLICT (system, kind, name) DO UPDATE SET scope = excluded.scope, run = excluded.run",
        named_params! {
            ":system": lease.system.as_str(),
            ":kind": lease.kind,
            ":name": lease.name,
            ":scope": word(&lease.scope)?,
            ":run": run.as_str(),
            ":since": instant(at),
        },
    )?;
    Ok(())
}

pub(super) fn keep_lease(tx: &Transaction<'_>, lease: &Lease) -> Result<()> {
    match lease.scope {
        LeaseScope::Chain => {}
        LeaseScope::Run => {
            return Err(Error::new(ErrorKind::Conflict, "keep a lease that ends with its run")
                .with("lease", &lease.name));
        }
    }
    let kept = execute(
        tx,
        "keep lease",
        "UPDATE lease SET run = NULL WHERE system = ?1 AND kind = ?2 AND name = ?3",
        [lease.system.as_str(), &lease.kind, &lease.name],
    )?;
    if kept == 0 {
        return Err(Error::new(ErrorKind::NotFound, "keep lease").with("lease", &lease.name));
    }
    Ok(())
}

pub(super) fn clear_lease(tx: &Transaction<'_>, lease: &Lease) -> Result<()> {
    execute(
        tx,
        "clear lease",
        "DELETE FROM lease WHERE system = ?1 AND kind = ?2 AND name = ?3",
        [lease.system.as_str(), &lease.kind, &lease.name],
    )?;
    Ok(())
}

pub(super) fn leases(tx: &Transaction<'_>) -> Result<Vec<HeldLease>> {
    let read = |row: &Row<'_>| {
        Ok(HeldLease {
            lease: Lease {
                system: from_word(row, "system")?,
                kind: column(row, "kind")?,
                name: column(row, "name")?,
                scope: from_word(row, "scope")?,
            },
            run: maybe_word(row, "run")?,
            since: from_word(row, "since")?,
        })
    };
    all(tx, "SELECT * FROM lease ORDER BY since, system, kind, name", [], read)
}

pub(super) fn record_resource(
    tx: &Transaction<'_>,
    run: &RunId,
    owner: &Owner,
    resource: &Resource,
    at: Timestamp,
) -> Result<i64> {
    execute(
        tx,
        "record resource",
        "INSERT INTO resource (run, owner, resource, since) VALUES (?1, ?2, ?3, ?4)",
        params![run.as_str(), json(owner)?, json(resource)?, instant(at)],
    )?;
    Ok(tx.last_insert_rowid())
}

pub(super) fn clear_resource(tx: &Transaction<'_>, id: i64) -> Result<()> {
    execute(tx, "clear resource", "DELETE FROM resource WHERE id = ?1", [id])?;
    Ok(())
}

pub(super) fn resources(tx: &Transaction<'_>) -> Result<Vec<LedgerEntry>> {
    let read = |row: &Row<'_>| {
        Ok(LedgerEntry {
            id: column(row, "id")?,
            run: from_word(row, "run")?,
            owner: from_json(row, "owner")?,
            resource: from_json(row, "resource")?,
            since: from_word(row, "since")?,
        })
    };
    all(tx, "SELECT * FROM resource ORDER BY id", [], read)
}
