//! Looking at the database from outside: cheap, read-only, and never an error for what is merely broken.

use std::path::Path;
use std::time::Duration;

use super::SqliteSystem;
use super::client::{Brake, blocking, one, open_reading, sql_error, with_suffix};
use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{Health, HealthState};

/// A probe does not wait for a busy writer as long as a backup does.
const PROBE_BUSY_MAX: Duration = Duration::from_secs(2);

impl SqliteSystem {
    pub(super) async fn look(&self, job: &JobContext) -> Result<Health> {
        let (path, busy) = (self.path().to_path_buf(), self.busy.min(PROBE_BUSY_MAX));
        blocking("probe database", job, move |brake| Ok(probe(&path, busy, brake))).await
    }
}

fn health(state: HealthState, summary: impl Into<String>) -> Health {
    Health {
        state,
        version: Some(rusqlite::version().to_owned()),
        summary: summary.into(),
        findings: Vec::new(),
    }
}

fn probe(path: &Path, busy: Duration, brake: &Brake) -> Health {
    match examine(path, busy, brake) {
        Ok(health) => health,
        Err(error) if error.kind() == ErrorKind::Busy => health(HealthState::Degraded, error.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            health(HealthState::Down, format!("there is no file {}", path.display()))
        }
        Err(error) => health(HealthState::Down, error.to_string()),
    }
}

fn examine(path: &Path, busy: Duration, brake: &Brake) -> Result<Health> {
    let failed = |e| sql_error("probe database", path, e);
    let connection = open_reading(path, busy)?;
    brake.attach(&connection);
    let bytes = file_bytes(path);
    if bytes == 0 && file_bytes(&with_suffix(path, "-wal")) == 0 {
        return Ok(health(HealthState::Down, "the file is empty: no database, or one that was truncated"));
    }
    let tables: i64 =
        one(&connection, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'").map_err(failed)?;
    let pages: i64 = one(&connection, "PRAGMA page_count").map_err(failed)?;
    let page_size: i64 = one(&connection, "PRAGMA page_size").map_err(failed)?;
    let journal: String = one(&connection, "PRAGMA journal_mode").map_err(failed)?;
    let full = pages.unsigned_abs() * page_size.unsigned_abs();
    // in WAL mode new pages may still be in the log alone
    if journal != "wal" && bytes < full {
        let summary = format!("truncated: {bytes} of {full} bytes are there");
        return Ok(health(HealthState::Down, summary));
    }
    let mut health =
        health(HealthState::Healthy, format!("{tables} tables, {full} bytes, journal {journal}"));
    if journal != "wal" {
        let finding = "no WAL mode: commits of other programs wait while a backup copies";
        health.findings.push(finding.to_owned());
    }
    if tables == 0 {
        health.state = HealthState::Degraded;
        health.findings.push("there is no table".to_owned());
    }
    Ok(health)
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
