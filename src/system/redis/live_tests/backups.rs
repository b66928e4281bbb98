//! Taking backups, and canaries and queries.

use super::super::backup::Detail;
use super::super::snapshot::{Snapshot, Transfer};
use super::*;
use crate::domain::backup::WatermarkSource;
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::id::ArtifactName;
use crate::error::ErrorKind;
use crate::runtime::child::Program;
use crate::system::{Canary, HealthState, Queries};

fn detail(manifest: &Manifest) -> Detail {
    serde_json::from_value(manifest.captured.detail.clone()).unwrap()
}

#[tokio::test]
async fn a_backup_counts_every_key_by_database_and_type() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let captured = &manifest.captured;
    let counts: Vec<_> = captured.fingerprint.items.iter().map(|(n, d)| (n.as_str(), d.count)).collect();
    assert_eq!(counts, [("db0", 18), ("db15", 1), ("db3", 2), ("functions", 1)]);
    let profile = detail(&manifest).profile;
    assert_eq!(profile.databases["db0"].expiring, 3);
    assert_eq!(profile.databases["db0"].types.len(), 6);
    assert_eq!(captured.watermark.unwrap().source, WatermarkSource::Engine);
    assert!(captured.server_version.starts_with("Redis ") || captured.server_version.starts_with("Valkey "));
    let names: Vec<String> = manifest.artifacts.iter().map(|a| a.name.to_string()).collect();
    assert_eq!(names, ["acl.txt", "config.txt", "dump.rdb"]);
    let artifacts = backups.artifacts(&manifest.id);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &artifacts[2].1).unwrap();
    let checker = Program::find("redis-check-rdb", &[], "").unwrap().arg(file.path());
    checker.output(&live.job).await.unwrap();
}

#[tokio::test]
async fn secrets_of_the_configuration_are_left_out() {
    let live = Live::start().await;
    live.run("CONFIG SET masterauth s3cret-of-master\nSET a b").await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let artifacts = backups.artifacts(&manifest.id);
    let config = String::from_utf8(artifacts[1].1.to_vec()).unwrap();
    assert!(config.contains("maxmemory-policy") && !config.contains("s3cret"), "{config}");
    assert!(!serde_json::to_string(&manifest).unwrap().contains("user default"));
}

#[tokio::test]
async fn an_incremental_request_gives_a_full_backup_and_says_so() {
    let live = Live::start().await;
    live.run("SET a b").await;
    let backups = MemoryBackups::default();
    let manifest = backups.take(&live.system, BackupKind::Incremental, &[], &live.job).await.unwrap();
    assert_eq!(manifest.kind, BackupKind::Full);
    assert!(manifest.captured.notes[0].contains("full"), "{:?}", manifest.captured.notes);
}

#[tokio::test]
async fn a_delay_for_diskless_snapshots_is_avoided_and_both_ways_give_the_same() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let diskless = live.take(&backups).await.unwrap();
    live.run("CONFIG SET repl-diskless-sync-delay 3600").await;
    let disk = live.take(&backups).await.unwrap();
    assert_eq!((detail(&diskless).transfer.as_str(), detail(&disk).transfer.as_str()), ("diskless", "disk"));
    assert_eq!(diskless.captured.fingerprint, disk.captured.fingerprint);
}

#[tokio::test]
async fn a_server_that_cannot_write_its_disk_is_read_diskless() {
    let live = Live::start().await;
    live.run("SET a b\nCONFIG SET repl-diskless-sync-delay 1").await;
    std::fs::set_permissions(&live.server.place.dir, std::os::unix::fs::PermissionsExt::from_mode(0o500))
        .unwrap();
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    assert_eq!(detail(&manifest).transfer, "diskless");
}

#[tokio::test]
async fn a_server_killed_in_the_middle_is_an_error_not_an_end() {
    let mut live = Live::filled().await;
    // so slow that it cannot be done before the kill
    live.run("CONFIG SET rdb-key-save-delay 200000").await;
    let endpoint = live.system.settings.endpoint();
    let mut snapshot = Snapshot::begin(&endpoint, Transfer::Diskless, &live.job).await.unwrap();
    // the server's child goes too: it writes into a pipe that nobody reads any more
    live.server.kill().await.unwrap();
    let error = loop {
        match snapshot.next(&live.job).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cut snapshot came to an end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let error = live.take(&MemoryBackups::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(live.system.probe(&live.job).await.unwrap().state, HealthState::Down);
}

#[tokio::test]
async fn a_healthy_server_is_probed_as_healthy() {
    let live = Live::filled().await;
    let health = live.system.probe(&live.job).await.unwrap();
    assert_eq!(health.state, HealthState::Healthy, "{health:?}");
    assert!(health.summary.contains("21 keys in 3 databases"), "{}", health.summary);
}

#[tokio::test]
async fn canaries_are_kept_in_number_read_back_and_not_counted_as_content() {
    let live = Live::start().await;
    live.run("SET a b").await;
    let backups = MemoryBackups::default();
    let before = live.take(&backups).await.unwrap();
    for seq in 0..CANARIES_KEPT as u64 + 3 {
        let record = CanaryRecord { seq, utc: live.job.now(), mac: "00".to_owned() };
        live.system.write(&record, &live.job).await.unwrap();
    }
    let read = live.system.read(&live.server.place(), &live.job).await.unwrap();
    assert_eq!((read.len(), read[0].seq), (CANARIES_KEPT, 3));
    let after = live.take(&backups).await.unwrap();
    assert_eq!(before.captured.fingerprint, after.captured.fingerprint);
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Directory { path: directory.path().to_owned() };
    live.restore(&backups, &after, place.clone(), Existing::Refuse, &[]).await.unwrap();
    assert_eq!(live.system.read(&place, &live.job).await.unwrap(), read);
    let mark = live.system.watermark(&place, &live.job).await.unwrap().unwrap();
    assert_eq!(Some(mark), after.captured.watermark);
}

#[tokio::test]
async fn queries_read_any_database_and_refuse_to_write() {
    let live = Live::filled().await;
    let place = live.server.place();
    for (query, answer) in [
        ("GET text", "hello"),
        ("@3 get 'text'", "other"),
        ("LLEN list:small", "4"),
        ("HMGET hash:small f1 nothing f2", "v1\n\n2"),
        ("DBSIZE", "18"),
        ("GET nothing", ""),
    ] {
        assert_eq!(live.system.ask(&place, query, &live.job).await.unwrap(), answer, "{query}");
    }
    for query in ["SET a b", "FLUSHALL", "CONFIG SET save x", "SHUTDOWN", "EVAL x 0", "nonsense"] {
        let error = live.system.ask(&place, query, &live.job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{query}");
    }
    let error = live.system.ask(&place, "LPUSH", &live.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_damaged_dump_is_refused_before_anything_is_touched() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    let manifest = live.take(&backups).await.unwrap();
    let dump = ArtifactName::parse("dump.rdb").unwrap();
    backups.tamper(&manifest.id, &dump, |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    });
    let place = live.server.place();
    let error = live.restore(&backups, &manifest, place, Existing::Replace, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(live.run("DBSIZE").await, Reply::Integer(18));
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Directory { path: directory.path().to_owned() };
    let error = live.restore(&backups, &manifest, place, Existing::Refuse, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
