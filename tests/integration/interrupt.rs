//! Ctrl-C and SIGTERM: work stops, cleans up after itself, and says so with its exit code.

use nix::sys::signal::Signal;

use crate::support::content::{fill_many_documents, names, notes, tree};
use crate::support::world::text;
use crate::support::{World, until};

/// Documented exit code of what was stopped on request.
const CANCELLED: i32 = 14;

fn big() -> World {
    let world = World::new();
    fill_many_documents(&world.documents(), 1_500, 12_000);
    world
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let world = big();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let backup = world.start(&["backup", "documents"]);
        until("a stored segment", || (!world.stored().is_empty()).then_some(()));
        backup.signal(signal);
        backup.wait().ended(CANCELLED);
        assert!(world.stored().is_empty(), "{:?}", world.stored());
        assert!(world.listed().is_empty());
        assert_eq!(world.runs()[0]["state"], "aborted");
        world.assert_nothing_left();
    }
    world.ask(&["backup", "documents"]).ok();
}

#[test]
fn an_interrupted_drill_leaves_nothing() {
    let world = big();
    world.ask(&["backup", "documents"]).ok();
    let drill = world.start(&["drill", "files-lost"]);
    until("a sandbox", || (!names(&world.path("sandbox")).is_empty()).then_some(()));
    drill.signal(Signal::SIGINT);
    drill.wait().ended(CANCELLED);
    world.assert_nothing_left();
    assert!(
        ["aborted", "interrupted"].map(Into::into).contains(&world.runs()[0]["state"]),
        "{:?}",
        world.runs()[0]
    );
    // a drill cannot be resumed, so it must not wait for that
    assert_eq!(world.runs()[0]["state"], "aborted");
    world.ask(&["drill", "files-lost"]).ok();
}

#[test]
fn an_interrupted_recovery_waits_to_be_resumed() {
    let world = big();
    world.ask(&["backup", "--all"]).ok();
    let (wanted_notes, wanted_tree) = (notes(&world.notes()), tree(&world.documents()));
    std::fs::write(world.documents().join("settings.json"), "overwritten").unwrap();
    let args = ["recover", "full-disaster", "--in-place", "--reason", "test", "--no-safety-backup", "--json"];
    let recovery = world.start(&args);
    until("staging", || {
        names(world.home()).iter().any(|n| n.starts_with("documents.lifeboat-")).then_some(())
    });
    recovery.signal(Signal::SIGINT);
    let said = recovery.wait().ended(CANCELLED).json();
    assert_eq!(said["state"], "interrupted");
    assert_ne!(said["verdict"], "PASS");
    world.assert_nothing_left();
    world.ask(&["runs", "resume", &text(&said["run"])]).ok();
    assert_eq!(notes(&world.notes()), wanted_notes);
    assert_eq!(tree(&world.documents()), wanted_tree);
}

#[test]
fn an_interrupted_restore_leaves_no_half() {
    let world = big();
    let id = world.backup("documents");
    let to = world.path("out");
    let restore = world.start(&["restore", &id, "--to", to.to_str().unwrap()]);
    until("staging", || names(world.home()).iter().any(|n| n.starts_with("out")).then_some(()));
    restore.signal(Signal::SIGINT);
    restore.wait().ended(CANCELLED);
    let left: Vec<String> = names(world.home()).into_iter().filter(|n| n.starts_with("out")).collect();
    assert!(left.is_empty() || (left == ["out"] && names(&to).is_empty()), "{left:?}");
    world.ask(&["restore", &id, "--to", to.to_str().unwrap()]).ok();
    assert_eq!(tree(&to), tree(&world.documents()));
}
