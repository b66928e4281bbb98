//! Canaries as rows: the number given last per system, and which records the source acknowledged.

use rusqlite::{Transaction, params};

use super::Db;
use super::row::{execute, instant, number, signed};
use crate::domain::Timestamp;
use crate::domain::canary::CanaryRecord;
use crate::domain::id::SystemName;
use crate::error::Result;

/// Of a system, the newest acknowledged records that are remembered. A loss that reaches further back is counted as at
/// least this many.
const REMEMBERED_MAX: i64 = 100_000;

pub(super) fn next(tx: &Transaction<'_>, system: &SystemName) -> Result<u64> {
    tx.prepare_cached(
        "INSERT INTO canary_counter (system, last) VALUES (?1, 1)
         ON CONFLICT (system) DO UPDATE SET last = last + 1 RETURNING last",
    )
    .or_db("number canary")?
    .query_row([system.as_str()], |row| Ok(number(row, "last")))
    .or_db("number canary")?
}

pub(super) fn written(tx: &Transaction<'_>, system: &SystemName, record: &CanaryRecord) -> Result<()> {
    let (system, seq) = (system.as_str(), signed(record.seq)?);
    let op = "record canary";
    execute(
        tx,
        op,
        "INSERT INTO canary (system, seq, utc) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![system, seq, instant(record.utc)],
    )?;
    execute(
        tx,
        op,
        "INSERT INTO canary_counter (system, last) VALUES (?1, ?2)
         ON CONFLICT (system) DO UPDATE SET last = max(last, excluded.last)",
        params![system, seq],
    )?;
    execute(
        tx,
        op,
        "DELETE FROM canary WHERE system = ?1 AND seq <= ?2",
        params![system, seq - REMEMBERED_MAX],
    )?;
    Ok(())
}

pub(super) fn after(tx: &Transaction<'_>, system: &SystemName, seq: u64, until: Timestamp) -> Result<u64> {
    tx.prepare_cached("SELECT count(*) AS lost FROM canary WHERE system = ?1 AND seq > ?2 AND utc <= ?3")
        .or_db("count canaries")?
        .query_row(params![system.as_str(), signed(seq)?, instant(until)], |row| Ok(number(row, "lost")))
        .or_db("count canaries")?
}
