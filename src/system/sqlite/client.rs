//! Connections to a database file: how they are opened, stopped, and what their errors mean.
//!
//! Invariant: while this process may hold a connection to a database, its file is never opened any other way; closing any
//! other descriptor would drop the locks of every connection. Looking at a file's metadata is safe.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// Side files of a database, by what is appended to its name.
pub(super) const SIDE_FILES: [&str; 3] = ["-wal", "-journal", "-shm"];

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Stops blocking work whose caller has given up: running statements are interrupted, loops end at their next check.
#[derive(Clone, Default)]
pub(super) struct Brake {
    state: Arc<Mutex<(bool, Vec<InterruptHandle>)>>,
}

impl Brake {
    fn pull(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        for handle in &state.1 {
            handle.interrupt();
        }
    }

    /// `connection` is interrupted when the brake is pulled.
    pub(super) fn attach(&self, connection: &Connection) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.push(connection.get_interrupt_handle());
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            return Err(Error::new(ErrorKind::Cancelled, op));
        }
        Ok(())
    }
}

struct PulledOnDrop(Brake);

impl Drop for PulledOnDrop {
    fn drop(&mut self) {
        self.0.pull();
    }
}

/// Runs `work` off the runtime. Ends with the job; the work itself then stops at its next statement or check.
pub(super) async fn blocking<T: Send + 'static>(
    op: &'static str,
    job: &JobContext,
    work: impl FnOnce(&Brake) -> Result<T> + Send + 'static,
) -> Result<T> {
    let brake = Brake::default();
    let _pulled = PulledOnDrop(brake.clone());
    job.run(op, job.workers().block(op, move || work(&brake))).await
}

/// Opens an existing database for reading. A crashed writer's journal is rolled back, as its next start would do.
pub(super) fn open_reading(path: &Path, busy: Duration) -> Result<Connection> {
    // write access where we have it, so that the side files of WAL mode are made and removed in order
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, busy)?;
    pragma(&connection, "PRAGMA query_only = ON").map_err(|e| sql_error("open database", path, e))?;
    Ok(connection)
}

pub(super) fn open_writing(path: &Path, busy: Duration) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, busy)
}

/// A new, private file that no other program knows. Not durable: a crash throws it away anyway.
pub(super) fn create_scratch(path: &Path) -> Result<Connection> {
    let op = "make scratch database";
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| sql_error(op, path, e))?;
    pragma(&connection, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        .map_err(|e| sql_error(op, path, e))?;
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags, busy: Duration) -> Result<Connection> {
    let op = "open database";
    // SQLite takes a missing file for "cannot open" and an empty one for a database
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => {
            return Err(Error::new(ErrorKind::Config, op).with("path", path.display()).why("it is no file"));
        }
        Err(e) => {
            return Err(Error::new(crate::error::io_kind(&e), op).with("path", path.display()).because(e));
        }
    }
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| sql_error(op, path, e))?;
    connection.busy_timeout(busy).map_err(|e| sql_error(op, path, e))?;
    Ok(connection)
}

fn pragma(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.execute_batch(sql)
}

/// The first value of a one-row query.
pub(super) fn one<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str) -> rusqlite::Result<T> {
    connection.query_row(sql, [], |row| row.get(0))
}

pub(super) fn sql_error(op: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    let kind = error_kind(&error);
    let wrapped = Error::new(kind, op).with("path", path.display()).because(error);
    let hints = [
        (ErrorKind::Corrupt, "the file is damaged: restore the newest proven backup beside it and compare"),
        (ErrorKind::Busy, "a writer holds the lock: raise busy_timeout, or look for a transaction left open"),
        (ErrorKind::Denied, "give lifeboat the right to read the file and to write into its directory"),
        (
            ErrorKind::Exhausted,
            "free space in the state directory: a copy of the whole database is made there",
        ),
    ];
    match hints.iter().find(|(k, _)| *k == kind) {
        Some((_, hint)) => wrapped.hint(*hint),
        None => wrapped,
    }
}

fn error_kind(error: &rusqlite::Error) -> ErrorKind {
    let Some(code) = error.sqlite_error_code() else {
        return ErrorKind::Failed;
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            ErrorKind::Busy
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => ErrorKind::Corrupt,
        ErrorCode::DiskFull | ErrorCode::TooBig | ErrorCode::OutOfMemory => ErrorKind::Exhausted,
        ErrorCode::OperationInterrupted => ErrorKind::Cancelled,
        ErrorCode::PermissionDenied
        | ErrorCode::ReadOnly
        | ErrorCode::CannotOpen
        | ErrorCode::AuthorizationForStatementDenied => ErrorKind::Denied,
        ErrorCode::SystemIoFailure
        | ErrorCode::InternalMalfunction
        | ErrorCode::OperationAborted
        | ErrorCode::NotFound
        | ErrorCode::SchemaChanged
        | ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch
        | ErrorCode::ApiMisuse
        | ErrorCode::NoLargeFileSupport
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::Unknown
        | _ => ErrorKind::Failed,
    }
}

/// What the header of a database says; must survive a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub user_version: i64,
    pub application_id: i64,
    pub page_size: i64,
    pub encoding: String,
    pub auto_vacuum: i64,
    pub journal_mode: String,
}

impl Header {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            user_version: one(connection, "PRAGMA user_version")?,
            application_id: one(connection, "PRAGMA application_id")?,
            page_size: one(connection, "PRAGMA page_size")?,
            encoding: one(connection, "PRAGMA encoding")?,
            auto_vacuum: one(connection, "PRAGMA auto_vacuum")?,
            journal_mode: match one::<String>(connection, "PRAGMA journal_mode")?.as_str() {
                "wal" => "wal".to_owned(),
                // the others are a choice of the connection, not of the file
                _ => "rollback".to_owned(),
            },
        })
    }
}

/// What a file looks like from outside, side file of WAL mode included. Equal before and after: nothing was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signature {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
    /// Bytes and time of `-wal`; an empty one is none.
    wal: Option<(u64, i128)>,
}

impl Signature {
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let meta = std::fs::metadata(path)?;
        let wal = match std::fs::metadata(with_suffix(path, "-wal")) {
            Ok(wal) if wal.len() > 0 => Some((wal.len(), ns(wal.mtime(), wal.mtime_nsec()))),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            Ok(_) | Err(_) => None,
        };
        Ok(Self {
            inode: meta.ino(),
            bytes: meta.len(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
            wal,
        })
    }
}
