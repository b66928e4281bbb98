//! The table of contents of a logical backup: which artifact holds what, and in which order they load.
//!
//! Stands in `toc.json`. Every SQL artifact loads with `psql -X -v ON_ERROR_STOP=1 -f FILE` alone, in the order of `load`,
//! connected to the database named there.

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use crate::domain::backup::Digest;
use crate::domain::id::{ArtifactName, BackupId};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::BackupSource;
use crate::system::postgres::rows::{quote_ident, readable};

pub const TOC_FORMAT: u32 = 1;
pub const TOC: &str = "toc.json";
pub const GLOBALS: &str = "globals.sql";
/// A table of contents, a schema or the globals larger than this are refused.
const TEXT_BYTES_MAX: usize = 512 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toc {
    pub format: u32,
    /// For a person who opens it without lifeboat.
    pub how_to_load: String,
    pub server_version: String,
    pub databases: Vec<DatabaseToc>,
    pub load: Vec<Load>,
}

/// One file to load, and the database to be connected to; any database when there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub file: String,
    pub database: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseToc {
    pub oid: u32,
    pub name: String,
    pub encoding: String,
    /// `CREATE DATABASE`, run in another database.
    pub create: String,
    pub tables: Vec<TableToc>,
    pub sequences: u64,
    pub large_objects: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableToc {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Columns in the artifacts, in order; generated ones are not among them.
    pub columns: Vec<String>,
    pub rows: u64,
    /// As in the fingerprint.
    pub hash: String,
    pub parts: Vec<PartToc>,
}

/// One artifact with rows: `header_bytes` of SQL up to and including the COPY line, `rows`, then `\.` on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartToc {
    pub file: String,
    pub bytes: u64,
    pub header_bytes: u64,
    pub rows: u64,
    pub hash: String,
}

/// Files of one database besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    Create,
    Pre,
    Sequences,
    LargeObjects,
    Post,
    Properties,
}

impl File {
    pub fn of(self, oid: u32) -> String {
        let name = match self {
            Self::Create => "create",
            Self::Pre => "schema-pre",
            Self::Sequences => "sequences",
            Self::LargeObjects => "large-objects",
            Self::Post => "schema-post",
            Self::Properties => "properties",
        };
        format!("db/{oid}/{name}.sql")
    }
}

pub fn part_file(database: u32, table: u32, part: usize) -> String {
    format!("db/{database}/data/{table}.{part:04}.sql")
}

pub fn artifact(name: &str) -> Result<ArtifactName> {
    ArtifactName::parse(name).map_err(|e| Error::bug("name artifact").because(e))
}

impl TableToc {
    pub fn digest(&self) -> Digest {
        Digest { count: self.rows, hash: self.hash.clone() }
    }

    /// Key in the fingerprint, without the database.
    pub fn item(&self) -> String {
        format!("{}.{}", readable(&self.schema), readable(&self.name))
    }

    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// ` ("a", "b")`, or nothing for a table without columns to load.
    pub fn column_list(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let quoted: Vec<String> = self.columns.iter().map(|c| quote_ident(c)).collect();
        format!(" ({})", quoted.join(", "))
    }
}

impl Toc {
    pub fn new(server_version: String, databases: Vec<DatabaseToc>) -> Self {
        let load = load_order(&databases);
        Self {
            format: TOC_FORMAT,
            how_to_load: "for every line of `load`, in order: psql -X -v ON_ERROR_STOP=1 -d <database> -f <file>; \
                          without a database, any will do. On an empty server; create.sql is not for template1 and \
                          a database that exists already (postgres) needs none"
                .to_owned(),
            server_version,
            databases,
            load,
        }
    }

    pub async fn read(source: &dyn BackupSource, backup: &BackupId, job: &JobContext) -> Result<Self> {
        let text = read_text(source, backup, TOC, job).await?;
        let toc: Self = serde_json::from_str(&text).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "read table of contents").with("backup", backup).because(e)
        })?;
        if toc.format != TOC_FORMAT {
            return Err(Error::new(ErrorKind::Unsupported, "read table of contents")
                .with("format", toc.format)
                .hint("this backup was made by another version of lifeboat: use that one"));
        }
        Ok(toc)
    }
}

fn load_order(databases: &[DatabaseToc]) -> Vec<Load> {
    let line = |file: String, database: Option<&String>| Load { file, database: database.cloned() };
    let mut load = vec![line(GLOBALS.to_owned(), None)];
    for db in databases {
        load.push(line(File::Create.of(db.oid), None));
        load.push(line(File::Pre.of(db.oid), Some(&db.name)));
        let parts = db.tables.iter().flat_map(|t| &t.parts);
        load.extend(parts.map(|p| line(p.file.clone(), Some(&db.name))));
        for file in [File::Sequences, File::LargeObjects, File::Post, File::Properties] {
            load.push(line(file.of(db.oid), Some(&db.name)));
        }
    }
    load
}

/// A whole text artifact; `Exhausted` when it is too large to be one.
pub async fn read_text(
    source: &dyn BackupSource,
    backup: &BackupId,
    name: &str,
    job: &JobContext,
) -> Result<String> {
    let mut stream = source.open(backup, &artifact(name)?, job).await?;
    let mut text = Vec::new();
    while let Some(chunk) = job.run("read artifact", async { stream.next().await.transpose() }).await? {
        if text.len() + chunk.len() > TEXT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "read artifact as text").with("artifact", name));
        }
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text).map_err(|e| {
        Error::new(ErrorKind::Corrupt, "read artifact as text").with("artifact", name).because(e)
    })
}
