//! Chooses a recovery point: a WAL position that a restore ends at exactly, and what the databases held there.
//!
//! A restore replays every record that begins before the position and stops at the first one at or behind it, so a small
//! record is written behind each position. A snapshot belongs to position `a` when the server inserted nothing between
//! reading `a` and taking the snapshot, and when no transaction that may already have written its commit still holds its
//! id: it would be in the WAL before `a` and yet not visible.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::{Client, Connector, server_error};
use super::lsn::Lsn;
use super::rows::{self, Coverage};
use crate::domain::Timestamp;
use crate::domain::backup::{Fingerprint, Watermark, WatermarkSource};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// A moment without a running writer is looked for this often, and not longer than this.
const QUIET_TRIES_MAX: u32 = 5_000;
const QUIET_TIME_MAX: Duration = Duration::from_secs(20);
/// From this try on there is a pause between tries.
const QUIET_TRIES_EAGER: u32 = 200;
/// Connections that read one database.
const READERS_MAX: usize = 4;

/// A recovery point that is in the WAL.
#[derive(Debug)]
pub struct Point {
    pub lsn: Lsn,
    pub at: Timestamp,
    pub watermark: Watermark,
    /// WAL flushed up to here holds a whole record behind `lsn`.
    pub wal_end: Lsn,
}

/// Connections inside transactions that see exactly the content at a point, per database.
#[derive(Debug)]
pub struct Snapshots {
    databases: Vec<(String, Vec<Client>)>,
}

/// What came of looking for a quiet moment.
#[derive(Debug)]
pub enum Quiet {
    Found(Snapshots),
    /// Why not, for the notes.
    NotFound(String),
}

/// Takes the current position, whatever runs.
pub async fn take(control: &Client, job: &JobContext) -> Result<Point> {
    let at = job.now();
    let lsn = insert_position(control, job).await?;
    mark(control, lsn, at, job).await
}

/// Takes a position at which the content is known exactly, or the current one with the reason why not.
pub async fn take_quiet(connector: &Connector, control: &Client, job: &JobContext) -> Result<(Point, Quiet)> {
    let mut databases = Vec::new();
    for name in databases_to_read(control, job).await? {
        let client = connector.connect(&Place::Production, &name, job).await?;
        databases.push((name, vec![client]));
    }
    let began = tokio::time::Instant::now();
    for attempt in 0..QUIET_TRIES_MAX {
        let at = job.now();
        if let Some(lsn) = try_once(control, &databases, job).await? {
            let point = mark(control, lsn, at, job).await?;
            return Ok((point, Quiet::Found(Snapshots { databases })));
        }
        if began.elapsed() > QUIET_TIME_MAX {
            break;
        }
        if attempt >= QUIET_TRIES_EAGER {
            job.sleep("wait for a quiet moment", Duration::from_millis(u64::from(1 + attempt % 7))).await?;
        }
    }
    let why = "rows were not fingerprinted: no moment without a running write transaction was found";
    Ok((take(control, job).await?, Quiet::NotFound(why.to_owned())))
}

/// Databases whose rows are fingerprinted. Templates are left out: a connection to one blocks CREATE DATABASE.
pub async fn databases_to_read(control: &Client, job: &JobContext) -> Result<Vec<String>> {
    let sql =
        "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname";
    let rows = control.rows(job, "list databases", sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn insert_position(control: &Client, job: &JobContext) -> Result<Lsn> {
    let text = control.text(job, "read WAL position", "SELECT pg_current_wal_insert_lsn()").await?;
    text.unwrap_or_default().parse()
}

/// One try: position, no transaction id held, snapshots, same position. The order is what makes it a proof.
async fn try_once(
    control: &Client,
    databases: &[(String, Vec<Client>)],
    job: &JobContext,
) -> Result<Option<Lsn>> {
    let before = insert_position(control, job).await?;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid'";
    if control.text(job, "look for running transactions", held).await?.as_deref() != Some("0") {
        return Ok(None);
    }
    // the snapshot of the SELECT is taken before the position is read
    let look =
        "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_current_wal_insert_lsn()";
    let looks = databases
        .iter()
        .filter_map(|(_, clients)| clients.first())
        .map(|client| client.text(job, "take snapshot", look));
    for seen in futures_util::future::try_join_all(looks).await? {
        if seen.unwrap_or_default().parse::<Lsn>()? != before {
            return Ok(None);
        }
    }
    Ok(Some(before))
}

/// Writes a small transaction behind `lsn` and waits until it is on the server's disk. `at` is from before `lsn` was read:
/// everything committed until then is included.
async fn mark(control: &Client, lsn: Lsn, at: Timestamp, job: &JobContext) -> Result<Point> {
    let newest = newest_commit(control, job).await?.filter(|newest| newest.at <= at);
    let watermark = newest.unwrap_or(Watermark { at, source: WatermarkSource::Clock });
    let sql = "BEGIN; SET LOCAL synchronous_commit = local; \
        SELECT pg_logical_emit_message(true, 'lifeboat', 'recovery point'); COMMIT";
    control.execute_all(job, "mark recovery point", sql).await?;
    let flushed = control.text(job, "read WAL position", "SELECT pg_current_wal_flush_lsn()").await?;
    let wal_end: Lsn = flushed.unwrap_or_default().parse()?;
    if wal_end <= lsn {
        return Err(Error::new(ErrorKind::Failed, "mark recovery point")
            .with("point", lsn)
            .with("flushed", wal_end)
            .why("the server has not flushed what it has committed"));
    }
    Ok(Point { lsn, at, watermark, wal_end })
}

/// Time of the newest commit, where the server keeps commit times.
pub async fn newest_commit(client: &Client, job: &JobContext) -> Result<Option<Watermark>> {
    let op = "read newest commit time";
    if client.text(job, op, "SHOW track_commit_timestamp").await?.as_deref() != Some("on") {
        return Ok(None);
    }
    let row = client.row(job, op, "SELECT timestamp FROM pg_last_committed_xact()", &[]).await?;
    let at: Option<Timestamp> = row.try_get(0).map_err(|e| server_error(op, e))?;
    Ok(at.map(|at| Watermark { at, source: WatermarkSource::Engine }))
}

impl Snapshots {
    /// Counts and hashes every row of every database. Unlogged tables and the heartbeat's own table are left out.
    /// So are sequences: they know no snapshot and may come back ahead after recovery.
    pub async fn fingerprint(mut self, connector: &Connector, job: &JobContext) -> Result<Fingerprint> {
        let mut items = BTreeMap::new();
        for (name, clients) in &mut self.databases {
            let first = clients.first().ok_or_else(|| Error::bug("read a database without a connection"))?;
            let mut more = Vec::new();
            for _ in 1..job.workers().cores().min(READERS_MAX) {
                more.push(join_snapshot(connector, &Place::Production, name, first, job).await?);
            }
            clients.append(&mut more);
            items.append(&mut digests(name, clients, job).await?);
            // ends the transactions of this database: its old row versions need not be kept any longer
            clients.clear();
        }
        Ok(Fingerprint { algorithm: rows::ALGORITHM.to_owned(), unit: "rows".to_owned(), items })
    }
}

async fn digests(
    database: &str,
    clients: &[Client],
    job: &JobContext,
) -> Result<BTreeMap<String, crate::domain::backup::Digest>> {
    let mut items = rows::digest_database(clients, Coverage::WithoutUnlogged, job).await?;
    items.retain(|name, _| !name.starts_with("sequence:"));
    Ok(items.into_iter().map(|(item, digest)| (rows::database_key(database, &item), digest)).collect())
}

/// A further connection that sees what `first` sees.
async fn join_snapshot(
    connector: &Connector,
    place: &Place,
    database: &str,
    first: &Client,
    job: &JobContext,
) -> Result<Client> {
    let op = "share snapshot";
    let snapshot = first.text(job, op, "SELECT pg_export_snapshot()").await?.unwrap_or_default();
    let client = connector.connect(place, database, job).await?;
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        rows::quote_literal(&snapshot)
    );
    client.execute_all(job, op, &sql).await?;
    Ok(client)
}

/// What a server holds now, in the same words as a captured fingerprint.
pub async fn fingerprint_now(connector: &Connector, place: &Place, job: &JobContext) -> Result<Fingerprint> {
    let control = connector.connect(place, &connector.settings().database, job).await?;
    let mut items = BTreeMap::new();
    for name in databases_to_read(&control, job).await? {
        let first = connector.connect(place, &name, job).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1";
        first.execute_all(job, "begin reading", begin).await?;
        let mut clients = vec![first];
        for _ in 1..job.workers().cores().min(READERS_MAX) {
            let more = join_snapshot(connector, place, &name, &clients[0], job).await?;
            clients.push(more);
        }
        items.append(&mut digests(&name, &clients, job).await?);
    }
    Ok(Fingerprint { algorithm: rows::ALGORITHM.to_owned(), unit: "rows".to_owned(), items })
}
