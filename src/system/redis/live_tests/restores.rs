//! Restoring as a file and key by key.

use super::*;
use crate::domain::evidence::EvidenceLevel;
use crate::error::ErrorKind;
use crate::system::testing::free_port;

#[tokio::test]
async fn a_restored_file_starts_with_every_type_and_expiry() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Directory { path: directory.path().to_owned() };
    let restored = live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &[]).await.unwrap();
    assert_eq!((restored.items, restored.watermark), (21, manifest.captured.watermark));
    let checked = live.verify(&backups, &manifest, &place).await;
    assert_eq!((checked.level(), checked.compared), (Some(EvidenceLevel::E4), 21), "{checked:?}");
    let file = directory.path().join("dump.rdb");
    let copy = Live::start_in(|dir| {
        std::fs::copy(&file, dir.join("dump.rdb")).unwrap();
        Ok(())
    })
    .await;
    let checked = live.verify(&backups, &manifest, &copy.server.place()).await;
    assert_eq!(checked.level(), Some(EvidenceLevel::E4), "{checked:?}");
    assert_eq!(copy.run("PEXPIRETIME beyond:double").await, Reply::Integer(9_007_199_254_740_993));
    // over what is there now: refused, then kept aside
    live.run("SET more 1").await;
    let newer = live.take(&backups).await.unwrap();
    let error = live.restore(&backups, &newer, place.clone(), Existing::Refuse, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.advice().is_some());
    let restored = live.restore(&backups, &newer, place.clone(), Existing::Replace, &[]).await.unwrap();
    assert_eq!(restored.items, 22);
    assert!(file.with_file_name("dump.rdb.lifeboat-old-20260102-030405-0000000a").is_file());
}

#[tokio::test]
async fn repeating_a_finished_file_restore_is_safe() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Directory { path: directory.path().to_owned() };
    for _ in 0..2 {
        live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &[]).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn keys_go_one_by_one_into_a_running_server_after_a_flush() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    live.run("FLUSHALL\nFUNCTION FLUSH").await;
    let restored = live.restore(&backups, &manifest, Place::Production, Existing::Refuse, &[]).await.unwrap();
    assert_eq!(restored.items, 21);
    let checked = live.verify(&backups, &manifest, &Place::Production).await;
    assert_eq!(checked.level(), Some(EvidenceLevel::E4), "{checked:?}");
    assert_eq!(live.run("FCALL one 0").await, Reply::Integer(1));
    assert_eq!(live.run("XPENDING stream group").await.items()[0], Reply::Integer(3));
    assert_eq!(live.run("EXISTS lifeboat:restoring").await, Reply::Integer(0));
}

#[tokio::test]
async fn a_server_that_holds_keys_is_refused_unless_they_may_be_replaced() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let other = Live::start().await;
    other.run("SELECT 9\nSET stranger 1\nSET text theirs").await;
    let place = other.server.place();
    let error = live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(other.run("SELECT 9\nDBSIZE").await, Reply::Integer(2));
    live.restore(&backups, &manifest, place.clone(), Existing::Replace, &[]).await.unwrap();
    assert_eq!(other.run("SELECT 9\nDBSIZE").await, Reply::Integer(0));
    assert_eq!(live.verify(&backups, &manifest, &place).await.level(), Some(EvidenceLevel::E4));
}

#[tokio::test]
async fn an_interrupted_restore_of_the_same_run_may_begin_again() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let other = Live::start().await;
    let place = other.server.place();
    other.run("SET lifeboat:restoring 20260102-030405-0000000a\nSET text half").await;
    live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &[]).await.unwrap();
    assert!(!live.verify(&backups, &manifest, &place).await.is_red());
    other.run("FLUSHALL\nSET lifeboat:restoring 20260102-030405-0000000b\nSET text half").await;
    assert!(live.restore(&backups, &manifest, place, Existing::Refuse, &[]).await.is_err());
}

#[tokio::test]
async fn a_pattern_restores_only_its_keys_into_a_server_in_use() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let other = Live::start().await;
    other.run("SET mine 1").await;
    let place = other.server.place();
    let patterns = ["hash:*", "te?t"];
    let restored =
        live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &patterns).await.unwrap();
    assert_eq!(restored.items, 4);
    assert_eq!(other.run("DBSIZE").await, Reply::Integer(4));
    assert_eq!(other.run("SELECT 3\nGET text").await.to_text(), "other");
    assert_eq!(other.run("PEXPIRETIME hash:small").await, Reply::Integer(4_102_444_800_456));
    // now some are there
    other.run("SET text changed").await;
    let error =
        live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &patterns).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    live.restore(&backups, &manifest, place, Existing::Replace, &patterns).await.unwrap();
    assert_eq!(other.run("GET text").await.to_text(), "hello");
    assert_eq!(other.run("GET mine").await.to_text(), "1");
    // and as a file
    let directory = tempfile::tempdir().unwrap();
    let to_file = Place::Directory { path: directory.path().to_owned() };
    live.restore(&backups, &manifest, to_file, Existing::Refuse, &patterns).await.unwrap();
    let copy = Live::start_in(|dir| {
        std::fs::copy(directory.path().join("dump.rdb"), dir.join("dump.rdb")).unwrap();
        Ok(())
    })
    .await;
    assert_eq!(copy.run("DBSIZE").await, Reply::Integer(3));
    assert_eq!(copy.run("HGET hash:small f3").await.to_text(), "-3");
}

#[tokio::test]
async fn keys_that_the_server_refuses_make_the_restore_fail_by_name() {
    let live = Live::start().await;
    live.run("CONFIG SET maxmemory-policy noeviction\nSET a 1").await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let other = Live::start().await;
    // every key but lifeboat's own marker is refused for want of rights
    other.run("ACL SETUSER default resetkeys ~lifeboat:*").await;
    let error =
        live.restore(&backups, &manifest, other.server.place(), Existing::Refuse, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("db0 a: NOPERM"), "{error}");
}

#[tokio::test]
async fn production_is_restored_as_a_file_only_while_it_is_down() {
    let mut live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    live.system =
        engine(Settings { data_dir: Some(live.server.place.dir.clone()), ..live.system.settings.clone() });
    live.run("FLUSHALL\nFUNCTION FLUSH").await;
    let wanted = request(&manifest, Place::Production, Existing::Refuse, &[]);
    let running = live.system.plan_restore(wanted.clone(), &live.job).await.unwrap();
    assert!(running.actions[0].starts_with("RESTORE every key"), "{:?}", running.actions);
    live.server.kill().await.unwrap();
    let plan = live.system.plan_restore(wanted.clone(), &live.job).await.unwrap();
    assert!(plan.actions[0].contains("dump.rdb") && plan.missing.is_empty(), "{plan:?}");
    // the server came back between plan and restore
    live.server.resume(&live.system, &live.job).await.unwrap();
    let error = live.system.restore(&plan, &backups, &live.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    live.server.kill().await.unwrap();
    live.system.restore(&plan, &backups, &live.job).await.unwrap();
    live.server.resume(&live.system, &live.job).await.unwrap();
    let checked = live.verify(&backups, &manifest, &Place::Production).await;
    assert_eq!(checked.level(), Some(EvidenceLevel::E4), "{checked:?}");
}

#[tokio::test]
async fn a_plan_says_what_is_missing() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let down = engine(Settings { port: free_port().unwrap(), ..Settings::default() });
    let wanted = request(&manifest, Place::Production, Existing::Refuse, &[]);
    let plan = down.plan_restore(wanted.clone(), &live.job).await.unwrap();
    assert!(plan.missing[0].contains("data_dir"), "{:?}", plan.missing);
    assert_eq!(down.restore(&plan, &backups, &live.job).await.unwrap_err().kind(), ErrorKind::Conflict);
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("appendonlydir")).unwrap();
    let with_log = engine(Settings { data_dir: Some(directory.path().to_owned()), ..down.settings });
    let plan = with_log.plan_restore(wanted, &live.job).await.unwrap();
    assert!(plan.missing[0].contains("appendonly"), "{:?}", plan.missing);
}

#[tokio::test]
async fn how_often_a_key_was_used_survives_both_ways() {
    let live = Live::start().await;
    live.run("CONFIG SET maxmemory-policy allkeys-lfu lfu-log-factor 0 lfu-decay-time 0\nSET often 1").await;
    live.run(&"GET often\n".repeat(20)).await;
    let before = live.run("OBJECT FREQ often").await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    live.run("FLUSHALL").await;
    live.restore(&backups, &manifest, Place::Production, Existing::Refuse, &[]).await.unwrap();
    assert_eq!(live.run("OBJECT FREQ often").await, before);
    live.restore(&backups, &manifest, Place::Production, Existing::Replace, &["o*"]).await.unwrap();
    assert_eq!(live.run("OBJECT FREQ often").await, before);
    assert!(before.integer() > Some(20), "{before:?}");
}
