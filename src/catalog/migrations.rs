//! The catalog's schema as numbered steps. Owns which step a database is at (`user_version`) and how it moves forward.
//!
//! A step that was released is never edited: a change is a new step at the end. Every step is one transaction, so a
//! crash leaves a whole version. A database with more steps than this program knows is refused.

use rusqlite::{Connection, TransactionBehavior};

use super::sqlite::Db;
use crate::error::{Error, ErrorKind, Result};

/// `application_id` of a catalog ("LFBT"), so that somebody else's database is never taken for one.
const APPLICATION_ID: i64 = 0x4c46_4254;

const OP: &str = "open catalog";

/// Instants are RFC 3339 text with nine decimals in UTC, so that they sort as text.
pub(super) const STEPS: &[&str] = &[
    // 1: runs, journals, backups, leases
    "CREATE TABLE run (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        system TEXT,
        subject TEXT,
        state TEXT NOT NULL,
        started_at TEXT NOT NULL,
        -- set exactly when the state is final
        finished_at TEXT,
        owner TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        verdict TEXT,
        level TEXT,
        error TEXT,
        detail TEXT NOT NULL
    ) STRICT;
    CREATE INDEX run_by_start ON run(started_at);
    CREATE INDEX run_unfinished ON run(started_at) WHERE finished_at IS NULL;

    CREATE TABLE journal (
        run TEXT NOT NULL REFERENCES run(id),
        seq INTEGER NOT NULL,
        at TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER journal_is_never_changed BEFORE UPDATE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER journal_is_never_shortened BEFORE DELETE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

    CREATE TABLE backup (
        id TEXT PRIMARY KEY,
        system TEXT NOT NULL,
        started_at TEXT NOT NULL,
        state TEXT NOT NULL,
        manifest TEXT NOT NULL,
        verified_at TEXT,
        proof TEXT
    ) STRICT;
    CREATE INDEX backup_by_system ON backup(system, started_at);
    CREATE TABLE copy (
        backup TEXT NOT NULL REFERENCES backup(id) ON DELETE CASCADE,
        destination TEXT NOT NULL,
        PRIMARY KEY (backup, destination)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE lease (
        system TEXT NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        scope TEXT NOT NULL,
        run TEXT REFERENCES run(id),
        since TEXT NOT NULL,
        PRIMARY KEY (system, kind, name)
    ) STRICT, WITHOUT ROWID;",
    // 2: the ledger of what sandboxes made. It names runs without referring to them: it must be writable always.
    "CREATE TABLE resource (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run TEXT NOT NULL,
        owner TEXT NOT NULL,
        resource TEXT NOT NULL,
        since TEXT NOT NULL
    ) STRICT;",
    // 3: canaries: the last number given per system, and the records that the source acknowledged
    "CREATE TABLE canary_counter (
        system TEXT PRIMARY KEY,
        last INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE canary (
        system TEXT NOT NULL,
        seq INTEGER NOT NULL,
        utc TEXT NOT NULL,
        PRIMARY KEY (system, seq)
    ) STRICT, WITHOUT ROWID;",
];

fn pragma(connection: &Connection, name: &str) -> Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0)).or_db(OP)
}

fn version(connection: &Connection) -> Result<usize> {
    let version = pragma(connection, "user_version")?;
    usize::try_from(version).map_err(|e| Error::new(ErrorKind::Corrupt, "read catalog version").because(e))
}

fn refuse_foreign(connection: &Connection) -> Result<()> {
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).or_db(OP)?;
    if objects > 0 && pragma(connection, "application_id")? != APPLICATION_ID {
        return Err(Error::new(ErrorKind::Config, "use this database as the catalog")
            .why("it holds something else")
            .hint("name another file as the catalog; lifeboat makes it"));
    }
    Ok(())
}

/// Brings the database to the end of `steps`. Several processes may do it at once; each step is taken once.
pub(super) fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<()> {
    refuse_foreign(connection)?;
    loop {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).or_db(OP)?;
        let done = version(&tx)?;
        if done > steps.len() {
            return Err(Error::new(ErrorKind::Unsupported, "open a catalog of a newer lifeboat")
                .with("catalog version", done)
                .with("newest known", steps.len())
                .hint("use the lifeboat that wrote it, or move the file away and run `lifeboat catalog rebuild`"));
        }
        let Some(step) = steps.get(done) else {
            return Ok(());
        };
        tx.execute_batch(step).or_db("migrate catalog")?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).or_db("migrate catalog")?;
        tx.pragma_update(None, "user_version", pragma(&tx, "user_version")? + 1).or_db("migrate catalog")?;
        tx.commit().or_db("migrate catalog")?;
        tracing::debug!(version = done + 1, "catalog migrated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_older_schema_reaches_the_newest_and_keeps_its_rows() {
        for older in 1..STEPS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, &STEPS[..older]).unwrap();
            connection
                .execute_batch(
                    "INSERT INTO backup VALUES ('20260101-000000-00000001', 's', '2026', 'STORED', '{}', NULL, NULL)",
                )
                .unwrap();
            migrate(&mut connection, STEPS).unwrap();
            assert_eq!(version(&connection).unwrap(), STEPS.len());
            let kept: i64 =
                connection.query_row("SELECT count(*) FROM backup", [], |row| row.get(0)).unwrap();
            assert_eq!(kept, 1);
            connection.execute_batch("SELECT * FROM canary").unwrap();
        }
    }

    #[test]
    fn a_newer_catalog_is_refused_with_the_way_out() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, STEPS).unwrap();
        connection.pragma_update(None, "user_version", 1000).unwrap();
        let error = migrate(&mut connection, STEPS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.advice().unwrap().contains("catalog rebuild"));
    }

    #[test]
    fn a_failing_step_leaves_the_version_before_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        let broken = [STEPS[0], "CREATE TABLE half (a INTEGER); CREATE TABLE run (b INTEGER);"];
        migrate(&mut connection, &broken).unwrap_err();
        assert_eq!(version(&connection).unwrap(), 1);
        assert!(connection.execute_batch("SELECT * FROM half").is_err());
    }

    #[test]
    fn somebody_elses_database_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE customers (a)").unwrap();
        let error = migrate(&mut connection, STEPS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
