//! Runs and their journals as rows. Owns fencing: nothing changes for a holder whose epoch is not the newest.

use rusqlite::{Row, Transaction, named_params, params};

use super::Db;
use super::row::{all, column, execute, from_json, from_word, instant, json, maybe_word, number, word};
use crate::catalog::{NewRun, RunEnd};
use crate::domain::Timestamp;
use crate::domain::id::{RunId, SystemName};
use crate::domain::run::{JournalRecord, Owner, RunEvent, RunRecord, RunState};
use crate::error::{Error, ErrorKind, Result};

const FIRST_EPOCH: u32 = 1;

pub(super) fn open(tx: &Transaction<'_>, run: &NewRun) -> Result<()> {
    let known = execute(
        tx,
        "open run",
        "INSERT INTO run (id, kind, system, subject, state, started_at, owner, epoch, detail)
         VALUES (:id, :kind, :system, :subject, :state, :started_at, :owner, :epoch, :detail)
         ON CONFLICT (id) DO NOTHING",
        named_params! {
            ":id": run.id.as_str(),
            ":kind": run.kind.as_str(),
            ":system": run.system.as_ref().map(SystemName::as_str),
            ":subject": run.subject,
            ":state": RunState::Running.as_str(),
            ":started_at": instant(run.started_at),
            ":owner": json(&run.owner)?,
            ":epoch": FIRST_EPOCH,
            ":detail": json(&run.detail)?,
        },
    )?;
    if known == 0 {
        return Err(Error::new(ErrorKind::Conflict, "open a run twice").with("run", &run.id));
    }
    Ok(())
}

fn record(row: &Row<'_>) -> Result<RunRecord> {
    Ok(RunRecord {
        id: from_word(row, "id")?,
        kind: from_word(row, "kind")?,
        system: maybe_word(row, "system")?,
        subject: column(row, "subject")?,
        state: from_word(row, "state")?,
        started_at: from_word(row, "started_at")?,
        finished_at: maybe_word(row, "finished_at")?,
        owner: from_json(row, "owner")?,
        epoch: column(row, "epoch")?,
        verdict: maybe_word(row, "verdict")?,
        level: maybe_word(row, "level")?,
        error: column(row, "error")?,
        detail: from_json(row, "detail")?,
    })
}

pub(super) fn get(tx: &Transaction<'_>, id: &RunId) -> Result<RunRecord> {
    all(tx, "SELECT * FROM run WHERE id = ?1", [id.as_str()], record)?.pop().ok_or_else(|| unknown(id))
}

pub(super) fn newest(tx: &Transaction<'_>, limit: u32) -> Result<Vec<RunRecord>> {
    all(tx, "SELECT * FROM run ORDER BY started_at DESC, rowid DESC LIMIT ?1", [limit], record)
}

pub(super) fn unfinished(tx: &Transaction<'_>) -> Result<Vec<RunRecord>> {
    all(tx, "SELECT * FROM run WHERE finished_at IS NULL ORDER BY started_at, rowid", [], record)
}

fn unknown(id: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, "find run").with("run", id).hint("`lifeboat runs` lists every run")
}

/// State of a run that `epoch` still holds.
fn held(tx: &Transaction<'_>, op: &'static str, id: &RunId, epoch: u32) -> Result<RunState> {
    let (state, newest) = standing(tx, id)?;
    if newest != epoch {
        return Err(Error::new(ErrorKind::Conflict, op)
            .with("run", id)
            .with("epoch", epoch)
            .with("newest epoch", newest)
            .why("another process has taken the run over")
            .hint("`lifeboat runs` shows who carries it now"));
    }
    Ok(state)
}

fn standing(tx: &Transaction<'_>, id: &RunId) -> Result<(RunState, u32)> {
    let read = |row: &Row<'_>| Ok((from_word(row, "state")?, column(row, "epoch")?));
    all(tx, "SELECT state, epoch FROM run WHERE id = ?1", [id.as_str()], read)?
        .pop()
        .ok_or_else(|| unknown(id))
}

pub(super) fn adopt(tx: &Transaction<'_>, id: &RunId, seen_epoch: u32, owner: &Owner) -> Result<u32> {
    let state = held(tx, "adopt run", id, seen_epoch)?;
    if state.is_final() {
        return Err(Error::new(ErrorKind::Conflict, "adopt a run that has ended")
            .with("run", id)
            .with("state", state)
            .hint("start a new run"));
    }
    let epoch = seen_epoch + 1;
    execute(
        tx,
        "adopt run",
        "UPDATE run SET owner = ?2, epoch = ?3, state = ?4, verdict = NULL, level = NULL, error = NULL WHERE id = ?1",
        params![id.as_str(), json(owner)?, epoch, RunState::Running.as_str()],
    )?;
    Ok(epoch)
}

pub(super) fn change(
    tx: &Transaction<'_>,
    id: &RunId,
    epoch: u32,
    next: RunState,
    end: &RunEnd,
    at: Timestamp,
) -> Result<()> {
    let now = held(tx, "move run", id, epoch)?;
    if !now.may_become(next) {
        return Err(Error::new(ErrorKind::Conflict, "move run")
            .with("run", id)
            .with("from", now)
            .with("to", next)
            .why("this move is not legal"));
    }
    // what a pause or an interruption said holds until the run goes on or ends with something else to say
    execute(
        tx,
        "move run",
        "UPDATE run SET
            state = :state,
            finished_at = :finished_at,
            verdict = CASE WHEN :goes_on THEN NULL ELSE coalesce(:verdict, verdict) END,
            level = CASE WHEN :goes_on THEN NULL ELSE coalesce(:level, level) END,
            error = CASE WHEN :goes_on THEN NULL ELSE coalesce(:error, error) END,
            detail = coalesce(:detail, detail)
         WHERE id = :id",
        named_params! {
            ":id": id.as_str(),
            ":state": next.as_str(),
            ":finished_at": next.is_final().then(|| instant(at)),
            ":goes_on": next == RunState::Running,
            ":verdict": end.verdict.as_ref().map(word).transpose()?,
            ":level": end.level.as_ref().map(word).transpose()?,
            ":error": end.error,
            ":detail": end.detail.as_ref().map(json).transpose()?,
        },
    )?;
    Ok(())
}

pub(super) fn set_detail(
    tx: &Transaction<'_>,
    id: &RunId,
    epoch: u32,
    detail: &serde_json::Value,
) -> Result<()> {
    held(tx, "set run detail", id, epoch)?;
    execute(
        tx,
        "set run detail",
        "UPDATE run SET detail = ?2 WHERE id = ?1",
        params![id.as_str(), json(detail)?],
    )?;
    Ok(())
}

pub(super) fn append(
    tx: &Transaction<'_>,
    id: &RunId,
    epoch: u32,
    event: &RunEvent,
    at: Timestamp,
) -> Result<u64> {
    held(tx, "append to journal", id, epoch)?;
    let last: Option<i64> = tx
        .query_row("SELECT max(seq) FROM journal WHERE run = ?1", [id.as_str()], |row| row.get(0))
        .or_db("append to journal")?;
    let seq = last.unwrap_or(0) + 1;
    execute(
        tx,
        "append to journal",
        "INSERT INTO journal (run, seq, at, epoch, event) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id.as_str(), seq, instant(at), epoch, json(event)?],
    )?;
    u64::try_from(seq).map_err(|e| Error::bug("number journal record").because(e))
}

pub(super) fn journal(tx: &Transaction<'_>, id: &RunId) -> Result<Vec<JournalRecord>> {
    standing(tx, id)?;
    let read = |row: &Row<'_>| {
        Ok(JournalRecord {
            seq: number(row, "seq")?,
            at: from_word(row, "at")?,
            epoch: column(row, "epoch")?,
            event: from_json(row, "event")?,
        })
    };
    all(tx, "SELECT * FROM journal WHERE run = ?1 ORDER BY seq", [id.as_str()], read)
}
