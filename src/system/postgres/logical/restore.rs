//! Carries out a planned logical restore into a running server.
//!
//! Order: roles and tablespaces; then per database: create, schema, rows, sequences, large objects, indexes and the rest,
//! statistics, properties. A database's properties come last, since they can keep content from loading, and with them goes
//! the mark that it is unfinished.

use std::io::Write;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::try_join_all;

use super::dump::Tools;
use super::load::{From, SESSION, Wanted};
use super::plan::Wish;
use super::target::{State, Target};
use super::toc::{DatabaseToc, File, TableToc, Toc, artifact};
use super::{CONNECTIONS_MAX, Logical, files, globals, script};
use crate::domain::place::Place;
use crate::domain::restore::{Existing, Phase, RestorePlan, Restored};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::Client;
use crate::system::postgres::rows::quote_ident;
use crate::system::{BackupSource, point};

/// Everything that the steps of one restore share.
#[derive(Clone, Copy)]
struct Work<'a> {
    logical: &'a Logical<'a>,
    target: Target<'a>,
    from: From<'a>,
    admin: &'a Client,
}

/// Time and notes, as they come.
#[derive(Default)]
struct Log {
    restored: Restored,
}

impl Log {
    fn spent(&mut self, phase: &str, since: Instant) {
        let took = since.elapsed();
        match self.restored.phases.iter_mut().find(|p| p.name == phase) {
            Some(known) => known.took += took,
            None => self.restored.phases.push(Phase { name: phase.to_owned(), took }),
        }
    }
}

impl Logical<'_> {
    /// After an error the databases that are not finished carry a comment that says so; repeating the same run replaces them.
    pub async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        if !plan.missing.is_empty() {
            return Err(
                Error::new(ErrorKind::Conflict, "carry out this restore").why(plan.missing.join("; "))
            );
        }
        let manifest = point(&plan.request.chain)?;
        let from = From { source, backup: &manifest.id };
        if let Place::Directory { path } = &plan.request.place {
            return files::restore(plan, manifest, path, source, job).await;
        }
        job.progress().set_total(manifest.raw_bytes());
        let target = Target {
            connector: self.connector,
            place: &plan.request.place,
            run: &plan.request.run,
            existing: plan.request.existing,
        };
        let mut log = Log::default();
        let started = Instant::now();
        let toc = Toc::read(source, &manifest.id, job).await?;
        log.spent("fetch", started);
        let wish = Wish::of(&plan.request.selection)?;
        if let Some(wish) = &wish {
            refuse_unmatched(wish, &toc)?;
        }
        let admin = target.admin(job).await?;
        let work = Work { logical: self, target, from, admin: &admin };
        let started = Instant::now();
        job.progress().set_phase("roles");
        log.restored.notes.extend(globals::restore(&target, from, &admin, job).await?);
        log.spent("load", started);
        for database in &toc.databases {
            match &wish {
                None => work.database(database, None, &mut log, job).await?,
                Some(wish) if wish.wants_database(&database.name) => {
                    work.selection(database, wish, &mut log, job).await?;
                }
                Some(_) => {}
            }
        }
        log.restored.point = Some(manifest.id.clone());
        log.restored.bytes = manifest.raw_bytes();
        log.restored.notes.push("statistics were gathered anew (ANALYZE)".to_owned());
        Ok(log.restored)
    }
}

fn refuse_unmatched(wish: &Wish, toc: &Toc) -> Result<()> {
    let tables: Vec<(&str, &TableToc)> =
        toc.databases.iter().flat_map(|d| d.tables.iter().map(|t| (d.name.as_str(), t))).collect();
    let unmatched = wish.unmatched(&tables);
    if unmatched.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, "find selected tables in the backup")
        .with("patterns", unmatched.join(", "))
        .hint("toc.json of the backup lists its tables"))
}

impl Work<'_> {
    /// One whole database, or its schema with `only` some tables' rows.
    async fn database(
        &self,
        database: &DatabaseToc,
        only: Option<&[&TableToc]>,
        log: &mut Log,
        job: &JobContext,
    ) -> Result<()> {
        let restored = self.fill(database, only, log, job).await;
        restored.map_err(|e| e.during(format!("restore database {}", database.name)))
    }

    async fn fill(
        &self,
        database: &DatabaseToc,
        only: Option<&[&TableToc]>,
        log: &mut Log,
        job: &JobContext,
    ) -> Result<()> {
        let (name, oid) = (&database.name, database.oid);
        let started = Instant::now();
        job.progress().set_phase(format!("schema of {name}"));
        self.target.create(self.admin, name, &database.create, job).await?;
        self.psql(name, &File::Pre.of(oid), job).await?;
        log.spent("load", started);
        let started = Instant::now();
        job.progress().set_phase(format!("rows of {name}"));
        let clients = self.connect(name, job).await?;
        let first = clients.first().ok_or_else(|| Error::bug("connect"))?;
        let all: Vec<&TableToc> = database.tables.iter().collect();
        let (wanted, tables) = match only {
            None => (Wanted::Everything, all.as_slice()),
            Some(only) => (Wanted::IndexesAndKeys, only),
        };
        log.restored.items += self.from.tables(tables, &database.encoding, &clients, job).await?;
        self.from.lines(&File::Sequences.of(oid), first, job).await?;
        if only.is_none() {
            self.from.lines(&File::LargeObjects.of(oid), first, job).await?;
        }
        log.spent("load", started);
        let started = Instant::now();
        job.progress().set_phase(format!("indexes of {name}"));
        self.from.post(&File::Post.of(oid), wanted, &clients, job).await?;
        first.execute_all(job, "gather statistics", "ANALYZE").await?;
        let properties = self.from.text(&File::Properties.of(oid), job).await?;
        for statement in script::statements(&properties) {
            self.admin.execute_all(job, "restore database properties", &statement).await?;
        }
        log.spent("rebuild", started);
        if only.is_some() {
            log.restored.notes.push(format!(
                "database {name} holds its schema and the selected tables only; foreign keys, triggers and rights given \
                 with them were left out"
            ));
        }
        Ok(())
    }

    /// Only some tables: into the existing ones of an existing database, else into a new one with the whole schema.
    async fn selection(
        &self,
        database: &DatabaseToc,
        wish: &Wish,
        log: &mut Log,
        job: &JobContext,
    ) -> Result<()> {
        let tables: Vec<&TableToc> =
            database.tables.iter().filter(|t| wish.wants(&database.name, &t.schema, &t.name)).collect();
        if tables.is_empty() {
            return Ok(());
        }
        match self.target.state(self.admin, &database.name, job).await? {
            State::Absent | State::Ours => {
                return self.database(database, Some(&tables), log, job).await;
            }
            State::Empty | State::Filled(_) => {}
        }
        let started = Instant::now();
        job.progress().set_phase(format!("rows of {}", database.name));
        let clients = self.connect(&database.name, job).await?;
        let first = clients.first().ok_or_else(|| Error::bug("connect"))?;
        for table in &tables {
            self.must_take(table, first, job).await?;
        }
        for table in &tables {
            log.restored.items += self.from.replace(table, &database.encoding, first, job).await?;
            let analyze = format!("ANALYZE {}", table.sql_name());
            first.execute_all(job, "gather statistics", &analyze).await?;
        }
        log.spent("load", started);
        log.restored.notes.push("sequences that feed the selected tables were not touched".to_owned());
        Ok(())
    }

    /// The table must exist with the columns of the backup, and be empty unless it may be replaced.
    async fn must_take(&self, table: &TableToc, client: &Client, job: &JobContext) -> Result<()> {
        let columns: Vec<String> = table.columns.iter().map(|c| quote_ident(c)).collect();
        let probe = format!("SELECT {} FROM ONLY {} LIMIT 1", columns.join(", "), table.sql_name());
        let rows = client.rows(job, "look into table", &probe, &[]).await.map_err(|e| {
            e.during(format!("restore into table {}", table.item())).hint(
                "a single table is restored into an existing one with the same columns; \
                       or restore into a database that does not exist yet, which gets the whole schema",
            )
        })?;
        if !rows.is_empty() && self.target.existing == Existing::Refuse {
            return Err(Error::new(ErrorKind::Conflict, "restore into table")
                .with("table", table.item())
                .why("it holds rows")
                .hint("empty it, or ask for what is there to be replaced"));
        }
        Ok(())
    }

    async fn connect(&self, database: &str, job: &JobContext) -> Result<Vec<Client>> {
        let count = job.workers().cores().clamp(1, CONNECTIONS_MAX);
        let connect = (0..count).map(|_| async {
            let client = self.logical.connector.connect(self.target.place, database, job).await?;
            client.execute_all(job, "prepare connection", SESSION).await?;
            Ok::<_, Error>(client)
        });
        try_join_all(connect).await
    }

    /// Runs an artifact through `psql`, which understands everything that `pg_dump` writes, and reads its exit status.
    async fn psql(&self, database: &str, file: &str, job: &JobContext) -> Result<()> {
        let mut script = tempfile::NamedTempFile::new().or_io("make file", std::env::temp_dir().as_path())?;
        let name = artifact(file)?;
        let mut stream = self.from.source.open(self.from.backup, &name, job).await?;
        while let Some(chunk) = job.run("read artifact", async { stream.next().await.transpose() }).await? {
            job.progress().advance(chunk.len() as u64);
            script = job
                .workers()
                .block("write script", move || {
                    script.write_all(&chunk).or_io("write script", std::env::temp_dir().as_path())?;
                    Ok(script)
                })
                .await?;
        }
        let tools = Tools {
            settings: self.logical.settings,
            connector: self.logical.connector,
            place: self.target.place,
            major: self.admin.major(),
        };
        // not in one transaction: a large schema would need more locks than a server has
        let program = tools
            .program("psql", database)?
            .args(["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f"])
            .arg(script.path());
        program.output(job).await.map(drop).map_err(|e| e.during(format!("load {file}")))
    }
}
