//! Takes a logical backup: plans it, freezes every database at nearly the same instant, and copies them one by one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;

use super::data::{PartJob, write_large_objects, write_sequences};
use super::dump::{Database, Tools, write_text};
use super::snapshot::Snapshot;
use super::toc::{DatabaseToc, File, PartToc, TOC, TableToc, Toc, part_file};
use super::{CONNECTIONS_MAX, DatabaseDetail, Detail, Logical, losses};
use crate::domain::backup::{
    BackupKind, BackupPlan, BackupRequest, Captured, Digest, Fingerprint, Position, Watermark,
    WatermarkSource,
};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::BackupSink;
use crate::system::postgres::client::Client;
use crate::system::postgres::rows::{
    ALGORITHM, CANARY_SCHEMA, LARGE_OBJECTS, Relation, RowSum, database_key, pin_text, read_sequences,
};
use crate::system::postgres::settings::Method;

/// A table is cut so that no part is much larger, and several connections can share a big one.
const PART_BYTES: u64 = if cfg!(test) { 64 * 1024 } else { 64 * 1024 * 1024 };
const PARTS_MAX: u64 = 4096;
/// Oldest server whose catalog is understood.
const MAJOR_MIN: u32 = 12;

const DATABASES: &str = "SELECT datname::text FROM pg_database \
    WHERE datallowconn AND datname NOT IN ('template0', 'template1') ORDER BY oid";
const TABLE_BYTES: &str = "SELECT COALESCE(sum(pg_table_size(c.oid)), 0)::bigint FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

/// What came of one database.
struct Copied {
    toc: DatabaseToc,
    detail: DatabaseDetail,
    items: BTreeMap<String, Digest>,
    notes: Vec<String>,
}

impl Logical<'_> {
    pub async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        let client = self.maintenance(job).await?;
        let mut notes = Vec::new();
        match request.kind {
            BackupKind::Full => {}
            BackupKind::Incremental | BackupKind::Differential => notes.push(format!(
                "{} asked for, full taken: a logical backup always holds everything",
                request.kind
            )),
        }
        let databases = self.databases(&client, job).await?;
        let mut bytes = 0;
        for database in &databases {
            let client = self.connector.connect(&Place::Production, database, job).await?;
            let row = client.row(job, "estimate size", TABLE_BYTES, &[]).await?;
            bytes += u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        }
        Ok(BackupPlan {
            id: request.id.clone(),
            kind: BackupKind::Full,
            parent: None,
            leases: Vec::new(),
            bytes_estimate: Some(bytes),
            notes,
            detail: serde_json::json!({ "databases": databases }),
        })
    }

    async fn maintenance(&self, job: &JobContext) -> Result<Client> {
        let database = &self.settings.database;
        let client = self.connector.connect(&Place::Production, database, job).await?;
        if client.major() < MAJOR_MIN {
            return Err(Error::new(ErrorKind::Unsupported, "back up this server")
                .with("version", client.version_text())
                .hint("PostgreSQL 12 or newer is needed"));
        }
        Ok(client)
    }

    /// Those in the settings, each of which must exist; else every one that can be connected to.
    async fn databases(&self, client: &Client, job: &JobContext) -> Result<Vec<String>> {
        let rows = client.rows(job, "list databases", DATABASES, &[]).await?;
        let all: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
        if self.settings.databases.is_empty() {
            return Ok(all);
        }
        let missing = self.settings.databases.iter().find(|d| !all.contains(d));
        match missing {
            None => Ok(self.settings.databases.clone()),
            Some(name) => Err(Error::new(ErrorKind::NotFound, "back up database")
                .with("database", name)
                .hint("correct `databases` in the settings of this system")),
        }
    }

    /// On any error nothing of the backup may be used; nothing is left on the server.
    pub async fn backup(
        &self,
        plan: &BackupPlan,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        job.progress().set_total(plan.bytes_estimate.unwrap_or(0));
        job.progress().set_phase("snapshot");
        let place = Place::Production;
        let client = self.maintenance(job).await?;
        let tools = Tools {
            settings: self.settings,
            connector: self.connector,
            place: &place,
            major: client.major(),
        };
        let mut notes = plan.notes.clone();
        let mut snapshots = Vec::new();
        for database in self.databases(&client, job).await? {
            snapshots.push(Snapshot::open(self.connector, &place, &database, job).await?);
        }
        notes.extend(tools.globals(&client, sink, job).await?);
        notes.extend(self.server_notes(&client, job).await?);
        let first = snapshots
            .iter()
            .map(|s| (s.at, s.lsn.clone()))
            .min()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "find a database to back up"))?;
        if snapshots.len() > 1 {
            notes.push("each database is consistent in itself; their snapshots follow each other".to_owned());
        }
        job.progress().set_phase("copy");
        let mut fingerprint =
            Fingerprint { algorithm: ALGORITHM.to_owned(), unit: "rows".to_owned(), items: BTreeMap::new() };
        let (mut tocs, mut detail) = (Vec::new(), self.detail(&client, job).await?);
        for snapshot in snapshots {
            let copied = self.copy(&snapshot, tools, sink, job).await?;
            let name = copied.toc.name.clone();
            let keyed = copied.items.into_iter().map(|(item, d)| (database_key(&name, &item), d));
            fingerprint.items.extend(keyed);
            tocs.push(copied.toc);
            detail.databases.push(copied.detail);
            notes.extend(copied.notes);
        }
        let toc = Toc::new(client.version_text().to_owned(), tocs);
        let text = serde_json::to_string_pretty(&toc)
            .map_err(|e| Error::bug("write table of contents").because(e))?;
        write_text(sink, TOC, text, job).await?;
        Ok(Captured {
            method: Method::Logical.as_str().to_owned(),
            server_version: client.version_text().to_owned(),
            position: Position { start: None, end: first.1 },
            captured_at: first.0,
            watermark: Some(Watermark { at: first.0, source: WatermarkSource::Clock }),
            fingerprint,
            detail: serde_json::to_value(detail).map_err(|e| Error::bug("write detail").because(e))?,
            notes,
        })
    }

    async fn server_notes(&self, client: &Client, job: &JobContext) -> Result<Vec<String>> {
        let mut notes = losses::of_server(client, job).await?;
        match self.connector.connect(&Place::Production, "template1", job).await {
            Ok(template) => notes.extend(losses::of_template(&template, job).await?),
            Err(error) => notes.push(format!("template1 was not looked at: {error}")),
        }
        Ok(notes)
    }

    async fn detail(&self, client: &Client, job: &JobContext) -> Result<Detail> {
        let roles = "SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1";
        let spaces = "SELECT spcname::text FROM pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1";
        let names = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|r| r.get(0)).collect();
        Ok(Detail {
            major: client.major(),
            databases: Vec::new(),
            roles: names(client.rows(job, "list roles", roles, &[]).await?),
            tablespaces: names(client.rows(job, "list tablespaces", spaces, &[]).await?),
        })
    }

    /// Definitions, rows, sequences and large objects of one database, all at once.
    async fn copy(
        &self,
        snapshot: &Snapshot,
        tools: Tools<'_>,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Copied> {
        pin_text(&snapshot.client, job).await?;
        let database = Database::read(&snapshot.client, job).await?;
        let workers = job.workers().cores().clamp(1, CONNECTIONS_MAX);
        let joins = (0..workers).map(|_| snapshot.join(self.connector, tools.place, job));
        let clients = try_join_all(joins).await?;
        let (tables, pre, post, rest) = futures_util::future::try_join4(
            copy_tables(snapshot, &database, &clients, sink, job),
            tools.section(snapshot, &database, File::Pre, sink, job),
            tools.section(snapshot, &database, File::Post, sink, job),
            copy_rest(snapshot, &database, sink, job),
        )
        .await
        .map_err(|e| e.during(format!("back up database {}", database.name)))?;
        let ((), ()) = (pre, post);
        let (mut items, large_objects, objects) = rest;
        let fingerprinted = tables.iter().filter(|t| t.schema != CANARY_SCHEMA);
        items.extend(fingerprinted.map(|t| (t.item(), t.digest())));
        let mut notes = losses::of_database(&snapshot.client, &database.name, job).await?;
        notes.sort();
        let detail = DatabaseDetail {
            name: database.name.clone(),
            bytes: snapshot.tables().map(|t| t.bytes).sum(),
            lsn: snapshot.lsn.clone(),
            tables: tables.len() as u64,
            objects,
        };
        let toc = DatabaseToc {
            oid: database.oid,
            name: database.name,
            encoding: database.encoding,
            create: database.create,
            tables,
            sequences: (snapshot.relations.len() - snapshot.tables().count()) as u64,
            large_objects,
        };
        Ok(Copied { toc, detail, items, notes })
    }
}

type Rest = (BTreeMap<String, Digest>, u64, BTreeMap<String, Digest>);

/// What the connection that holds the snapshot does meanwhile.
async fn copy_rest(
    snapshot: &Snapshot,
    database: &Database,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<Rest> {
    let (client, oid) = (&snapshot.client, database.oid);
    let create = format!("{}\n", database.create);
    write_text(sink, &File::Create.of(oid), create, job).await?;
    let properties = format!("{}\n", database.properties);
    write_text(sink, &File::Properties.of(oid), properties, job).await?;
    // sequences know no snapshot: read after it, they are never behind the rows
    let states = read_sequences(client, &snapshot.relations, job).await?;
    write_sequences(oid, &states, sink, job).await?;
    let mut items: BTreeMap<String, Digest> = states
        .iter()
        .filter(|(r, _)| r.schema != CANARY_SCHEMA)
        .map(|(r, s)| (r.item(), s.digest()))
        .collect();
    let large = write_large_objects(client, oid, sink, job).await?;
    let count = large.as_ref().map_or(0, |d| d.count);
    if let Some(digest) = large {
        items.insert(LARGE_OBJECTS.to_owned(), digest);
    }
    Ok((items, count, losses::objects(client, job).await?))
}

/// Every table, its parts shared between the connections, the largest first.
async fn copy_tables(
    snapshot: &Snapshot,
    database: &Database,
    clients: &[Client],
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<Vec<TableToc>> {
    let mut jobs: Vec<(u64, PartJob<'_>)> = Vec::new();
    for relation in snapshot.tables() {
        let parts = relation.parts(PART_BYTES, PARTS_MAX);
        let each = relation.bytes / parts.len() as u64;
        jobs.extend(parts.into_iter().enumerate().map(|(n, part)| {
            let file = part_file(database.oid, relation.oid, n + 1);
            let encoding = database.encoding.as_str();
            (each, PartJob { relation, part, file, encoding })
        }));
    }
    // taken from the end: large parts first, and the parts of a table in their order
    jobs.reverse();
    jobs.sort_by_key(|(bytes, _)| *bytes);
    let queue = Mutex::new(jobs);
    let done: Mutex<BTreeMap<u32, (Vec<PartToc>, RowSum)>> = Mutex::default();
    let work = clients.iter().map(|client| async {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((_, part)) = next else { return Ok(()) };
            let (toc, sum) = part.run(client, sink, job).await?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = done.entry(part.relation.oid).or_default();
            entry.0.push(toc);
            entry.1 = entry.1.plus(sum);
        }
    });
    try_join_all(work).await.map(drop)?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    snapshot
        .tables()
        .map(|relation| {
            let (parts, sum) = done
                .remove(&relation.oid)
                .ok_or_else(|| Error::bug("find the copied table").with("table", relation.readable_name()))?;
            Ok(table_toc(relation, parts, sum))
        })
        .collect()
}

fn table_toc(relation: &Relation, mut parts: Vec<PartToc>, sum: RowSum) -> TableToc {
    parts.sort_by(|a, b| a.file.cmp(&b.file));
    let digest = sum.digest();
    TableToc {
        oid: relation.oid,
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        columns: relation.columns.clone(),
        rows: digest.count,
        hash: digest.hash,
        parts,
    }
}
