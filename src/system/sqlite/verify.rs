//! Comparing a database with a backup: opens, whole, and equal row by row.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::SqliteSystem;
use super::backup::{Detail, foreign_key_violations, integrity};
use super::client::{Brake, Header, blocking, open_reading, sql_error};
use super::fingerprint::{self, SCHEMA_ITEM};
use crate::domain::backup::{Captured, Digest, Fingerprint};
use crate::domain::evidence::EvidenceLevel::{E2, E3, E4};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::point;

impl SqliteSystem {
    pub(super) async fn compare(
        &self,
        chain: &[Manifest],
        place: &Place,
        job: &JobContext,
    ) -> Result<Verification> {
        let captured = point(chain)?.captured.clone();
        let (path, busy): (PathBuf, Duration) = (self.path_at(place), self.busy);
        job.progress().set_phase("verify");
        blocking("verify database", job, move |brake| verify(&path, busy, &captured, brake)).await
    }
}

fn verify(path: &Path, busy: Duration, captured: &Captured, brake: &Brake) -> Result<Verification> {
    let mut found = Verification::new(&captured.fingerprint.unit);
    let connection = match open_readable(path, busy) {
        Ok(connection) => connection,
        Err(error) => return finding(found, "database opens", E2, error),
    };
    brake.attach(&connection);
    found.push(Check::passed("database opens", E2, path.display().to_string()));
    let detail = Detail::of(captured)?;
    if let Err(error) = check_integrity(&connection, path, &detail, &mut found) {
        return finding(found, "integrity_check", E3, error);
    }
    match fingerprint::read(&connection, path, brake) {
        Ok(actual) => compare_content(&captured.fingerprint, &actual, &mut found),
        Err(error) => return finding(found, "rows can be read", E4, error),
    }
    match Header::read(&connection) {
        Ok(actual) => compare_header(&detail.header, &actual, &mut found),
        Err(error) => return finding(found, "header", E4, sql_error("read header", path, error)),
    }
    Ok(found)
}

/// A database that cannot be read is a finding; a check that could not be made stays an error.
fn finding(
    mut found: Verification,
    name: &str,
    level: crate::domain::evidence::EvidenceLevel,
    error: Error,
) -> Result<Verification> {
    if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Busy | ErrorKind::Denied | ErrorKind::Bug) {
        return Err(error);
    }
    found.push(Check::failed(name, level, "readable", error.to_string()));
    Ok(found)
}

fn open_readable(path: &Path, busy: Duration) -> Result<Connection> {
    let connection = open_reading(path, busy)?;
    super::client::one::<i64>(&connection, "SELECT count(*) FROM sqlite_schema")
        .map_err(|e| sql_error("read database", path, e))?;
    Ok(connection)
}

fn check_integrity(
    connection: &Connection,
    path: &Path,
    detail: &Detail,
    found: &mut Verification,
) -> Result<()> {
    let failed = |e| sql_error("check integrity", path, e);
    let problems = integrity(connection).map_err(failed)?;
    let actual = if problems.is_empty() { "ok".to_owned() } else { problems.join("; ") };
    found.push(Check::equal("integrity_check", E3, "ok", actual));
    let violations = foreign_key_violations(connection).map_err(failed)?;
    found.push(Check::equal(
        "rows with a broken reference",
        E3,
        detail.foreign_key_violations.to_string(),
        violations.to_string(),
    ));
    Ok(())
}

fn describe(digest: Option<&Digest>) -> String {
    digest.map_or_else(|| "no such table".to_owned(), |d| format!("{} rows, hash {}", d.count, d.hash))
}

fn compare_content(expected: &Fingerprint, actual: &Fingerprint, found: &mut Verification) {
    if expected.algorithm != actual.algorithm {
        let why =
            format!("hashed as `{}`, this version hashes as `{}`", expected.algorithm, actual.algorithm);
        found.push(Check::inconclusive("content", E4, why));
        return;
    }
    let names: std::collections::BTreeSet<&String> =
        expected.items.keys().chain(actual.items.keys()).collect();
    for name in names {
        let (before, after) = (expected.items.get(name), actual.items.get(name));
        found.compared += after.filter(|_| before.is_some()).map_or(0, |d| d.count);
        let title = if name == SCHEMA_ITEM { "schema".to_owned() } else { format!("table {name}") };
        found.push(Check::equal(title, E4, describe(before), describe(after)));
    }
    if expected.total() == 0 {
        found.push(Check::inconclusive("content", E4, "the backup holds no table: nothing was compared"));
    }
}

fn compare_header(expected: &Header, actual: &Header, found: &mut Verification) {
    let text = |h: &Header| {
        format!(
            "user_version {}, application_id {}, page_size {}, encoding {}, auto_vacuum {}, journal {}",
            h.user_version, h.application_id, h.page_size, h.encoding, h.auto_vacuum, h.journal_mode
        )
    };
    found.push(Check::equal("header", E4, text(expected), text(actual)));
}
