//! A life with lifeboat: set up, protect, look, verify, restore, lose the catalog and rebuild it.

use serde_json::Value;

use crate::support::content::{add_notes, files_below, notes, tree};
use crate::support::world::text;
use crate::support::{World, until};

#[test]
fn a_configuration_and_keys_are_written_once_and_never_over_old_ones() {
    let world = World::without_keys();
    let config = world.path("new.toml");
    let config = config.to_str().unwrap();
    world.ask(&["init", config]).ok();
    let written = std::fs::read(config).unwrap();
    world.tell(&["init", config]).ended(7).says(&["cannot write config", "try:"]);
    assert_eq!(std::fs::read(config).unwrap(), written);

    // without keys nothing is backed up, and the way out is named
    world.tell(&["backup", "notes"]).ended(6).says(&["lifeboat keys init"]);
    let before = world.ask(&["keys", "check"]).ok().json();
    assert_eq!((&before["can_back_up"], &before["can_restore"]), (&Value::Bool(false), &Value::Bool(false)));

    let made = world.ask(&["keys", "init"]).ok().json();
    let identity = std::fs::read(text(&made["identity"])).unwrap();
    world.tell(&["keys", "init"]).ended(7).says(&["try:"]);
    assert_eq!(std::fs::read(text(&made["identity"])).unwrap(), identity);

    let listed = world.ask(&["keys", "list"]).ok().json();
    assert_eq!(listed["recipients"][0], made["recipient"]);
    assert_eq!(listed["signer"], made["signer"]);
    let secret = String::from_utf8(identity).unwrap();
    let secret = secret.lines().find(|l| l.starts_with("AGE-SECRET-KEY")).unwrap();
    assert!(!listed.to_string().contains(secret), "a secret key is listed");
    let after = world.ask(&["keys", "check"]).ok().json();
    assert_eq!((&after["can_back_up"], &after["can_restore"]), (&Value::Bool(true), &Value::Bool(true)));
}

#[test]
fn every_system_is_backed_up_listed_verified_and_restored() {
    let world = World::new();
    let full = world.ask(&["backup", "--all"]).ok().json();
    for taken in full["backups"].as_array().unwrap() {
        assert_eq!(taken["kind"], "full");
        assert_eq!(taken["state"], "VERIFIED");
        assert_eq!(taken["error"], Value::Null);
    }
    add_notes(&world.notes(), 50);
    std::fs::write(world.documents().join("app/new"), "after the full").unwrap();
    std::fs::remove_file(world.documents().join(".hidden")).unwrap();
    let (wanted_notes, wanted_tree) = (notes(&world.notes()), tree(&world.documents()));
    let second = world.ask(&["backup", "--all", "--kind", "incremental"]).ok().json();
    let documents =
        second["backups"].as_array().unwrap().iter().find(|b| b["system"] == "documents").unwrap();
    assert_eq!(documents["kind"], "incremental");

    let all = world.listed();
    assert_eq!(all.len(), 4);
    let of_one = world.ask(&["list", "documents"]).ok().json();
    assert_eq!(of_one["backups"].as_array().unwrap().len(), 2);
    let shown = world.ask(&["show", &text(&documents["backup"])]).ok().json();
    assert_eq!(shown["chain"].as_array().unwrap().len(), 2);
    assert_eq!(shown["backup"]["manifest"]["system"], "documents");

    for depth in [&["verify", "--all"][..], &["verify", "--all", "--deep"]] {
        let verified = world.ask(depth).ok().json();
        let verified = verified["verified"].as_array().unwrap();
        assert_eq!(verified.len(), 4);
        assert!(verified.iter().all(|v| v["green"] == true), "{verified:?}");
    }

    let (to_notes, to_tree) = (world.path("out/notes"), world.path("out/tree"));
    let plan = world
        .ask(&["restore", "--system", "notes", "--to", to_notes.to_str().unwrap(), "--dry-run"])
        .ok()
        .json();
    assert_eq!(plan["missing"], Value::Array(Vec::new()));
    assert!(!to_notes.try_exists().unwrap(), "a dry run made something");
    world.ask(&["restore", "--system", "notes", "--to", to_notes.to_str().unwrap()]).ok();
    world.ask(&["restore", "--system", "documents", "--to", to_tree.to_str().unwrap()]).ok();
    assert_eq!(notes(&to_notes.join("notes.sqlite")), wanted_notes);
    assert_eq!(tree(&to_tree), wanted_tree);
    world.assert_nothing_left();
}

#[test]
fn an_older_point_is_restored_as_it_was() {
    let world = World::new();
    let (old_notes, old_tree) = (notes(&world.notes()), tree(&world.documents()));
    let (first_notes, first_tree) = (world.backup("notes"), world.backup("documents"));
    add_notes(&world.notes(), 20);
    std::fs::write(world.documents().join("settings.json"), "changed").unwrap();
    world.ask(&["backup", "--all", "--kind", "incremental"]).ok();
    let (to_notes, to_tree) = (world.path("out/notes"), world.path("out/tree"));
    world.ask(&["restore", &first_notes, "--to", to_notes.to_str().unwrap()]).ok();
    world.ask(&["restore", &first_tree, "--to", to_tree.to_str().unwrap()]).ok();
    assert_eq!(notes(&to_notes.join("notes.sqlite")), old_notes);
    assert_eq!(tree(&to_tree), old_tree);
}

#[test]
fn a_restore_in_place_takes_a_safety_backup_and_keeps_what_was_there() {
    let world = World::new();
    world.backup("notes");
    let wanted = notes(&world.notes());
    add_notes(&world.notes(), 7);
    let newer = notes(&world.notes());
    world.ask(&["restore", "--system", "notes", "--in-place", "--overwrite"]).ok();
    assert_eq!(notes(&world.notes()), wanted);
    let listed = world.listed();
    let safety = listed.iter().find(|b| b["tier"] != Value::Null).unwrap();
    let to = world.path("out");
    world.ask(&["restore", &text(&safety["id"]), "--to", to.to_str().unwrap()]).ok();
    assert_eq!(notes(&to.join("notes.sqlite")), newer);
    // the safety backup is newer, and still not what a restore takes by itself
    world.ask(&["restore", "--system", "notes", "--in-place", "--overwrite", "--no-safety-backup"]).ok();
    assert_eq!(notes(&world.notes()), wanted);
}

#[test]
fn a_lost_catalog_is_rebuilt_from_storage_with_the_same_content() {
    let world = World::new();
    world.ask(&["backup", "--all"]).ok();
    std::fs::write(world.documents().join("more"), "more").unwrap();
    world.ask(&["backup", "documents", "--kind", "incremental"]).ok();
    let before = world.listed();
    for file in files_below(&world.path("state")).iter().filter(|f| f.starts_with("catalog.sqlite")) {
        std::fs::remove_file(world.path("state").join(file)).unwrap();
    }
    assert!(world.listed().is_empty());
    let rebuilt = world.ask(&["catalog", "rebuild"]).ok().json();
    assert_eq!(rebuilt["found"]["backups"], 3);
    assert_eq!(rebuilt["found"]["refused"], Value::Array(Vec::new()));
    // that they were read back is known to a catalog only
    let unverified = |all: Vec<Value>| -> Vec<Value> {
        all.into_iter()
            .map(|mut b| {
                b["state"] = Value::Null;
                b
            })
            .collect()
    };
    assert_eq!(unverified(world.listed()), unverified(before));
    world.ask(&["verify", "--all"]).ok();
    assert!(world.listed().iter().all(|b| b["state"] == "VERIFIED"));
    let again = world.ask(&["catalog", "rebuild"]).ok().json();
    assert_eq!(again["found"]["backups"], 3);
    assert!(world.listed().iter().all(|b| b["state"] == "VERIFIED"), "a rebuild forgot what was verified");
}

#[test]
fn runbooks_completions_assessment_and_doctor_answer() {
    let world = World::new();
    let known = world.ask(&["runbook", "list"]).ok().json();
    for scenario in ["full-disaster", "sqlite-damaged", "files-lost", "redis-failure", "database-failure"] {
        assert!(known["scenarios"][scenario].is_string(), "{scenario} is not listed");
    }
    world.ask(&["runbook", "check"]).ok();
    world
        .tell(&["runbook", "show", "restore-sqlite"])
        .ok()
        .says(&["Replace a damaged SQLite database", "verify"]);
    world.tell(&["runbook", "show", "nothing"]).ended(6).says(&["nothing"]);
    for shell in ["bash", "zsh", "fish"] {
        world.tell(&["completions", shell]).ok().says(&["lifeboat", "recover"]);
    }
    let before = world.ask(&["assess"]).ok().json();
    assert_eq!(before["healthy"], true);
    assert_eq!(before["systems"][0]["point"], Value::Null);
    world.ask(&["doctor"]).ok();

    world.ask(&["backup", "--all"]).ok();
    std::fs::write(world.notes(), "this is no database").unwrap();
    let after = world.ask(&["assess"]).ended(4).json();
    assert_eq!(after["healthy"], false);
    assert_eq!(after["scenario"], "sqlite-damaged");
    let notes = after["systems"].as_array().unwrap().iter().find(|s| s["name"] == "notes").unwrap();
    assert!(notes["point"]["backup"].is_string());
    world.tell(&["doctor"]).ended(11).says(&["notes"]);
}

#[test]
fn two_backups_of_one_system_do_not_run_at_once() {
    let world = World::new();
    crate::support::content::fill_many_documents(&world.documents(), 2_000, 8_000);
    let first = world.start(&["backup", "documents"]);
    until("the first segment", || world.stored().iter().any(|f| f.contains("tree.tar/")).then_some(()));
    world.tell(&["backup", "documents"]).ended(8).says(&["documents"]);
    world.ask(&["backup", "notes"]).ok();
    first.wait().ok();
    assert_eq!(world.listed().len(), 2);
}
