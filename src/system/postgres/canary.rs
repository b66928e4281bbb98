//! Heartbeat records and application queries over SQL.
//!
//! The heartbeat lives in `lifeboat.canary` of the maintenance database. Row fingerprints leave that schema out. The time
//! is kept as the very text that was signed: a timestamp column would round it.

use async_trait::async_trait;

use super::Postgres;
use super::client::Client;
use super::rows::quote_ident;
use crate::domain::Timestamp;
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{Canary, Queries};

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS lifeboat; \
    CREATE TABLE IF NOT EXISTS lifeboat.canary \
    (seq bigint PRIMARY KEY, utc text NOT NULL, mac text NOT NULL); \
    COMMENT ON TABLE lifeboat.canary IS 'heartbeat of the backup system lifeboat: shows how new a restored copy is'";

/// One statement, so one transaction: a heartbeat is there whole or not at all.
const WRITE: &str = "WITH old AS (DELETE FROM lifeboat.canary WHERE seq <= $1::int8 - $4::int8) \
    INSERT INTO lifeboat.canary (seq, utc, mac) VALUES ($1::int8, $2, $3) \
    ON CONFLICT (seq) DO UPDATE SET utc = EXCLUDED.utc, mac = EXCLUDED.mac";

const EXISTS: &str = "SELECT to_regclass('lifeboat.canary') IS NOT NULL";

async fn exists(client: &Client, job: &JobContext) -> Result<bool> {
    Ok(client.row(job, "look for heartbeat table", EXISTS, &[]).await?.get(0))
}

#[async_trait]
impl Canary for Postgres {
    async fn write(&self, record: &CanaryRecord, job: &JobContext) -> Result<()> {
        let client = self.connector.connect(&Place::Production, &self.settings.database, job).await?;
        let op = "write heartbeat";
        if !exists(&client, job).await? {
            client.execute_all(job, op, CREATE).await.map_err(|e| {
                e.hint("the user needs CREATE on the maintenance database, once, or turn the canary off")
            })?;
        }
        let number = |n: u64| i64::try_from(n).map_err(|e| Error::bug(op).because(e));
        let (seq, kept) = (number(record.seq)?, number(CANARIES_KEPT as u64)?);
        client.execute_all(job, op, "SET synchronous_commit = on").await?;
        client.rows(job, op, WRITE, &[&seq, &record.utc.to_rfc3339(), &record.mac, &kept]).await.map(drop)
    }

    async fn read(&self, place: &Place, job: &JobContext) -> Result<Vec<CanaryRecord>> {
        let client = self.connector.connect(place, &self.settings.database, job).await?;
        if !exists(&client, job).await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT seq, utc, mac FROM lifeboat.canary ORDER BY seq";
        let mut records = Vec::new();
        for row in client.rows(job, "read heartbeats", sql, &[]).await? {
            let utc: &str = row.get(1);
            let utc: Timestamp = utc.parse().map_err(|e: chrono::ParseError| {
                Error::new(ErrorKind::Corrupt, "read heartbeat").with("utc", utc).because(e)
            })?;
            records.push(CanaryRecord {
                seq: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                utc,
                mac: row.get(2),
            });
        }
        Ok(records)
    }
}

#[async_trait]
impl Queries for Postgres {
    /// SQL; `@name ` in front asks another database than the configured one, `@"a name" ` one whose name needs quoting.
    /// Nothing can be written.
    async fn ask(&self, place: &Place, query: &str, job: &JobContext) -> Result<String> {
        let (database, sql) = split_database(query)?;
        let database = database.unwrap_or_else(|| self.settings.database.clone());
        let client = self.connector.connect(place, &database, job).await?;
        let op = "ask";
        client.execute_all(job, op, "SET default_transaction_read_only = on").await?;
        let answer = client.text(job, op, sql).await?;
        answer.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, op)
                .with("database", quote_ident(&database))
                .why("the query answered no row, or NULL")
        })
    }
}

fn split_database(query: &str) -> Result<(Option<String>, &str)> {
    let bad = || {
        Error::new(ErrorKind::Config, "read query")
            .why("after @ a database name and a blank are expected")
            .hint("write @name SELECT ..., or @\"a name\" SELECT ...")
    };
    let Some(rest) = query.trim_start().strip_prefix('@') else {
        return Ok((None, query));
    };
    let Some(quoted) = rest.strip_prefix('"') else {
        let (name, sql) = rest.split_once(char::is_whitespace).ok_or_else(bad)?;
        return Ok((Some(name.to_owned()), sql));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return Ok((Some(name), &quoted[at + 1..]));
        }
    }
    Err(bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_name_its_database() {
        assert_eq!(split_database("SELECT 1").unwrap(), (None, "SELECT 1"));
        assert_eq!(split_database("@shop SELECT 1").unwrap(), (Some("shop".to_owned()), "SELECT 1"));
        let (name, sql) = split_database("@\"a \"\"b\" SELECT 1").unwrap();
        assert_eq!((name.unwrap().as_str(), sql.trim()), ("a \"b", "SELECT 1"));
        assert!(split_database("@shop").is_err());
    }
}
