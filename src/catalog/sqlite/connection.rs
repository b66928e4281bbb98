//! The connection to the database file: its modes, its schema, and what its errors mean.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::catalog::migrations::{self, STEPS};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// How long one attempt waits for another process's transaction. Ours take milliseconds.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Two processes that open a new catalog at once may both want to switch it to WAL; one of them is told "busy" at once.
const WAL_ATTEMPTS_MAX: u32 = 100;

pub(super) fn connect(path: &Path) -> Result<Connection> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).or_io("make directory", dir)?;
    }
    // SQLite gives its -wal and -shm files the mode of the database
    let file = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .or_io("open file", path)?;
    let permissions = std::fs::Permissions::from_mode(0o600);
    file.set_permissions(permissions).or_io("make private", path)?;
    drop(file);

    let mut connection = Connection::open(path).or_db("open database")?;
    connection.busy_timeout(BUSY_WAIT).or_db("set busy timeout")?;
    switch_to_wal(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL").or_db("set synchronous")?;
    connection.pragma_update(None, "foreign_keys", true).or_db("set foreign keys")?;
    migrations::migrate(&mut connection, STEPS)?;
    Ok(connection)
}

fn switch_to_wal(connection: &Connection) -> Result<()> {
    let mut attempt = 1;
    loop {
        let set = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
            .or_db("set journal mode");
        match set {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Error::new(ErrorKind::Unsupported, "keep a write-ahead log beside the catalog")
                    .with("journal mode", mode)
                    .hint("put the catalog on a local file system"));
            }
            Err(error) if error.kind() == ErrorKind::Busy && attempt < WAL_ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
        }
        // unlike the switch itself, this waits for the other process
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").or_db("wait for the other process")?;
    }
}

/// Classifies a database error once, for this adapter.
pub(in crate::catalog) trait Db<T> {
    fn or_db(self, op: &'static str) -> Result<T>;
}

impl<T> Db<T> for rusqlite::Result<T> {
    fn or_db(self, op: &'static str) -> Result<T> {
        self.map_err(|e| {
            use ErrorCode as Code;
            let code = e.sqlite_error_code();
            let is = |codes: &[Code]| code.is_some_and(|c| codes.contains(&c));
            if is(&[Code::DatabaseBusy, Code::DatabaseLocked]) {
                Error::new(ErrorKind::Busy, op)
                    .hint("another lifeboat process writes the catalog for long; try again")
            } else if is(&[Code::DiskFull]) {
                Error::new(ErrorKind::Exhausted, op).hint("free some space where the catalog is")
            } else if is(&[Code::ReadOnly, Code::PermissionDenied, Code::CannotOpen]) {
                Error::new(ErrorKind::Denied, op).hint("let this user write the catalog and its directory")
            } else if is(&[Code::DatabaseCorrupt, Code::NotADatabase]) {
                Error::new(ErrorKind::Corrupt, op)
                    .hint("move the catalog file away and run `lifeboat catalog rebuild`")
            } else {
                Error::new(ErrorKind::Failed, op)
            }
            .because(e)
        })
    }
}
