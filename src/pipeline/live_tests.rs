//! A backup is recovered with `age`, `zstd`, `tar` and a shell alone, by the very commands of `docs/formats.md`.
//! Needs these programs and `openssl`, `jq`, `sha256sum`; one that is missing fails the test.

use std::path::Path;

use bytes::Bytes;

use super::manifest;
use super::testing::{DirStorage, Fixture, noise};
use crate::domain::id::ArtifactName;
use crate::runtime::JobContext;
use crate::runtime::child::Program;
use crate::storage::Storage;
use crate::system::BackupSink;

const FORMATS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/formats.md"));

/// The shell script below the heading `<!-- name -->` of the document.
fn script(name: &str) -> &'static str {
    let (_, after) = FORMATS.split_once(&format!("<!-- {name} -->")).unwrap();
    let (_, code) = after.split_once("```sh\n").unwrap();
    code.split_once("```").unwrap().0
}

async fn sh(
    script: &str,
    dir: &Path,
    settings: &[(&str, &Path)],
    job: &JobContext,
) -> Result<String, String> {
    let mut program =
        Program::find("sh", &[], "install a shell").unwrap().args(["-eu", "-c", script]).dir(dir);
    for (key, value) in settings {
        program = program.env(key, value);
    }
    match program.output(job).await {
        Ok(output) => Ok(String::from_utf8(output.to_vec()).unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

struct Backup {
    fixture: Fixture,
    storage: std::sync::Arc<DirStorage>,
    dir: std::path::PathBuf,
    tree: tempfile::TempDir,
    job: JobContext,
}

/// A tree of files in a tar artifact of several segments, committed in a real directory.
async fn backup() -> Backup {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir(tree.path().join("sub")).unwrap();
    std::fs::write(tree.path().join("sub/big"), noise(11, 900_000)).unwrap();
    std::fs::write(tree.path().join("small"), "hello\n").unwrap();
    let tar = Program::find("tar", &[], "install tar").unwrap();
    let mut archive = tar.args(["-cf", "-", "-C"]).arg(tree.path()).arg(".").start(&job).unwrap();
    let sink = fixture.sink(&storage, 1, &job);
    let mut writer = sink.artifact(&ArtifactName::parse("tree.tar").unwrap()).await.unwrap();
    while let Some(chunk) = archive.next(&job).await.unwrap() {
        writer.write(chunk).await.unwrap();
    }
    writer.finish().await.unwrap();
    let mut text = sink.artifact(&ArtifactName::parse("notes/read.me").unwrap()).await.unwrap();
    text.write(Bytes::from_static(b"a note\n")).await.unwrap();
    text.finish().await.unwrap();
    let manifest = fixture.manifest(1, sink.finish().await.unwrap());
    assert!(manifest.artifacts[1].segments.len() > 10);
    manifest::commit(&*storage, &manifest, &fixture.signing, &job).await.unwrap();
    let dir = storage.path(&manifest.prefix());
    Backup { fixture, storage, dir, tree, job }
}

#[tokio::test]
async fn a_backup_is_recovered_with_age_zstd_tar_and_a_shell_alone() {
    let b = backup().await;
    let out = tempfile::tempdir().unwrap();
    let settings =
        [("BACKUP", b.dir.as_path()), ("KEY", b.fixture.identity_file.as_path()), ("OUT", out.path())];
    sh(script("extract"), out.path(), &settings, &b.job).await.unwrap();
    sh(script("unpack"), out.path(), &settings, &b.job).await.unwrap();
    let same = Program::find("diff", &[], "install diffutils").unwrap().arg("-r");
    let restored = out.path().join("tree");
    same.arg(b.tree.path()).arg(&restored).output(&b.job).await.unwrap();
    assert_eq!(std::fs::read(out.path().join("notes/read.me")).unwrap(), b"a note\n");
}

#[tokio::test]
async fn checksums_and_signature_are_checked_without_lifeboat() {
    let b = backup().await;
    let signers = b.fixture.home.path().join("signers.txt");
    let settings = [("BACKUP", b.dir.as_path()), ("SIGNERS", signers.as_path())];
    let work = tempfile::tempdir().unwrap();
    let seen = sh(script("check"), work.path(), &settings, &b.job).await.unwrap();
    assert!(seen.contains("Signature Verified Successfully"), "{seen}");
    assert!(seen.contains("tree.tar/000001.zst.age: OK"), "{seen}");

    let first = b.dir.join("tree.tar/000001.zst.age");
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&first, &bytes).unwrap();
    assert!(sh(script("check"), work.path(), &settings, &b.job).await.is_err(), "a flipped byte");
    bytes[1000] ^= 1;
    std::fs::write(&first, &bytes).unwrap();
    sh(script("check"), work.path(), &settings, &b.job).await.unwrap();
    let listed = b.storage.list("", &b.job).await.unwrap();
    let key = &listed.iter().find(|o| manifest::is_manifest_key(&o.key)).unwrap().key;
    b.storage.change(key, |bytes| {
        let at = bytes.windows(5).position(|w| w == b"files").unwrap();
        bytes[at] = b'F';
    });
    assert!(sh(script("check"), work.path(), &settings, &b.job).await.is_err(), "an altered manifest");
}

#[tokio::test]
async fn a_damaged_segment_stops_the_shell_too() {
    let b = backup().await;
    let damaged = b.dir.join("tree.tar/000002.zst.age");
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let settings =
        [("BACKUP", b.dir.as_path()), ("KEY", b.fixture.identity_file.as_path()), ("OUT", out.path())];
    assert!(sh(script("extract"), out.path(), &settings, &b.job).await.is_err());
}
