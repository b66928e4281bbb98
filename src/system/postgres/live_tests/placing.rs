//! Where restores go, and damaged backups.

use super::*;

fn tampered(name: &str, backups: &MemoryBackups, manifest: &Manifest, at: usize) {
    let name = ArtifactName::parse(name).unwrap();
    backups.tamper(&manifest.id, &name, |mut bytes| {
        bytes[at] ^= 1;
        bytes
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_and_leaves_nothing_in_place() {
    let (_server, system, job) = start().await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let home = home();
    let dir = home.path().join("data");
    tampered("base.tar", &backups, &chain[0], 5_000_000);
    let error = restore(&system, &chain, &dir, &backups, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(home.path().read_dir().unwrap().count(), 0);
    tampered("base.tar", &backups, &chain[0], 5_000_000);
    restore(&system, &chain, &dir, &backups, &job).await.unwrap();
    // what is there now is not ours to replace
    let error = restore(&system, &chain, &dir, &backups, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.advice().unwrap().contains("empty directory"));
    let replacing = RestoreRequest { existing: Existing::Replace, ..request(&chain, &dir, &job) };
    let plan = system.plan_restore(replacing, &job).await.unwrap();
    system.restore(&plan, &backups, &job).await.unwrap();
    // and the same run may repeat itself
    system.restore(&plan, &backups, &job).await.unwrap();
    assert_eq!(home.path().read_dir().unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_ends_before_its_point_fails_and_says_so() {
    let (_server, system, job) = start().await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let detail = crate::system::postgres::physical::Detail::of(&chain[0]).unwrap();
    let point: crate::system::postgres::lsn::Lsn = chain[0].captured.position.end.parse().unwrap();
    let name = format!("wal/{}", detail.shape().name(detail.shape().number(point)));
    let offset = usize::try_from(point.0 % detail.segment_bytes).unwrap();
    backups.tamper(&chain[0].id, &ArtifactName::parse(name).unwrap(), |mut bytes| {
        bytes[offset..].fill(0);
        bytes
    });
    let home = home();
    let restored = restore(&system, &chain, &home.path().join("data"), &backups, &job).await.unwrap();
    let error = start_on(&system, home, restored, &job).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("recovery target"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_waits_for_the_server_to_stop_and_keeps_what_was_there() {
    let (mut server, _, job) = start().await;
    let system = engine(Settings { data_dir: Some(server.place.dir.clone()), ..at(server.place.port) });
    fill(&system, &tablespace_dir(&server), &job).await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let in_place = RestoreRequest {
        place: Place::Production,
        existing: Existing::Replace,
        ..request(&chain, Path::new("/nonexistent"), &job)
    };
    let plan = system.plan_restore(in_place, &job).await.unwrap();
    assert!(!plan.missing.is_empty());
    assert_eq!(system.restore(&plan, &backups, &job).await.unwrap_err().kind(), ErrorKind::Conflict);
    server.kill().await.unwrap();
    let restored = system.restore(&plan, &backups, &job).await.unwrap();
    assert!(restored.notes.iter().any(|n| n.contains("was kept as")), "{:?}", restored.notes);
    // the engine's own configuration is part of the base here
    server.resume(&system, &job).await.unwrap();
    assert_content(&verify(&system, &chain, &Place::Production, &backups, &job).await);
    // a promoted server is on a new timeline
    let next = backups.take(&system, BackupKind::Incremental, &chain, &job).await.unwrap();
    assert_eq!(next.kind, BackupKind::Full);
    let copy = bring_up(&system, std::slice::from_ref(&next), &backups, &job).await;
    assert_content(&verify(&system, &[next], &copy.place, &backups, &job).await);
}
