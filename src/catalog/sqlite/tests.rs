//! What holds for the SQLite adapter beyond the conformance suite: the file, its mode, and other processes.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::*;
use crate::catalog::conformance;

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn the_sqlite_catalog_conforms() {
    let home = home();
    let count = std::sync::atomic::AtomicU32::new(0);
    let fresh = || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = home.path().join(format!("{n}/catalog.db"));
        let open: conformance::Open =
            Box::new(move || Ok(Arc::new(SqliteCatalog::open(&path, Workers::new())?) as Arc<dyn Catalog>));
        open
    };
    conformance::all(fresh).await.unwrap();
}

#[test]
fn the_file_and_its_directory_are_private() {
    let home = home();
    let path = home.path().join("state/catalog.db");
    let catalog = SqliteCatalog::open(&path, Workers::new()).unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path.with_file_name("catalog.db-wal")), 0o600);
    assert_eq!(catalog.path(), path);
    drop(catalog);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    SqliteCatalog::open(&path, Workers::new()).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_is_written_is_durable_on_return() {
    let home = home();
    let catalog = SqliteCatalog::open(home.path().join("c.db"), Workers::new()).unwrap();
    let connection = catalog.connection.lock().unwrap();
    let pragma = |name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    assert_eq!(pragma("synchronous"), 2.into());
    assert_eq!(pragma("foreign_keys"), 1.into());
}

#[test]
fn many_may_open_a_new_catalog_at_once() {
    let home = home();
    let path = home.path().join("c.db");
    std::thread::scope(|scope| {
        let opened: Vec<_> =
            (0..8).map(|_| scope.spawn(|| SqliteCatalog::open(&path, Workers::new()).map(|_| ()))).collect();
        for one in opened {
            one.join().unwrap().unwrap();
        }
    });
}

#[test]
fn a_file_that_is_no_database_is_corrupt_and_left_alone() {
    let home = home();
    let path = home.path().join("c.db");
    std::fs::write(&path, "not a database, but long enough to be read as one".repeat(20)).unwrap();
    let error = SqliteCatalog::open(&path, Workers::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.advice().unwrap().contains("catalog rebuild"));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("not a database"));
}

#[test]
fn the_journal_table_refuses_to_be_changed() {
    let home = home();
    let catalog = SqliteCatalog::open(home.path().join("c.db"), Workers::new()).unwrap();
    let connection = catalog.connection.lock().unwrap();
    connection
        .execute_batch(
            "INSERT INTO run VALUES ('r', 'backup', NULL, NULL, 'running', 't', NULL, '{}', 1, NULL, NULL, NULL, '{}');
             INSERT INTO journal VALUES ('r', 1, 't', 1, '{}')",
        )
        .unwrap();
    for change in ["UPDATE journal SET event = 'x'", "DELETE FROM journal", "DELETE FROM run"] {
        assert!(connection.execute_batch(change).is_err(), "{change}");
    }
}

#[tokio::test]
async fn a_writer_waits_for_another_process() {
    let home = home();
    let path = home.path().join("c.db");
    let catalog = SqliteCatalog::open(&path, Workers::new()).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let system = SystemName::parse("orders").unwrap();
    let waiting = catalog.next_canary(&system);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.await.unwrap(), 1);
}
