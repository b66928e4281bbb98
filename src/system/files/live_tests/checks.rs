//! Verification by breaking what it checks; heartbeats, questions, settings.

use super::*;

#[tokio::test]
async fn each_kind_of_damage_to_a_restored_tree_goes_red() {
    let (fixture, full) = everything().await;
    let chain = [full];
    fixture.restore(&chain).await;
    let damages = [
        (
            "plain/large",
            "content",
            "touch -r plain/large ../stamp; printf X | dd of=plain/large bs=1 seek=5 conv=notrunc status=none; touch -r ../stamp plain/large",
        ),
        ("plain/file", "structure", "rm plain/file"),
        ("plain/intruder", "structure", ": > plain/intruder"),
        ("setuid", "metadata", "chmod 755 setuid"),
        ("plain/nothing", "metadata", "chown 1:1 plain/nothing"),
        ("plain/file", "metadata", "setfattr -x user.note plain/file"),
        ("sp ace", "structure", "rm -r 'sp ace'/*"),
        ("plain/link", "structure", "ln -sfn other plain/link"),
        ("plain/hard", "structure", "cp -a plain/hard ../h; mv ../h plain/hard"),
        ("deep/a/b/c", "metadata", "touch deep/a/b/c"),
        ("plain/fifo", "structure", "rm plain/fifo; : > plain/fifo"),
        ("missing", "structure", "find . -mindepth 1 -delete"),
    ];
    for (path, name, damage) in damages {
        let copy = fixture.copy();
        fs::remove_dir_all(&copy).unwrap();
        fixture.restore(&chain).await;
        assert_green(&fixture.verify(&chain, &fixture.place()).await);
        sh(&copy, damage);
        let verification = fixture.verify(&chain, &fixture.place()).await;
        let found = verification.failures().find(|c| c.name == name);
        assert!(found.is_some_and(|c| c.actual.contains(path)), "{damage}: {verification:#?}");
    }
    fs::remove_dir_all(fixture.copy()).unwrap();
    assert!(fixture.verify(&chain, &fixture.place()).await.is_red());
}

#[tokio::test]
async fn a_damaged_index_or_archive_is_noticed() {
    let (fixture, full) = everything().await;
    let chain = [full.clone()];
    fixture.restore(&chain).await;
    let good = fixture.bytes(&full, INDEX);
    let put = |name: &str, bytes: Vec<u8>| {
        fixture.backups.tamper(&full.id, &ArtifactName::parse(name).unwrap(), |_| bytes);
    };
    let text = String::from_utf8(good.clone()).unwrap();
    put(INDEX, text.replace("\"mode\":420", "\"mode\":421").into_bytes());
    assert!(fixture.verify(&chain, &fixture.place()).await.is_red());
    let verify = || fixture.system.verify(&chain, &Place::Production, &fixture.backups, &fixture.job);
    for cut in [0, 10, good.len() / 2, good.len() - 3] {
        put(INDEX, good[..cut].to_vec());
        assert_eq!(verify().await.unwrap_err().kind(), ErrorKind::Corrupt, "{cut}");
    }
    put(INDEX, good);
    fs::remove_dir_all(fixture.copy()).unwrap();
    let tar = fixture.bytes(&full, TREE);
    for cut in [0, 511, 512, 700, tar.len() / 2, tar.len() - 1024] {
        put(TREE, tar[..cut].to_vec());
        let request = fixture.request(&chain, fixture.place(), Existing::Refuse);
        let error = fixture.run(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{cut}: {error}");
        assert!(!fixture.copy().try_exists().unwrap());
    }
}

#[tokio::test]
async fn heartbeats_are_kept_bounded_and_left_out_of_comparisons() {
    use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
    let fixture = Fixture::new();
    fs::write(fixture.tree().join("f"), b"x").unwrap();
    let canary = fixture.system.canary().unwrap();
    let beat = |seq| CanaryRecord { seq, utc: fixture.job.now(), mac: "ab".to_owned() };
    assert!(canary.read(&Place::Production, &fixture.job).await.unwrap().is_empty());
    canary.write(&beat(0), &fixture.job).await.unwrap();
    let chain = [fixture.take(BackupKind::Full, &[]).await];
    fixture.restore(&chain).await;
    for seq in 1..=3 {
        canary.write(&beat(seq), &fixture.job).await.unwrap();
    }
    assert_green(&fixture.verify(&chain, &Place::Production).await);
    assert_green(&fixture.verify(&chain, &fixture.place()).await);
    assert_eq!(
        canary.read(&fixture.place(), &fixture.job).await.unwrap(),
        [beat(0)].map(|b| CanaryRecord { utc: canary_time(&fixture.copy()), ..b })
    );
    let line = fs::read_to_string(fixture.tree().join(".lifeboat-canary")).unwrap();
    let many = line.lines().last().unwrap().to_owned() + "\n";
    fs::write(fixture.tree().join(".lifeboat-canary"), many.repeat(CANARIES_KEPT + 5)).unwrap();
    canary.write(&beat(9), &fixture.job).await.unwrap();
    let kept = canary.read(&Place::Production, &fixture.job).await.unwrap();
    assert_eq!((kept.len(), kept.last().map(|r| r.seq)), (CANARIES_KEPT, Some(9)));
}

fn canary_time(dir: &Path) -> Timestamp {
    let text = fs::read_to_string(dir.join(".lifeboat-canary")).unwrap();
    let record: crate::domain::canary::CanaryRecord = serde_json::from_str(text.trim()).unwrap();
    record.utc
}

#[tokio::test]
async fn questions_about_a_tree_are_answered_inside_it_only() {
    let fixture = Fixture::new();
    sh(
        &fixture.tree(),
        "mkdir d; printf 'one\ntwo\n' > d/f; ln -s d/f in; ln -s /etc/passwd out; ln -s ../.. up",
    );
    let ask = |query: &'static str| {
        let queries = fixture.system.queries().unwrap();
        async move { queries.ask(&Place::Production, query, &JobContext::plain()).await }
    };
    assert_eq!(ask("size d/f").await.unwrap(), "8");
    assert_eq!(ask("d/f").await.unwrap(), "8");
    assert_eq!(ask("read in").await.unwrap(), "one");
    assert_eq!(ask("exists d/none").await.unwrap(), "false");
    assert_eq!(ask("exists d").await.unwrap(), "true");
    assert_eq!(ask("count").await.unwrap(), "5");
    let hash = sh(&fixture.tree(), "sha256sum < d/f");
    assert_eq!(ask("sha256 d/f").await.unwrap(), hash.split(' ').next().unwrap());
    for outside in ["read out", "size /etc/passwd", "size up/etc", "size ../state"] {
        assert_eq!(ask(outside).await.unwrap_err().kind(), ErrorKind::Denied, "{outside}");
    }
}

#[tokio::test]
async fn a_root_that_is_gone_is_down_and_settings_say_all_that_is_wrong() {
    let fixture = Fixture::new();
    assert_eq!(fixture.system.probe(&fixture.job).await.unwrap().state, HealthState::Healthy);
    fs::remove_dir(fixture.tree()).unwrap();
    assert_eq!(fixture.system.probe(&fixture.job).await.unwrap().state, HealthState::Down);
    let settings = FilesSettings {
        path: "relative".into(),
        exclude: vec!["ok".into(), "[".into(), "/abs".into()],
        one_file_system: false,
    };
    let keys: Vec<String> = FilesSystem::check(&settings).into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, ["path", "exclude[1]", "exclude[2]"]);
    assert!(toml::from_str::<FilesSettings>("path = '/x'\nexcluded = []").is_err());
}
