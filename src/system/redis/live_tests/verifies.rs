//! The verifier, tested by breaking what it checks.

use super::*;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::verification::Outcome;
use crate::system::testing::free_port;

#[tokio::test]
async fn every_change_to_the_copy_is_seen() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let place = live.server.place();
    assert_eq!(live.verify(&backups, &manifest, &place).await.level(), Some(EvidenceLevel::E4));
    for change in [
        "SET text hellO",
        "DEL text",
        "SET stranger 1",
        "FLUSHDB",
        "SELECT 15\nFLUSHDB",
        "FLUSHALL",
        "SELECT 7\nSET stranger 1",
        "PEXPIREAT small:ttl 4102444800124",
        "PERSIST small:ttl",
        "PEXPIREAT text 4102444800124",
        "RENAME text texts",
        "LSET list:small 1 B",
        "LSET list:small 0 b\nLSET list:small 1 a",
        "SREM set:ints 3",
        "SMOVE set:texts set:ints a",
        "ZINCRBY zset:small 0.001 a",
        "HSET hash:long new 1",
        "HSET hash:small f1 2 f2 v1",
        "XADD stream 3-1 a 1",
        "XDEL stream 2-1",
        "XACK stream group 1-1",
        "XGROUP DESTROY stream idle",
        "XGROUP DELCONSUMER stream group bob",
        "SWAPDB 3 4",
        "FUNCTION DELETE lib",
        "DEL set:texts\nRPUSH set:texts a b c",
    ] {
        live.run(change).await;
        let checked = live.verify(&backups, &manifest, &place).await;
        assert!(checked.is_red(), "not seen: {change}");
        assert!(checked.level() < Some(EvidenceLevel::E4), "{change}");
        live.restore(&backups, &manifest, place.clone(), Existing::Replace, &[]).await.unwrap();
    }
    let checked = live.verify(&backups, &manifest, &place).await;
    assert_eq!(checked.level(), Some(EvidenceLevel::E4), "{checked:?}");
}

#[tokio::test]
async fn a_damaged_or_missing_copy_is_red() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Directory { path: directory.path().to_owned() };
    assert!(live.verify(&backups, &manifest, &place).await.is_red());
    live.restore(&backups, &manifest, place.clone(), Existing::Refuse, &[]).await.unwrap();
    let file = directory.path().join("dump.rdb");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let checked = live.verify(&backups, &manifest, &place).await;
    assert!(checked.is_red() && checked.level().is_none(), "{checked:?}");
    let down = engine(Settings { port: free_port().unwrap(), ..Settings::default() });
    let chain = [manifest];
    let checked = down.verify(&chain, &Place::Production, &backups, &live.job).await.unwrap();
    assert!(checked.is_red());
}

#[tokio::test]
async fn an_empty_backup_and_an_empty_copy_prove_nothing() {
    let live = Live::start().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let checked = live.verify(&backups, &manifest, &live.server.place()).await;
    assert!(!checked.is_red());
    assert!(checked.checks.iter().any(|c| c.outcome == Outcome::Inconclusive));
    assert!(checked.level() < Some(EvidenceLevel::E4));
}

#[tokio::test]
async fn keys_that_expired_since_the_capture_are_told_apart_from_lost_ones() {
    let live = Live::filled().await;
    let soon = (live.job.now().timestamp_millis() + 2500).to_string();
    live.run(&format!("SET brief 1 PXAT {soon}\nSET brief2 1 PXAT {soon}")).await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    assert_eq!(manifest.captured.fingerprint.items["db0"].count, 20);
    while live.run("EXISTS brief").await == Reply::Integer(1) {
        live.job.sleep("wait for expiry", std::time::Duration::from_millis(50)).await.unwrap();
    }
    let place = live.server.place();
    let checked = live.verify(&backups, &manifest, &place).await;
    assert_eq!(checked.level(), Some(EvidenceLevel::E4), "{checked:?}");
    let told = checked.checks.iter().find(|c| c.name == "expired since the capture").unwrap();
    assert!(told.actual.starts_with("2 keys"), "{told:?}");
    let restored = live.restore(&backups, &manifest, place.clone(), Existing::Replace, &[]).await.unwrap();
    assert_eq!(restored.items, 21);
    assert!(restored.notes[0].starts_with("2 keys had expired"), "{:?}", restored.notes);
    assert!(!live.verify(&backups, &manifest, &place).await.is_red());
    live.run("DEL text").await;
    assert!(live.verify(&backups, &manifest, &place).await.is_red());
}
