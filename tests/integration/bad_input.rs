//! Stored backups that were damaged or mixed up, wrong keys, a full disk: found, said, and never restored or listed as good.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::World;
use crate::support::content::{files_below, fill_many_documents, names, notes};

/// A world with one backup of the notes, and its id.
fn protected() -> (World, String) {
    let world = World::new();
    let id = world.backup("notes");
    (world, id)
}

/// Path of the first stored file whose key ends in `end`.
fn stored(world: &World, end: &str) -> PathBuf {
    let found = world.stored().into_iter().find(|f| f.ends_with(end)).unwrap();
    world.store().join(found)
}

/// A damaged backup is restored nowhere and is red when it is verified; afterwards it is no point to restore from.
#[track_caller]
fn assert_refused(world: &World, id: &str, code: i32) {
    let to = world.path("out");
    world.tell(&["restore", id, "--to", to.to_str().unwrap()]).ended(code).says(&["000002.zst.age"]);
    assert!(!to.try_exists().unwrap() || names(&to).is_empty(), "a damaged backup was restored");
    let before = notes(&world.notes());
    world.tell(&["restore", id, "--in-place", "--overwrite", "--no-safety-backup"]).ended(code);
    assert_eq!(notes(&world.notes()), before, "production was touched");
    assert_eq!(names(&world.path("notes")), ["notes.sqlite"], "the failed restore left files");

    let said = world.ask(&["verify", id]).ended(9).json();
    assert_eq!(said["verified"][0]["green"], false);
    assert_eq!(world.listed()[0]["state"], "FAILED");
    world
        .tell(&["restore", "--system", "notes", "--to", to.to_str().unwrap()])
        .ended(6)
        .says(&["usable backup"]);
    world.tell(&["drill", "sqlite-damaged"]).ended(7).says(&["no usable backup"]);
    world.assert_nothing_left();
}

#[test]
fn a_truncated_segment_is_refused() {
    let (world, id) = protected();
    let segment = stored(&world, "000002.zst.age");
    let file = std::fs::File::options().write(true).open(&segment).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    assert_refused(&world, &id, 9);
}

#[test]
fn a_flipped_byte_is_refused() {
    let (world, id) = protected();
    let segment = stored(&world, "000002.zst.age");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_refused(&world, &id, 9);
}

#[test]
fn a_missing_segment_is_refused() {
    let (world, id) = protected();
    std::fs::remove_file(stored(&world, "000002.zst.age")).unwrap();
    assert_refused(&world, &id, 9);
}

#[test]
fn segments_in_each_others_place_are_refused() {
    let (world, id) = protected();
    let (one, two) = (stored(&world, "000001.zst.age"), stored(&world, "000002.zst.age"));
    let first = std::fs::read(&one).unwrap();
    std::fs::rename(&two, &one).unwrap();
    std::fs::write(&two, first).unwrap();
    let said = world.ask(&["verify", &id]).ended(9).json();
    assert_eq!(said["verified"][0]["green"], false);
}

#[test]
fn an_altered_manifest_is_not_believed() {
    let (world, id) = protected();
    let manifest = stored(&world, "manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let altered = text.replace("notes.sqlite", "other.sqlite");
    assert_ne!(text, altered);
    std::fs::write(&manifest, altered).unwrap();
    world.ask(&["verify", &id]).ended(9);
    assert_not_rebuilt(&world, 0);
}

#[test]
fn a_manifest_in_the_place_of_another_backup_is_not_believed() {
    let (world, first) = protected();
    let second = world.backup("notes");
    let of = |id: &str| stored(&world, &format!("{id}/manifest.json"));
    std::fs::copy(of(&first), of(&second)).unwrap();
    world.ask(&["verify", &second]).ended(9);
    assert_not_rebuilt(&world, 1);
}

/// A rebuilt catalog lists `good` backups and refuses exactly one manifest.
#[track_caller]
fn assert_not_rebuilt(world: &World, good: usize) {
    for file in files_below(&world.path("state")).iter().filter(|f| f.starts_with("catalog.sqlite")) {
        std::fs::remove_file(world.path("state").join(file)).unwrap();
    }
    let rebuilt = world.ask(&["catalog", "rebuild"]).ok().json();
    assert_eq!(rebuilt["found"]["refused"].as_array().unwrap().len(), 1, "{rebuilt}");
    assert_eq!(world.listed().len(), good);
}

#[test]
fn a_manifest_signed_by_a_stranger_is_not_believed() {
    let (world, _) = protected();
    world.ask(&["keys", "init", "--dir", world.path("others").to_str().unwrap()]).ok();
    std::fs::copy(world.path("others/signers.txt"), world.path("state/keys/signers.txt")).unwrap();
    world.tell(&["keys", "check"]).ok().says(&["own manifests would be refused"]);
    assert_not_rebuilt(&world, 0);
}

#[test]
fn the_wrong_secret_key_opens_nothing_and_is_named_before_anything_is_done() {
    let (world, id) = protected();
    world.ask(&["keys", "init", "--dir", world.path("others").to_str().unwrap()]).ok();
    let identity = world.path("state/keys/identity.age");
    std::fs::copy(world.path("others/identity.age"), &identity).unwrap();
    let to = world.path("out");
    world
        .tell(&["restore", &id, "--to", to.to_str().unwrap()])
        .ended(7)
        .says(&["secret keys", "identity_files"]);
    assert!(!to.try_exists().unwrap());
    world.tell(&["recover", "sqlite-damaged", "--dry-run"]).ended(7).says(&["secret keys"]);
    world.tell(&["drill", "sqlite-damaged"]).ended(7).says(&["secret keys"]);
    assert_ne!(world.ask(&["verify", &id, "--deep"]).code, 0);
    // a key that does not fit says nothing about the backup: it stays what it was
    assert_eq!(world.listed()[0]["state"], "VERIFIED");
    world.ask(&["verify", &id]).ok();
    let said = world.ask(&["keys", "check"]).ok().json();
    assert_eq!(said["can_restore"], Value::Bool(false));
    // and without any secret key backups go on
    std::fs::remove_file(identity).unwrap();
    world.ask(&["backup", "notes"]).ok();
    world.tell(&["restore", &id, "--to", to.to_str().unwrap()]).ended(7).says(&["secret key"]);
}

/// A file system of a fixed size, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let said = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .output()
            .unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let said = Command::new("umount").arg(&self.0).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn a_full_disk_fails_the_backup_and_leaves_nothing_on_it() {
    let world = World::new();
    fill_many_documents(&world.documents(), 60, 100_000);
    let _disk = SmallDisk::mount(world.store(), "2m");
    let said = world.ask(&["backup", "documents"]).ended(10).json();
    assert!(said["backups"][0]["error"].as_str().unwrap().contains("space"), "{said}");
    assert!(world.stored().is_empty(), "left on a full disk: {:?}", world.stored());
    assert!(world.listed().is_empty());
    // what fits still goes
    world.ask(&["backup", "notes"]).ok();
    world.assert_nothing_left();
}

#[test]
fn a_full_disk_fails_the_restore_and_leaves_the_target_as_it_was() {
    let world = World::new();
    fill_many_documents(&world.documents(), 60, 100_000);
    let id = world.backup("documents");
    let disk = SmallDisk::mount(world.path("small"), "2m");
    let to = disk.0.join("out");
    let said = world.tell(&["restore", &id, "--to", to.to_str().unwrap()]);
    assert!([7, 10].contains(&said.code), "{said:?}");
    assert!(files_below(&disk.0).is_empty(), "left on a full disk: {:?}", files_below(&disk.0));
}
