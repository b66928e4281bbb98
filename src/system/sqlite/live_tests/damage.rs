//! Damaged, truncated, unchanged, locked, half restored: what each of them must come to.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

#[tokio::test]
async fn a_damaged_source_is_refused_even_where_quick_check_is_content() {
    let home = Home::with(
        "CREATE TABLE t(v TEXT); CREATE INDEX i ON t(v);\
         INSERT INTO t VALUES ('needle-0001'), ('needle-0002')",
    );
    let mut bytes = std::fs::read(home.path()).unwrap();
    let at = bytes.windows(11).position(|w| w == b"needle-0002").unwrap();
    bytes[at + 10] = b'9';
    std::fs::write(home.path(), bytes).unwrap();
    let quick: String = home.production().query_row("PRAGMA quick_check", [], |r| r.get(0)).unwrap();
    assert_eq!(quick, "ok");
    let error = home.take(BackupKind::Full, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.advice().unwrap().contains("restore"), "{error}");
}

#[tokio::test]
async fn an_empty_a_truncated_and_a_missing_file_are_down_and_refused() {
    let home = Home::with(SOME);
    let chain = [home.full().await];
    let file = std::fs::File::options().write(true).open(home.path()).unwrap();
    let length = file.metadata().unwrap().len();
    for keep in [length / 2 + 100, 60, 0] {
        file.set_len(keep).unwrap();
        let health = home.system.probe(&home.job).await.unwrap();
        assert_eq!(health.state, HealthState::Down, "{keep}: {health:?}");
        let error = home.take(BackupKind::Full, &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{keep}: {error}");
        assert!(home.verify(&chain, &Place::Production).await.is_red());
        let again = home.restore(&chain, &Place::Production, Existing::Refuse).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict);
    }
    home.restore(&chain, &Place::Production, Existing::Replace).await.unwrap();
    home.assert_green(&chain, &Place::Production).await;
    std::fs::remove_dir_all(home.path().parent().unwrap()).unwrap();
    assert_eq!(home.system.probe(&home.job).await.unwrap().state, HealthState::Down);
    assert_eq!(home.take(BackupKind::Full, &[]).await.unwrap_err().kind(), ErrorKind::NotFound);
    home.restore(&chain, &Place::Production, Existing::Refuse).await.unwrap();
    home.assert_green(&chain, &Place::Production).await;
}

#[tokio::test]
async fn every_value_and_the_header_come_back_exactly() {
    let home = Home::with(
        "PRAGMA page_size = 8192; PRAGMA encoding = 'UTF-16le'; CREATE TABLE v(id INTEGER PRIMARY KEY, x)",
    );
    let production = home.production();
    let values: Vec<Box<dyn rusqlite::ToSql>> = vec![
        Box::new(-0.0_f64),
        Box::new(f64::NAN),
        Box::new(f64::INFINITY),
        Box::new(f64::MIN_POSITIVE / 2.0),
        Box::new(i64::MIN),
        Box::new(i64::MAX),
        Box::new(0_i64),
        Box::new("a\0b"),
        Box::new(""),
        Box::new("ä€𝄞"),
        Box::new(vec![0_u8, 255, 1]),
        Box::new(Vec::<u8>::new()),
        Box::new(vec![7_u8; 3_000_000]),
        Box::new(rusqlite::types::Null),
    ];
    for value in &values {
        production.execute("INSERT INTO v(x) VALUES (?1)", [value]).unwrap();
    }
    let read = |c: &Connection| -> Vec<String> {
        let mut s = c.prepare("SELECT typeof(x) || hex(x) || quote(x) FROM v ORDER BY id").unwrap();
        s.query_map([], |r| r.get(0)).unwrap().map(|r| r.unwrap()).collect()
    };
    let chain = [home.full().await];
    let place = home.place("copy");
    home.restore(&chain, &place, Existing::Refuse).await.unwrap();
    home.assert_green(&chain, &place).await;
    let copy = Connection::open(home.at(&place)).unwrap();
    assert_eq!(read(&production), read(&copy));
    let one = |sql: &str| copy.query_row(sql, [], |r| r.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(one("PRAGMA page_size"), 8192.into());
    assert_eq!(one("PRAGMA encoding"), "UTF-16le".to_owned().into());
}

#[tokio::test]
async fn an_unchanged_database_is_not_stored_again_and_a_changed_one_is_a_full() {
    let home = Home::with(SOME);
    let mut chain = vec![home.full().await];
    for _ in 0..2 {
        let next = home.take(BackupKind::Incremental, &chain).await.unwrap();
        assert_eq!((next.kind, next.artifacts.len()), (BackupKind::Incremental, 0));
        assert!(next.captured.notes[0].contains("nothing changed"), "{:?}", next.captured.notes);
        chain.push(next);
    }
    let place = home.place("copy");
    home.restore(&chain, &place, Existing::Refuse).await.unwrap();
    home.assert_green(&chain, &place).await;
    home.production().execute_batch("UPDATE item SET price = 0 WHERE id = 1").unwrap();
    let next = home.take(BackupKind::Incremental, &chain).await.unwrap();
    assert_eq!((next.kind, next.artifacts.len()), (BackupKind::Full, 1));
}

#[tokio::test]
async fn a_change_between_plan_and_copy_is_stored_in_the_incremental() {
    let home = Home::with(SOME);
    let mut chain = vec![home.full().await];
    let id = crate::domain::id::BackupId::new(home.job.now(), 9);
    let request =
        BackupRequest { id: id.clone(), kind: BackupKind::Incremental, tier: None, chain: chain.clone() };
    let plan = home.system.plan_backup(&request, &home.job).await.unwrap();
    assert_eq!(plan.kind, BackupKind::Incremental);
    home.production().execute_batch("DELETE FROM note").unwrap();
    let captured = home.system.backup(&plan, &home.backups.sink(&id), &home.job).await.unwrap();
    let artifacts = home.backups.artifacts(&id);
    assert_eq!(artifacts.len(), 1);
    let mut next = chain[0].clone();
    (next.id, next.kind, next.captured) = (id, BackupKind::Incremental, captured);
    next.artifacts[0].raw_bytes = artifacts[0].1.len() as u64;
    chain.push(next);
    let place = home.place("copy");
    home.restore(&chain, &place, Existing::Refuse).await.unwrap();
    home.assert_green(&chain, &place).await;
}

#[tokio::test]
async fn a_repeated_restore_keeps_the_true_old_database() {
    let home = Home::with(SOME);
    let chain = [home.full().await];
    home.production().execute_batch("CREATE TABLE only_in_old(x)").unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let run = RunId::new(home.job.now(), 1);
    for _ in 0..2 {
        home.restore_as(run.clone(), &chain, &Place::Production, Existing::Replace).await.unwrap();
    }
    let old = format!("app.db.lifeboat-old-{run}");
    assert_eq!(home.app_files(), ["app.db".to_owned(), old.clone()]);
    let kept = Connection::open(home.path().with_file_name(old)).unwrap();
    assert!(kept.table_exists(None, "only_in_old").unwrap());
    home.assert_green(&chain, &Place::Production).await;
}

#[tokio::test]
async fn owner_and_mode_come_back() {
    let home = Home::with(SOME);
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(home.path(), Some(65534), Some(65534)).unwrap();
    }
    let seen = |path: &Path| {
        let meta = std::fs::metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode())
    };
    let before = seen(home.path());
    let chain = [home.full().await];
    assert_eq!(seen(home.path()), before);
    let place = home.place("copy");
    home.restore(&chain, &place, Existing::Refuse).await.unwrap();
    assert_eq!(seen(&home.at(&place)), before);
}

#[tokio::test]
async fn a_lock_that_is_not_given_up_is_busy_and_leaves_nothing() {
    let home = Home::with(SOME);
    let mut settings = home.system.settings.clone();
    settings.busy_timeout = "50ms".to_owned();
    let system = SqliteSystem::build(settings, home.system.deps.clone()).unwrap();
    let blocker = home.production();
    blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = home.backups.take(&system, BackupKind::Full, &[], &home.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(system.probe(&home.job).await.unwrap().state, HealthState::Degraded);
    let state = home.dir.path().join("state");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
    blocker.execute_batch("ROLLBACK").unwrap();
    home.full().await;
}

#[tokio::test]
async fn a_cut_artifact_is_corrupt_and_leaves_the_target_alone() {
    let home = Home::with(SOME);
    let chain = [home.full().await];
    let name = backup::artifact_name().unwrap();
    home.backups.tamper(&chain[0].id, &name, |mut bytes| {
        bytes.pop();
        bytes
    });
    let error = home.restore(&chain, &Place::Production, Existing::Replace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(home.app_files(), ["app.db"]);
    home.assert_green(&chain, &Place::Production).await;
}

#[tokio::test]
async fn canaries_are_bounded() {
    let home = Home::with(SOME);
    let canary = home.system.canary().unwrap();
    assert!(canary.read(&Place::Production, &home.job).await.unwrap().is_empty());
    let last = CANARIES_KEPT as u64 + 5;
    for seq in 1..=last {
        let record = CanaryRecord { seq, utc: home.job.now(), mac: "m".to_owned() };
        canary.write(&record, &home.job).await.unwrap();
    }
    let read = canary.read(&Place::Production, &home.job).await.unwrap();
    assert_eq!((read.len(), read[0].seq, read[CANARIES_KEPT - 1].seq), (CANARIES_KEPT, 6, last));
}

#[tokio::test]
async fn a_check_may_read_and_never_write() {
    let home = Home::with(SOME);
    let queries = home.system.queries().unwrap();
    let ask = async |sql: &str| queries.ask(&Place::Production, sql, &home.job).await;
    assert_eq!(ask("SELECT count(*) FROM item").await.unwrap(), "500");
    assert_eq!(ask("SELECT name FROM item WHERE id = 3").await.unwrap(), "name-3");
    assert_eq!(ask("SELECT x'00ff'").await.unwrap(), "00ff");
    assert_eq!(ask("SELECT 1 WHERE 0").await.unwrap(), "");
    for write in ["DELETE FROM item", "DROP TABLE item", "PRAGMA user_version = 3"] {
        assert_eq!(ask(write).await.unwrap_err().kind(), ErrorKind::Denied, "{write}");
    }
    assert!(ask("SELECT nonsense").await.is_err());
    assert_eq!(ask("SELECT count(*) FROM item").await.unwrap(), "500");
}

#[tokio::test]
async fn a_job_cancelled_while_it_copies_ends_and_leaves_nothing() {
    let home = Home::with("CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(200000000))");
    let job = home.job.child(Duration::from_secs(3600));
    let cancelling = async {
        // beats come from the copy alone
        while job.progress().beats() < 5 {
            tokio::task::yield_now().await;
        }
        job.cancel();
    };
    let taking = home.backups.take(&home.system, BackupKind::Full, &[], &job);
    let (taken, ()) = tokio::join!(taking, cancelling);
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Cancelled);
    job.workers().drain().await;
    assert_eq!(std::fs::read_dir(home.dir.path().join("state")).unwrap().count(), 0);
}

#[test]
fn a_state_directory_without_room_for_the_copy_is_exhausted() {
    let home = tempfile::tempdir().unwrap();
    let error = backup::refuse_small_disk(home.path(), 1 << 60).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.advice().is_some());
    backup::refuse_small_disk(home.path(), 1).unwrap();
}
