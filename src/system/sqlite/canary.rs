//! Heartbeat records in a table of their own, `lifeboat_canary`, which no fingerprint counts.

use async_trait::async_trait;
use rusqlite::Connection;

use super::SqliteSystem;
use super::client::{blocking, open_reading, open_writing, sql_error};
use crate::domain::Timestamp;
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::Canary;

pub(super) const CANARY_TABLE: &str = "lifeboat_canary";

#[async_trait]
impl Canary for SqliteSystem {
    async fn write(&self, record: &CanaryRecord, job: &JobContext) -> Result<()> {
        let (path, busy, record) = (self.path().to_path_buf(), self.busy, record.clone());
        blocking("write canary", job, move |brake| {
            let connection = open_writing(&path, busy)?;
            brake.attach(&connection);
            insert(&connection, &record).map_err(|e| sql_error("write canary", &path, e))
        })
        .await
    }

    async fn read(&self, place: &Place, job: &JobContext) -> Result<Vec<CanaryRecord>> {
        let (path, busy) = (self.path_at(place), self.busy);
        blocking("read canaries", job, move |brake| {
            let connection = open_reading(&path, busy)?;
            brake.attach(&connection);
            let rows = select(&connection).map_err(|e| sql_error("read canaries", &path, e))?;
            rows.into_iter().map(|row| parse(row).map_err(|e| e.with("path", path.display()))).collect()
        })
        .await
    }
}

fn insert(connection: &Connection, record: &CanaryRecord) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let written = insert_all(connection, record);
    connection.execute_batch(if written.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    written
}

fn insert_all(connection: &Connection, record: &CanaryRecord) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS lifeboat_canary(\
           seq INTEGER PRIMARY KEY, utc TEXT NOT NULL, mac TEXT NOT NULL)",
    )?;
    connection.execute(
        "INSERT OR REPLACE INTO lifeboat_canary(seq, utc, mac) VALUES (?1, ?2, ?3)",
        (record.seq.cast_signed(), record.utc.to_rfc3339(), &record.mac),
    )?;
    connection.execute(
        "DELETE FROM lifeboat_canary WHERE seq NOT IN (SELECT seq FROM lifeboat_canary ORDER BY seq DESC LIMIT ?1)",
        [i64::try_from(CANARIES_KEPT).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

type RawRecord = (i64, String, String);

fn select(connection: &Connection) -> rusqlite::Result<Vec<RawRecord>> {
    if !connection.table_exists(Some("main"), CANARY_TABLE)? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT seq, utc, mac FROM lifeboat_canary ORDER BY seq")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

fn parse((seq, utc, mac): RawRecord) -> Result<CanaryRecord> {
    let utc: Timestamp =
        utc.parse().map_err(|e| Error::new(ErrorKind::Corrupt, "read canary").with("seq", seq).because(e))?;
    Ok(CanaryRecord { seq: seq.cast_unsigned(), utc, mac })
}
