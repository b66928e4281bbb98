//! What holds for a directory beyond the conformance suite: durability, rights, leftovers, full disks, abandoned puts.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::aside::publish_by_link;
use super::*;
use crate::storage::conformance;

fn storage() -> (tempfile::TempDir, LocalStorage) {
    let home = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(home.path().join("deep/er")).unwrap();
    (home, storage)
}

fn body(bytes: usize) -> Vec<Bytes> {
    vec![Bytes::from(vec![7; bytes])]
}

fn entries(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_directory_conforms() {
    let (_home, storage) = storage();
    conformance::check(&storage, &JobContext::plain()).await.unwrap();
    assert!(entries(storage.root()).is_empty(), "deleting leaves no empty directories");
}

#[tokio::test]
async fn files_and_directories_are_private() {
    let (_home, storage) = storage();
    let job = JobContext::plain();
    storage.put("a/b/c", body(3_000_000), Overwrite::Forbid, &job).await.unwrap();
    storage.put("a/b/d", body(3), Overwrite::Forbid, &job).await.unwrap();
    let mode =
        |path: &str| std::fs::metadata(storage.root().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("a/b/c"), mode("a/b/d")], [0o600; 2]);
    assert_eq!([mode(""), mode("a"), mode("a/b")], [0o700; 3]);
}

#[tokio::test]
async fn a_relative_root_is_refused() {
    let error = LocalStorage::open("backups".into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn leftovers_of_a_killed_writer_are_hidden_and_swept_when_old() {
    let (_home, storage) = storage();
    let job = JobContext::plain();
    storage.put("a/keep", body(1), Overwrite::Forbid, &job).await.unwrap();
    for directory in ["a", "b"] {
        std::fs::create_dir_all(storage.root().join(directory)).unwrap();
        let left = storage.root().join(directory).join(format!("{ASIDE_PREFIX}1-2"));
        std::fs::write(left, "half").unwrap();
    }
    std::fs::create_dir(storage.root().join("lost+found")).unwrap();
    std::fs::write(storage.root().join("lost+found/#1"), "x").unwrap();
    let listed = storage.list("", &job).await.unwrap();
    assert_eq!(listed.iter().map(|m| m.key.as_str()).collect::<Vec<_>>(), ["a/keep"]);
    assert_eq!(storage.sweep(Duration::from_secs(3600), &job).await.unwrap(), 0);
    assert_eq!(storage.sweep(Duration::ZERO, &job).await.unwrap(), 2);
    assert_eq!(entries(storage.root()), ["a", "a/keep", "lost+found", "lost+found/#1"]);
}

#[tokio::test]
async fn unfinished_writes_of_one_backup_are_discarded_at_once_and_no_others() {
    let (_home, storage) = storage();
    let job = JobContext::plain();
    for directory in ["dead", "alive"] {
        std::fs::create_dir_all(storage.root().join(directory)).unwrap();
        let half = storage.root().join(directory).join(format!("{ASIDE_PREFIX}1-2"));
        std::fs::write(half, "half").unwrap();
    }
    assert_eq!(storage.discard_unfinished("dead/", &job).await.unwrap(), 1);
    let left = format!("alive/{ASIDE_PREFIX}1-2");
    assert_eq!(entries(storage.root()), ["alive", left.as_str()]);
}

#[tokio::test]
async fn a_link_in_the_place_of_an_object_is_not_followed() {
    let (home, storage) = storage();
    let job = JobContext::plain();
    let outside = home.path().join("outside");
    std::fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, storage.root().join("link")).unwrap();
    assert_eq!(storage.get("link", &job).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(storage.stat("link", &job).await.unwrap().is_none());
    assert!(storage.list("", &job).await.unwrap().is_empty());
    storage.put("link", body(2), Overwrite::Allow, &job).await.unwrap();
    assert_eq!(std::fs::read(outside).unwrap(), b"secret");
}

#[tokio::test]
async fn a_cancelled_put_leaves_nothing() {
    let (_home, storage) = storage();
    let job = JobContext::plain();
    job.cancel();
    let error = storage.put("a/b", body(9), Overwrite::Allow, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    job.workers().drain().await;
    assert!(entries(storage.root()).is_empty());
}

#[tokio::test]
async fn a_put_stopped_between_two_pieces_leaves_nothing() {
    let (_home, storage) = storage();
    let job = JobContext::plain();
    let stop = Stop { job: job.clone(), token: CancellationToken::new() };
    // the writer asks before every piece; the token falls while the second one waits
    let beats = job.shared_progress();
    let token = stop.token.clone();
    let cancelling = std::thread::spawn(move || {
        while beats.beats() < 2 {
            std::thread::yield_now();
        }
        token.cancel();
    });
    let error = storage.put_now("a/b", &body(200 * 1024 * 1024), Overwrite::Allow, &stop).unwrap_err();
    cancelling.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(entries(storage.root()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_put_leaves_the_whole_object_or_nothing() {
    let (_home, storage) = storage();
    let job = JobContext::plain();
    let put = storage.put("a/b", body(64 * 1024 * 1024), Overwrite::Allow, &job);
    // begun, then abandoned
    assert!(tokio::time::timeout(Duration::from_millis(5), put).await.is_err());
    job.workers().drain().await;
    let left = entries(storage.root());
    let whole = ["a".to_owned(), "a/b".to_owned()];
    assert!(left.is_empty() || left == whole, "{left:?}");
}

/// A file system of one MiB, unmounted when dropped.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "lifeboat-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root: run the tests as root or in `unshare -rm`");
        Self(dir)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|s| s.success()), "unmounting failed");
    }
}

#[tokio::test]
async fn a_full_disk_is_exhausted_and_nothing_is_left_behind() {
    let disk = TinyDisk::mount();
    let job = JobContext::plain();
    let storage = LocalStorage::open(disk.0.path().join("backups")).unwrap();
    storage.put("a/small", body(1000), Overwrite::Forbid, &job).await.unwrap();
    // buffered, direct, and several pieces
    for bytes in [1024 * 1024 - 1, 1024 * 1024 + 1, 9_000_000] {
        let error = storage.put("b/c/large", body(bytes), Overwrite::Forbid, &job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.advice().unwrap().contains("free space"), "{error}");
    }
    assert_eq!(entries(storage.root()), ["a", "a/small"]);
    assert!(storage.free_bytes(&job).await.unwrap().unwrap() < 1024 * 1024);
    storage.put("b/c/large", body(5000), Overwrite::Forbid, &job).await.unwrap();
    drop(storage);
}

#[tokio::test]
async fn the_link_way_of_publishing_is_create_only_too() {
    let home = tempfile::tempdir().unwrap();
    let (aside, path) = (home.path().join("aside"), home.path().join("final"));
    std::fs::write(&aside, "new").unwrap();
    publish_by_link(&aside, &path).unwrap();
    std::fs::write(&aside, "newer").unwrap();
    assert_eq!(publish_by_link(&aside, &path).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[tokio::test]
async fn storage_that_cannot_be_written_is_told_at_once() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = LocalStorage::open(file.join("below")).unwrap_err();
    assert!(error.to_string().contains("make storage directory"), "{error}");
}
