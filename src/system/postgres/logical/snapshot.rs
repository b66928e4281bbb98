//! One frozen view of one database that several connections and programs share.
//!
//! Tables are locked *before* the snapshot is taken: a TRUNCATE or a rewriting ALTER TABLE that commits between a snapshot
//! and a lock leaves a table that looks empty to the snapshot. The view lasts as long as its [`Snapshot`].

use std::collections::BTreeSet;

use crate::domain::Timestamp;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::{Client, Connector};
use crate::system::postgres::rows::{
    Coverage, Kind, Relation, list_relations, pin_text, quote_ident, quote_literal,
};

/// Tables may come and go while they are being locked; after this many tries whoever runs DDL all the time has to stop.
const ATTEMPTS_MAX: u32 = 5;
/// Tables locked in one statement.
const LOCKS_AT_ONCE: usize = 200;

/// The connection that holds the snapshot and the locks open.
#[derive(Debug)]
pub struct Snapshot {
    pub client: Client,
    pub database: String,
    /// For `SET TRANSACTION SNAPSHOT` and `pg_dump --snapshot`.
    pub id: String,
    /// Nothing that was committed up to here is missing.
    pub at: Timestamp,
    pub lsn: String,
    /// What has content, seen inside the snapshot.
    pub relations: Vec<Relation>,
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// In one text, asked in one message: the statement's time is taken before its snapshot.
const EXPORT: &str = "SELECT pg_export_snapshot() || '|' || extract(epoch FROM statement_timestamp())::text || '|' || \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text";

impl Snapshot {
    pub async fn open(
        connector: &Connector,
        place: &Place,
        database: &str,
        job: &JobContext,
    ) -> Result<Self> {
        let client = connector.connect(place, database, job).await?;
        for _ in 0..ATTEMPTS_MAX {
            let before = list_relations(&client, Coverage::Portable, job).await?;
            client.execute_all(job, "begin snapshot", BEGIN).await?;
            match lock(&client, &before, job).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    client.execute_all(job, "begin again", "ROLLBACK").await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let (id, at, lsn) = export(&client, job).await?;
            let relations = list_relations(&client, Coverage::Portable, job).await?;
            let locked: BTreeSet<u32> = before.iter().map(|r| r.oid).collect();
            if relations.iter().all(|r| locked.contains(&r.oid)) {
                return Ok(Self { client, database: database.to_owned(), id, at, lsn, relations });
            }
            client.execute_all(job, "begin again", "ROLLBACK").await?;
        }
        Err(Error::new(ErrorKind::Conflict, "freeze a view of the database")
            .with("database", database)
            .with("attempts", ATTEMPTS_MAX)
            .why("tables are created or dropped all the time")
            .hint("take the backup when no schema changes are running"))
    }

    pub fn tables(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter().filter(|r| r.kind == Kind::Table)
    }

    /// Another connection that sees the same, and holds locks of its own so that nobody can queue before it.
    pub async fn join(&self, connector: &Connector, place: &Place, job: &JobContext) -> Result<Client> {
        let client = connector.connect(place, &self.database, job).await?;
        let begin = format!("{BEGIN}; SET TRANSACTION SNAPSHOT {}", quote_literal(&self.id).trim());
        client.execute_all(job, "share snapshot", &begin).await?;
        lock(&client, &self.relations, job).await?;
        pin_text(&client, job).await?;
        Ok(client)
    }
}

async fn lock(client: &Client, relations: &[Relation], job: &JobContext) -> Result<()> {
    let tables: Vec<&Relation> = relations.iter().filter(|r| r.kind == Kind::Table).collect();
    for group in tables.chunks(LOCKS_AT_ONCE) {
        let names: Vec<String> = group.iter().map(|r| format!("ONLY {}", r.sql_name())).collect();
        let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        client.execute_all(job, "lock tables for reading", &sql).await?;
    }
    Ok(())
}

async fn export(client: &Client, job: &JobContext) -> Result<(String, Timestamp, String)> {
    let answer = client.text(job, "export snapshot", EXPORT).await?.unwrap_or_default();
    let bug = || Error::bug("read exported snapshot").with("answer", &answer);
    let mut fields = answer.split('|');
    let (id, epoch, lsn) = (fields.next(), fields.next(), fields.next());
    let (Some(id), Some(epoch), Some(lsn)) = (id, epoch, lsn) else {
        return Err(bug());
    };
    let seconds: f64 = epoch.parse().map_err(|_| bug())?;
    #[expect(clippy::cast_possible_truncation, reason = "microseconds since 1970 fit for 290000 years")]
    let at = Timestamp::from_timestamp_micros((seconds * 1e6) as i64).ok_or_else(bug)?;
    Ok((id.to_owned(), at, lsn.to_owned()))
}

/// `"name"` with the word before it, for statements about databases.
pub fn database_sql(name: &str) -> String {
    format!("DATABASE {}", quote_ident(name))
}
