//! Restores: everything comes back, nothing leaves the target, nothing there is lost.

use super::*;

#[tokio::test]
async fn everything_comes_back_as_it_was() {
    let (fixture, full) = everything().await;
    let chain = [full];
    let restored = fixture.restore(&chain).await;
    assert_eq!(restored.notes, Vec::<String>::new());
    assert_eq!(portrait(&fixture.copy()), portrait(&fixture.tree()));
    assert_green(&fixture.verify(&chain, &fixture.place()).await);
    assert_green(&fixture.verify(&chain, &Place::Production).await);
    let kept = fs::metadata(fixture.copy().join("plain/sparse")).unwrap();
    assert!(kept.blocks() * 512 < 1_000_000, "{} blocks", kept.blocks());
    assert_eq!(fs::metadata(fixture.copy().join("plain/hole")).unwrap().blocks(), 0);
}

#[tokio::test]
async fn gnu_tar_alone_gets_everything_out() {
    let (fixture, full) = everything().await;
    let archive = fixture.home.path().join("tree.tar");
    fs::write(&archive, fixture.bytes(&full, TREE)).unwrap();
    fs::create_dir(fixture.copy()).unwrap();
    let untar = "tar --xattrs --xattrs-include='*' -xf ../tree.tar --warning=no-unknown-keyword";
    sh(&fixture.copy(), untar);
    // this name is not one that tar can hold, and tar itself does not link fifos
    let adjust = "setfattr -x user.a=b plain/file; rm plain/fifo-hard; ln plain/fifo plain/fifo-hard";
    sh(&fixture.tree(), "setfattr -x user.a=b plain/file");
    sh(&fixture.copy(), adjust.split_once("; ").unwrap().1);
    sh(&fixture.copy(), "touch -r ../tree/plain plain; touch -r ../tree .");
    assert_eq!(portrait(&fixture.copy()), portrait(&fixture.tree()));
    let kept = fs::metadata(fixture.copy().join("plain/sparse")).unwrap();
    assert!(kept.blocks() * 512 < 1_000_000);
}

#[tokio::test]
async fn device_nodes_come_back_in_production_only_and_sockets_are_named() {
    let fixture = Fixture::new();
    sh(&fixture.tree(), "printf x > f; mknod null c 1 3; mknod disk b 7 200; ln null null-hard");
    let _socket = std::os::unix::net::UnixListener::bind(fixture.tree().join("socket")).unwrap();
    let full = fixture.take(BackupKind::Full, &[]).await;
    assert!(full.captured.notes.iter().any(|n| n.contains("sockets") && n.contains("socket")));
    let chain = [full];
    let restored = fixture.restore(&chain).await;
    assert!(restored.notes.iter().any(|n| n.contains("3 device nodes")), "{:?}", restored.notes);
    assert_green(&fixture.verify(&chain, &fixture.place()).await);

    let request = fixture.request(&chain, Place::Production, Existing::Replace);
    fixture.run(request).await.unwrap();
    let null = fs::metadata(fixture.tree().join("null-hard")).unwrap();
    assert_eq!((null.rdev(), null.nlink()), (rustix::fs::makedev(1, 3), 2));
    assert_green(&fixture.verify(&chain, &Place::Production).await);
}

#[tokio::test]
async fn a_member_that_points_outside_the_target_is_refused() {
    use crate::archive::{END, Kind, Member, encode};
    let fixture = Fixture::new();
    fs::write(fixture.tree().join("f"), b"x").unwrap();
    let full = fixture.take(BackupKind::Full, &[]).await;
    let victim = fixture.home.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let member = |path: &str, kind: Kind, link: &str| Member {
        path: path.as_bytes().to_vec(),
        kind,
        link: link.as_bytes().to_vec(),
        mode: 0o755,
        ..Member::default()
    };
    let victim_path = victim.to_str().unwrap();
    let attacks: Vec<Vec<Member>> = vec![
        vec![member("../victim/f", Kind::File, "")],
        vec![member("a/../../victim/f", Kind::File, "")],
        vec![member(&format!("{victim_path}/f"), Kind::File, "")],
        vec![member("l", Kind::Symlink, victim_path), member("l/f", Kind::File, "")],
        vec![member("l", Kind::Symlink, ".."), member("l/victim/d", Kind::Directory, "")],
        vec![member("h", Kind::HardLink, "../tree/f")],
        vec![member("l", Kind::Symlink, ".."), member("h", Kind::HardLink, "l/tree/f")],
        vec![member("x", Kind::File, ""), member("x/f", Kind::File, "")],
    ];
    for attack in attacks {
        let mut tar = Vec::new();
        for member in &attack {
            encode(member, &mut tar);
        }
        tar.extend_from_slice(&END);
        fixture.backups.tamper(&full.id, &ArtifactName::parse(TREE).unwrap(), |_| tar);
        let request = fixture.request(std::slice::from_ref(&full), fixture.place(), Existing::Refuse);
        let error = fixture.run(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{attack:?}: {error}");
        assert!(!sh(fixture.home.path(), "ls -d *").contains("copy"));
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
        assert!(!fixture.copy().try_exists().unwrap());
    }
}

#[tokio::test]
async fn deletions_that_point_outside_are_refused() {
    let fixture = Fixture::new();
    sh(&fixture.tree(), "mkdir d; echo x > d/f; ln -s ../../victim l");
    let victim = fixture.home.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("f"), b"x").unwrap();
    let full = fixture.take(BackupKind::Full, &[]).await;
    let next = fixture.take(BackupKind::Incremental, std::slice::from_ref(&full)).await;
    for bad in [&b"../victim\0"[..], b"/etc/hostname\0", b"\0", b"d/f"] {
        fixture.backups.tamper(&next.id, &ArtifactName::parse(DELETED).unwrap(), |_| bad.to_vec());
        let request = fixture.request(&[full.clone(), next.clone()], fixture.place(), Existing::Refuse);
        let error = fixture.run(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    fixture.backups.tamper(&next.id, &ArtifactName::parse(DELETED).unwrap(), |_| b"l/f\0".to_vec());
    let request = fixture.request(&[full, next], fixture.place(), Existing::Refuse);
    let result = fixture.run(request).await;
    assert!(victim.join("f").try_exists().unwrap(), "{result:?}");
}

#[tokio::test]
async fn a_target_that_holds_files_is_refused_or_kept_aside() {
    let fixture = Fixture::new();
    fs::write(fixture.tree().join("f"), b"as captured").unwrap();
    let chain = [fixture.take(BackupKind::Full, &[]).await];
    fs::write(fixture.tree().join("f"), b"damaged").unwrap();
    fs::write(fixture.tree().join("late"), b"late").unwrap();
    let request = fixture.request(&chain, Place::Production, Existing::Refuse);
    let error = fixture.system.plan_restore(request, &fixture.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.advice().is_some());

    let request = fixture.request(&chain, Place::Production, Existing::Replace);
    let run = request.run.clone();
    // a dead attempt of the same run
    let staging = fixture.home.path().join(format!("tree.lifeboat-{run}"));
    fs::create_dir_all(staging.join("half")).unwrap();
    let restored = fixture.run(request).await.unwrap();
    assert_eq!(fs::read(fixture.tree().join("f")).unwrap(), b"as captured");
    assert!(!fixture.tree().join("late").try_exists().unwrap());
    assert!(!staging.try_exists().unwrap());
    let old = fixture.home.path().join(format!("tree.lifeboat-old-{run}"));
    assert_eq!(fs::read(old.join("late")).unwrap(), b"late");
    assert!(restored.notes.iter().any(|n| n.contains("lifeboat-old")), "{:?}", restored.notes);
    assert_green(&fixture.verify(&chain, &Place::Production).await);
}

#[tokio::test]
async fn paths_longer_than_the_system_takes_at_once_come_back() {
    let fixture = Fixture::new();
    let root = Arc::new(backup::open_root(&fixture.tree()).unwrap());
    let mut stack = crate::archive::DirStack::new(root);
    let part = [b'p'; 250];
    let deep = vec![&part[..]; 30].join(&b'/');
    let dir = stack.open(&deep, crate::archive::Missing::Create).unwrap();
    let make = |name: &str, bytes: &[u8]| {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let fd = rustix::fs::openat(&*dir, name, flags, Mode::from_raw_mode(0o640)).unwrap();
        rustix::io::write(&fd, bytes).unwrap();
    };
    make("bottom", b"far down");
    rustix::fs::symlinkat("bottom", &*dir, "link").unwrap();
    rustix::fs::linkat(&*dir, "bottom", &*dir, "hard", rustix::fs::AtFlags::empty()).unwrap();
    let full = fixture.take(BackupKind::Full, &[]).await;
    assert_eq!(detail_of(&full).unwrap().entries, 34);
    make("later", b"later");
    let next = fixture.take(BackupKind::Incremental, std::slice::from_ref(&full)).await;
    let chain = [full, next];
    fixture.restore(&chain).await;
    let verification = fixture.verify(&chain, &fixture.place()).await;
    assert_green(&verification);
    assert_eq!(verification.compared, 35);
}

#[tokio::test]
async fn excluded_paths_stay_out_and_a_selection_takes_what_it_names() {
    let fixture = Fixture::with(&["*.tmp", "cache"]);
    sh(
        &fixture.tree(),
        "mkdir -p cache/x docs/en docs/de other/cache; echo 1 > cache/x/f; echo 2 > docs/en/a.txt; echo 3 > docs/de/b.md
         echo 4 > junk.tmp; echo 5 > other/cache/f; ln docs/en/a.txt zz; ln docs/en/a.txt zzz; chmod 711 docs",
    );
    let chain = [fixture.take(BackupKind::Full, &[]).await];
    let mut request = fixture.request(&chain, fixture.place(), Existing::Refuse);
    request.selection.patterns = vec!["docs/de".to_owned(), "zz*".to_owned()];
    fixture.run(request).await.unwrap();
    let found = sh(&fixture.copy(), "find . -mindepth 1 -printf '%P %m %n\n' | sort");
    assert_eq!(found, "docs 711 3\ndocs/de 755 2\ndocs/de/b.md 644 1\nzz 644 2\nzzz 644 2\n");
    assert_eq!(fs::read(fixture.copy().join("zzz")).unwrap(), b"2\n");
    fs::remove_dir_all(fixture.copy()).unwrap();
    fixture.restore(&chain).await;
    let found = sh(&fixture.copy(), "find . -type f -printf '%P ' | sort");
    assert!(found.contains("other/cache/f") && !found.contains("junk.tmp") && !found.contains("cache/x"));
    assert_green(&fixture.verify(&chain, &Place::Production).await);
}

#[tokio::test]
async fn a_chain_is_applied_with_tar_and_rm_alone() {
    let fixture = Fixture::new();
    sh(
        &fixture.tree(),
        "mkdir -p d/e gone; echo 1 > d/f; echo 2 > gone/f; ln d/f d/h; echo 3 > turns; mkdir back; echo 4 > back/f",
    );
    let full = fixture.take(BackupKind::Full, &[]).await;
    sh(
        &fixture.tree(),
        "rm -r gone; echo changed > d/f; rm turns; mkdir turns; echo 5 > turns/f; rm -r back; echo 6 > back",
    );
    let next = fixture.take(BackupKind::Incremental, std::slice::from_ref(&full)).await;
    fs::create_dir(fixture.copy()).unwrap();
    for (name, bytes) in [
        ("full.tar", fixture.bytes(&full, TREE)),
        ("next.tar", fixture.bytes(&next, TREE)),
        ("deleted", fixture.bytes(&next, DELETED)),
    ] {
        fs::write(fixture.home.path().join(name), bytes).unwrap();
    }
    sh(&fixture.copy(), "tar -xf ../full.tar; xargs -0r rm -rf -- < ../deleted; tar -xf ../next.tar");
    // tar itself gives a new time to a directory whose files it replaces
    sh(&fixture.copy(), "touch -r ../tree/d d");
    assert_eq!(portrait(&fixture.copy()), portrait(&fixture.tree()));
}
