//! Values to columns and back. A column that cannot be read is `Corrupt`, never a default.

use chrono::SecondsFormat;
use rusqlite::{Row, Transaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Db;
use crate::domain::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// Instants of one width, so that they compare as text.
pub(super) fn instant(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::Failed, "write catalog value").because(e))
}

/// A name, enum or instant as the plain text that serde gives it.
pub(super) fn word(value: &impl Serialize) -> Result<String> {
    let value = serde_json::to_value(value).map_err(|e| Error::bug("write catalog value").because(e))?;
    value.as_str().map(str::to_owned).ok_or_else(|| Error::bug("write catalog value that is not a word"))
}

pub(super) fn column<T: rusqlite::types::FromSql>(row: &Row<'_>, name: &'static str) -> Result<T> {
    row.get(name).or_db("read catalog column")
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, name: &'static str) -> Result<T> {
    let text: String = column(row, name)?;
    serde_json::from_str(&text).map_err(|e| unreadable(name, e))
}

pub(super) fn from_word<T: DeserializeOwned>(row: &Row<'_>, name: &'static str) -> Result<T> {
    maybe_word(row, name)?
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "read catalog column").with("column", name))
}

pub(super) fn maybe_word<T: DeserializeOwned>(row: &Row<'_>, name: &'static str) -> Result<Option<T>> {
    let text: Option<String> = column(row, name)?;
    text.map(|t| serde_json::from_value(serde_json::Value::String(t)).map_err(|e| unreadable(name, e)))
        .transpose()
}

fn unreadable(column: &'static str, error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "read catalog column")
        .with("column", column)
        .because(error)
        .hint("move the catalog file away and run `lifeboat catalog rebuild`")
}

pub(super) fn number(row: &Row<'_>, name: &'static str) -> Result<u64> {
    let number: i64 = column(row, name)?;
    u64::try_from(number)
        .map_err(|e| Error::new(ErrorKind::Corrupt, "read catalog column").with("column", name).because(e))
}

/// SQLite counts with a sign.
pub(super) fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|e| Error::new(ErrorKind::Exhausted, "write catalog number").because(e))
}

/// Every row of `sql` as a value.
pub(super) fn all<T>(
    tx: &Transaction<'_>,
    sql: &str,
    params: impl rusqlite::Params,
    value: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = tx.prepare_cached(sql).or_db("prepare query")?;
    let mut rows = statement.query(params).or_db("query catalog")?;
    let mut values = Vec::new();
    while let Some(row) = rows.next().or_db("query catalog")? {
        values.push(value(row)?);
    }
    Ok(values)
}

/// Runs one statement; gives the number of rows that it changed.
pub(super) fn execute(
    tx: &Transaction<'_>,
    op: &'static str,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<usize> {
    tx.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).or_db(op)
}
