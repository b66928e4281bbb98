//! A restored database needs no server: files only. And queries against a copy.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use super::SqliteSystem;
use super::client::{blocking, one, open_reading, sql_error};
use crate::domain::backup::Captured;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::{Queries, SandboxOrder, Sandboxing};

#[async_trait]
impl Sandboxing for SqliteSystem {
    fn programs(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn order(&self, _point: &Captured) -> SandboxOrder {
        SandboxOrder::FilesOnly
    }

    async fn initialise(&self, _dir: &Path, _account: Option<&Account>, _job: &JobContext) -> Result<()> {
        Ok(())
    }

    async fn neutralise(&self, _dir: &Path, _port: u16, _job: &JobContext) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn server(&self, _dir: &Path, _port: u16) -> Result<Option<Program>> {
        Ok(None)
    }

    async fn ready(&self, place: &Place, job: &JobContext) -> Result<()> {
        let (path, busy) = (self.path_at(place), self.busy);
        blocking("open database", job, move |brake| {
            let connection = open_reading(&path, busy)?;
            brake.attach(&connection);
            one::<i64>(&connection, "SELECT count(*) FROM sqlite_schema")
                .map_err(|e| sql_error("open database", &path, e))?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Queries for SqliteSystem {
    async fn ask(&self, place: &Place, query: &str, job: &JobContext) -> Result<String> {
        let (path, busy, query) = (self.path_at(place), self.busy, query.to_owned());
        blocking("ask database", job, move |brake| {
            let connection = open_reading(&path, busy)?;
            brake.attach(&connection);
            answer(&connection, &path, &query)
        })
        .await
    }
}

fn answer(connection: &Connection, path: &Path, query: &str) -> Result<String> {
    let failed = |e| sql_error("ask database", path, e).with("query", query);
    let mut statement = connection.prepare(query).map_err(failed)?;
    if !statement.readonly() {
        return Err(Error::new(ErrorKind::Denied, "ask database")
            .with("query", query)
            .why("it would write")
            .hint("a check may only read: use SELECT"));
    }
    let text = statement.query_row([], |row| row.get_ref(0).map(to_text)).optional();
    Ok(text.map_err(failed)?.unwrap_or_default())
}

fn to_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(blob) => hex::encode(blob),
    }
}
