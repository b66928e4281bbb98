//! Loads artifacts into one database: rows over several connections, statements line by line, indexes in parallel.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};

use super::data::copy_statement;
use super::pieces::RowPieces;
use super::script::{self, Entry};
use super::toc::{PartToc, TableToc, artifact, read_text};
use crate::domain::id::BackupId;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::{Client, server_error};
use crate::system::{BackupSource, ByteStream};

/// Statements that are run together.
const BATCH_BYTES: usize = 256 * 1024;
/// Artifacts from here on are loaded into an emptied table in one transaction, which lets the server skip work.
const FREEZE_BYTES_MIN: u64 = 4 * 1024 * 1024;
const DEADLOCK: &str = "40P01";

/// What every loading connection sets.
pub const SESSION: &str = "SET synchronous_commit = off; SET lc_monetary = 'C'; SET xmloption = 'content'; \
    SET standard_conforming_strings = on; SET check_function_bodies = false; SET client_min_messages = warning";

/// The backup that is read.
#[derive(Clone, Copy)]
pub struct From<'a> {
    pub source: &'a dyn BackupSource,
    pub backup: &'a BackupId,
}

impl std::fmt::Debug for From<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("From").field("backup", self.backup).finish_non_exhaustive()
    }
}

impl From<'_> {
    async fn open(&self, file: &str, job: &JobContext) -> Result<ByteStream> {
        let name = artifact(file)?;
        let open = self.source.open(self.backup, &name, job);
        job.run("open artifact", open).await
    }

    pub async fn text(&self, file: &str, job: &JobContext) -> Result<String> {
        read_text(self.source, self.backup, file, job).await
    }

    /// Loads tables over all `clients`; gives the number of rows.
    pub async fn tables(
        &self,
        tables: &[&TableToc],
        encoding: &str,
        clients: &[Client],
        job: &JobContext,
    ) -> Result<u64> {
        let mut parts: Vec<(&TableToc, &PartToc)> =
            tables.iter().flat_map(|t| t.parts.iter().map(move |p| (*t, p))).collect();
        parts.reverse();
        parts.sort_by_key(|(_, p)| p.bytes);
        let queue = Mutex::new(parts);
        let work = clients.iter().map(|client| async {
            let mut rows = 0;
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((table, part)) = next else {
                    return Ok(rows);
                };
                rows += self.part(table, part, encoding, client, job).await?;
            }
        });
        Ok(try_join_all(work).await?.into_iter().sum())
    }

    async fn part(
        &self,
        table: &TableToc,
        part: &PartToc,
        encoding: &str,
        client: &Client,
        job: &JobContext,
    ) -> Result<u64> {
        let statement = copy_statement(&table.sql_name(), &table.column_list(), encoding);
        if part.rows == 0 {
            return Ok(0);
        }
        if table.parts.len() > 1 || part.bytes < FREEZE_BYTES_MIN {
            return self.copy(table, part, &statement, client, job).await;
        }
        let empty = format!("BEGIN; TRUNCATE TABLE ONLY {}", table.sql_name());
        client.execute_all(job, "empty new table", &empty).await?;
        let frozen = statement.replace("WITH (", "WITH (FREEZE, ");
        let rows = self.copy(table, part, &frozen, client, job).await?;
        client.execute_all(job, "commit rows", "COMMIT").await?;
        Ok(rows)
    }

    /// Replaces the rows of one existing table, all or nothing.
    pub async fn replace(
        &self,
        table: &TableToc,
        encoding: &str,
        client: &Client,
        job: &JobContext,
    ) -> Result<u64> {
        let name = table.sql_name();
        let statement = copy_statement(&name, &table.column_list(), encoding);
        let empty = format!("BEGIN; TRUNCATE TABLE ONLY {name}");
        client.execute_all(job, "empty table", &empty).await.map_err(|e| {
            e.during(format!("replace rows of {}", table.item())).hint(
                "tables that others refer to can only be replaced together with them: restore the database",
            )
        })?;
        let mut rows = 0;
        for part in &table.parts {
            rows += self.copy(table, part, &statement, client, job).await?;
        }
        client.execute_all(job, "commit rows", "COMMIT").await?;
        Ok(rows)
    }

    async fn copy(
        &self,
        table: &TableToc,
        part: &PartToc,
        statement: &str,
        client: &Client,
        job: &JobContext,
    ) -> Result<u64> {
        let work = self.send(part, statement, client, job).await;
        let rows = work.map_err(|e| e.during(format!("load rows of {}", table.item())))?;
        if rows != part.rows {
            return Err(Error::new(ErrorKind::Corrupt, "load rows")
                .with("artifact", &part.file)
                .with("expected", part.rows)
                .with("loaded", rows));
        }
        job.progress().add_items(rows);
        Ok(rows)
    }

    async fn send(&self, part: &PartToc, statement: &str, client: &Client, job: &JobContext) -> Result<u64> {
        let mut rows = RowPieces::new(self.open(&part.file, job).await?, part);
        let start = async {
            let statement = statement.trim_end().trim_end_matches(';');
            client.copy_in::<_, Bytes>(statement).await.map_err(|e| server_error("load rows", e))
        };
        let mut server = Box::pin(job.run("start loading", start).await?);
        while let Some(piece) = rows.next(job).await? {
            job.progress().advance(piece.len() as u64);
            let sent = async { server.send(piece).await.map_err(|e| server_error("load rows", e)) };
            if let Err(error) = job.run("load rows", sent).await {
                // the server's own reason comes with the end
                let end = async { server.as_mut().finish().await.map_err(|e| server_error("load rows", e)) };
                return job.run("load rows", end).await.and(Err(error));
            }
        }
        let end = async { server.as_mut().finish().await.map_err(|e| server_error("load rows", e)) };
        job.run("load rows", end).await
    }

    /// Runs an artifact that holds one or more whole statements per line.
    pub async fn lines(&self, file: &str, client: &Client, job: &JobContext) -> Result<()> {
        let mut stream = self.open(file, job).await?;
        let mut pending = BytesMut::new();
        loop {
            let next = job.run("read artifact", async { stream.next().await.transpose() }).await?;
            let ended = next.is_none();
            if let Some(chunk) = next {
                job.progress().advance(chunk.len() as u64);
                pending.extend_from_slice(&chunk);
            }
            while pending.len() >= BATCH_BYTES || (ended && !pending.is_empty()) {
                let near = memchr::memrchr(b'\n', &pending[..pending.len().min(BATCH_BYTES)]);
                let end = near.or_else(|| memchr::memchr(b'\n', &pending));
                let Some(end) = end.or(ended.then(|| pending.len() - 1)) else {
                    break;
                };
                let batch = pending.split_to(end + 1);
                let sql = std::str::from_utf8(&batch).map_err(|e| {
                    Error::new(ErrorKind::Corrupt, "read statements").with("artifact", file).because(e)
                })?;
                client
                    .execute_all(job, "run statements", sql)
                    .await
                    .map_err(|e| e.during(format!("load {file}")))?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Runs what stands in the post-data section: indexes and keys side by side, then everything else in its order.
    pub async fn post(&self, file: &str, wanted: Wanted, clients: &[Client], job: &JobContext) -> Result<()> {
        let script = script::parse(&self.text(file, job).await?);
        let first = clients.first().ok_or_else(|| Error::bug("build indexes without a connection"))?;
        for client in clients {
            client.execute_all(job, "prepare connection", &script.preamble).await?;
        }
        let (mut builds, rest): (Vec<Entry>, Vec<Entry>) =
            script.entries.into_iter().partition(Entry::is_build);
        builds.reverse();
        let queue = Mutex::new(builds);
        let again = Mutex::new(Vec::new());
        let work = clients.iter().map(|client| async {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(entry) = next else { return Ok(()) };
                match run_entry(&entry, client, job).await {
                    Ok(()) => {}
                    // two builds locked each other out: the loser has another try, alone
                    Err(error) if is_deadlock(&error) => {
                        again.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        try_join_all(work).await.map(drop)?;
        for entry in &again.into_inner().unwrap_or_else(PoisonError::into_inner) {
            run_entry(entry, first, job).await?;
        }
        match wanted {
            Wanted::Everything => {
                for entry in &rest {
                    run_entry(entry, first, job).await?;
                }
            }
            Wanted::IndexesAndKeys => {}
        }
        Ok(())
    }
}

/// How much of the post-data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Everything,
    /// Nothing that could refer to rows that are not loaded.
    IndexesAndKeys,
}

impl Entry {
    fn is_build(&self) -> bool {
        self.kind == "INDEX" || self.kind == "CONSTRAINT"
    }
}

async fn run_entry(entry: &Entry, client: &Client, job: &JobContext) -> Result<()> {
    let done = client.execute_all(job, "run statements", &entry.sql).await;
    done.map_err(|e| {
        let shown: String = entry.sql.lines().filter(|l| !l.starts_with("--")).collect::<Vec<_>>().join(" ");
        let shown: String = shown.trim().chars().take(200).collect();
        e.during(format!("make {}: {shown}", entry.kind.to_lowercase()))
    })
}

fn is_deadlock(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        let ours = e.downcast_ref::<Error>();
        if ours.is_some_and(|o| o.context().iter().any(|(k, v)| *k == "sqlstate" && v == DEADLOCK)) {
            return true;
        }
        next = e.source();
    }
    false
}
