//! SIGKILL in the middle of everything: the next command finds what was left, takes it away, and goes on where it can.

use serde_json::Value;

use crate::support::content::{
    Tree, fill_many_documents, fill_postgres, fill_redis, names, notes, psql, tree,
};
use crate::support::world::text;
use crate::support::{World, until};

fn big() -> World {
    let world = World::new();
    fill_many_documents(&world.documents(), 1_500, 12_000);
    world
}

/// What is stored of the tree.
fn of_documents(world: &World) -> Vec<String> {
    world.stored().into_iter().filter(|f| f.starts_with("documents/")).collect()
}

#[test]
fn a_killed_backup_is_no_backup_and_the_next_command_removes_what_it_stored() {
    let world = big();
    for segments in [1, 6, 20] {
        let backup = world.start(&["backup", "documents"]);
        until("stored segments", || (of_documents(&world).len() >= segments).then_some(()));
        backup.crash();
        world.assert_no_process_left();
        let left = of_documents(&world);
        assert!(!left.is_empty() && !left.iter().any(|f| f.contains("manifest")), "{left:?}");
        assert!(!world.listed().iter().any(|b| b["system"] == "documents"));

        world.tell(&["backup", "notes"]).ok().says(&["left by a dead run", "unfinished backup"]);
        assert_eq!(of_documents(&world), [] as [String; 0]);
        let dead = world.runs().into_iter().find(|r| r["system"] == "documents").unwrap();
        assert_eq!(dead["state"], "failed");
        world.assert_nothing_left();
    }
    // the lock went with its holder, and nothing of the dead attempts is in the way
    world.ask(&["backup", "documents"]).ok();
    world.ask(&["drill", "files-lost"]).ok();
}

#[test]
fn a_backup_killed_while_it_reads_back_is_a_backup() {
    let world = big();
    let backup = world.start(&["backup", "documents"]);
    until("the manifest", || of_documents(&world).iter().any(|f| f.ends_with("manifest.json")).then_some(()));
    backup.crash();
    world.ask(&["backup", "notes"]).ok();
    world.ask(&["catalog", "rebuild"]).ok();
    assert!(world.listed().iter().any(|b| b["system"] == "documents"), "a committed backup is lost");
    world.ask(&["verify", "--all", "--deep"]).ok();
    world.ask(&["drill", "files-lost"]).ok();
}

#[test]
fn a_killed_backup_of_postgres_leaves_nothing_on_the_server() {
    killed_backup_leaves_nothing_on(&World::new().with_postgres());
}

#[test]
fn a_killed_logical_backup_leaves_nothing_on_the_server() {
    killed_backup_leaves_nothing_on(&World::new().with_logical_postgres());
}

fn killed_backup_leaves_nothing_on(world: &World) {
    fill_postgres(world, 150_000);
    let mut backup = world.start(&["backup", "orders"]);
    until("a stored segment", || {
        backup
            .has_ended()
            .then_some(())
            .or_else(|| world.stored().iter().any(|f| f.starts_with("orders/")).then_some(()))
    });
    backup.crash();
    world.ask(&["backup", "notes"]).ok();
    assert_eq!(psql(world, "postgres", "select count(*) from pg_replication_slots"), "0");
    let backends = "select count(*) from pg_stat_activity where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()";
    until("the end of the backends", || (psql(world, "postgres", backends) == "0").then_some(()));
    assert!(!world.stored().iter().any(|f| f.starts_with("orders/")), "{:?}", world.stored());
    world.assert_nothing_left();
    world.ask(&["backup", "orders"]).ok();
}

/// Damages production, starts a recovery of everything and kills it as soon as `ready` says so; gives the run's id.
fn kill_recovery(world: &World, ready: impl Fn(&World) -> bool) -> String {
    std::fs::write(world.notes(), "overwritten").unwrap();
    std::fs::write(world.documents().join("settings.json"), "overwritten").unwrap();
    let args =
        ["recover", "full-disaster", "--in-place", "--reason", "a test of crashes", "--no-safety-backup"];
    let recovery = world.start(&args);
    until("the moment to kill", || ready(world).then_some(()));
    recovery.crash();
    world.assert_no_process_left();
    let newest = world.runs().into_iter().find(|r| r["kind"] == "recover").unwrap();
    text(&newest["id"])
}

fn assert_resumes(world: &World, run: &str, wanted_notes: &[(i64, Vec<u8>)], wanted_tree: &Tree) {
    // any command that changes something settles what is dead; only a person resumes
    world.ask(&["drill", "sqlite-damaged"]).ok();
    let found = world.runs().into_iter().find(|r| r["id"] == run).unwrap();
    assert_eq!(found["state"], "interrupted", "{found}");
    let said = world.ask(&["runs", "resume", run]).ok().json();
    assert_eq!((&said["verdict"], &said["state"]), (&Value::from("PASS"), &Value::from("succeeded")));
    assert_eq!(notes(&world.notes()), wanted_notes);
    assert!(&tree(&world.documents()) == wanted_tree, "the tree is not what it was");
    let unfinished: Vec<String> =
        [names(world.home()), names(&world.path("notes")), names(&world.documents())]
            .concat()
            .into_iter()
            .filter(|n| n.contains(".lifeboat-") && !n.contains(".lifeboat-old-") && n != ".lifeboat-canary")
            .collect();
    assert!(unfinished.is_empty(), "left by dead attempts: {unfinished:?}");
    world.assert_nothing_left();
    world.tell(&["runs", "resume", run]).ended(7);
}

#[test]
fn a_recovery_killed_at_any_record_of_its_journal_is_resumed_to_the_same_end() {
    let world = World::new();
    world.ask(&["backup", "--all"]).ok();
    let (wanted_notes, wanted_tree) = (notes(&world.notes()), tree(&world.documents()));
    for records in [1, 3, 5, 8, 11] {
        let before = world.sql("select count(*) from journal");
        let run = kill_recovery(&world, |w| w.sql("select count(*) from journal") >= before + records);
        assert_resumes(&world, &run, &wanted_notes, &wanted_tree);
    }
}

#[test]
fn a_recovery_killed_while_files_are_unpacked_is_resumed_and_leaves_no_staging() {
    let world = big();
    world.ask(&["backup", "--all"]).ok();
    let (wanted_notes, wanted_tree) = (notes(&world.notes()), tree(&world.documents()));
    let run = kill_recovery(&world, |w| {
        let staging = names(w.home()).into_iter().find(|n| n.starts_with("documents.lifeboat-"));
        staging.is_some_and(|s| w.path(&s).join("many").is_dir())
    });
    assert_resumes(&world, &run, &wanted_notes, &wanted_tree);
    let kept: Vec<String> =
        names(world.home()).into_iter().filter(|n| n.starts_with("documents.lifeboat-")).collect();
    assert_eq!(kept.len(), 1, "what was there is kept once: {kept:?}");
}

#[test]
fn an_interrupted_recovery_can_be_ended_by_a_person() {
    let world = World::new();
    world.ask(&["backup", "--all"]).ok();
    let before = world.sql("select count(*) from journal");
    let run = kill_recovery(&world, |w| w.sql("select count(*) from journal") > before);
    let said = world.ask(&["runs", "abort", &run, "--by", "ann", "--reason", "done by hand"]);
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(world.runs().into_iter().find(|r| r["id"] == run.as_str()).unwrap()["state"], "aborted");
    world.tell(&["runs", "resume", &run]).ended(7);
    world.assert_nothing_left();
}

#[test]
fn a_killed_drill_takes_its_servers_along_and_the_next_command_its_sandboxes() {
    let world = World::new().with_redis();
    fill_redis(&world, 20_000);
    world.ask(&["backup", "--all"]).ok();
    let drill = world.start(&["drill", "full-disaster"]);
    until("a server in a sandbox", || {
        let sandbox = world.path("sandbox").display().to_string();
        world.processes().iter().any(|p| p.contains("redis-server") || p.contains(&sandbox)).then_some(())
    });
    drill.crash();
    until("the end of the drill's servers", || world.processes().is_empty().then_some(()));
    world.ask(&["backup", "notes"]).ok();
    world.assert_nothing_left();
    let dead = world.runs().into_iter().find(|r| r["kind"] == "drill").unwrap();
    assert_eq!(dead["state"], "aborted");
    world.tell(&["runs", "resume", &text(&dead["id"])]).ended(7);
    world.ask(&["drill", "full-disaster"]).ok();
}
