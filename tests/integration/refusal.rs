//! What people and servers get wrong: passwords, servers that are down, configs, runbooks, names, targets, missing words.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::World;
use crate::support::content::{files_below, fill_postgres, fill_redis, names, notes, redis_keys};
use crate::support::server::{POSTGRES_PASSWORD, postgres_bin};

/// Backs `system` up, which must fail with `code` and `words`; nothing is stored or listed, the run is a failed one.
#[track_caller]
fn assert_backup_fails(world: &World, system: &str, code: i32, words: &[&str]) {
    let said = world.tell(&["backup", system]).ended(code).says(words);
    assert!(said.stdout.contains("FAILED"), "{said:?}");
    assert!(world.listed().is_empty());
    assert!(world.stored().is_empty(), "{:?}", world.stored());
    assert_eq!(world.runs()[0]["state"], "failed");
    world.assert_nothing_left();
}

#[test]
fn a_wrong_password_of_redis_is_refused_and_never_shown() {
    let mut world = World::new().with_redis();
    fill_redis(&world, 10);
    world.env("REDIS_PASSWORD", "guessed-wrong");
    assert_backup_fails(&world, "sessions", 5, &["try:"]);
    let said = world.tell(&["backup", "sessions", "--log", "trace"]);
    assert!(!format!("{}{}", said.stdout, said.stderr).contains("guessed-wrong"), "the password was shown");
}

#[test]
fn a_wrong_password_of_postgres_is_refused_and_never_shown() {
    let mut world = World::new().with_postgres();
    world.env("POSTGRES_PASSWORD", "guessed-wrong");
    assert_backup_fails(&world, "orders", 5, &["try:"]);
    let said = world.tell(&["backup", "orders", "--log", "trace"]);
    assert!(!format!("{}{}", said.stdout, said.stderr).contains("guessed-wrong"), "the password was shown");
}

#[test]
fn a_missing_password_is_said_by_the_name_of_its_variable() {
    let world = World::new().with_redis();
    world.edit_config(|c| c.replace("env:REDIS_PASSWORD", "env:NO_SUCH_VARIABLE"));
    let said = world.tell(&["backup", "sessions"]).says(&["NO_SUCH_VARIABLE"]);
    assert_eq!(said.code, 3, "{said:?}");
}

#[test]
fn a_server_that_is_down_fails_its_backup_and_no_other() {
    let world = World::new().with_redis();
    fill_redis(&world, 10);
    world.redis.as_ref().unwrap().kill();
    assert_backup_fails(&world, "sessions", 4, &["sessions", "lifeboat assess"]);
    let said = world.ask(&["backup", "--all"]).ended(4).json();
    let failed: Vec<_> =
        said["backups"].as_array().unwrap().iter().filter(|b| b["error"].is_string()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(world.listed().len(), 2);
}

#[test]
fn a_dump_tool_that_prints_and_then_fails_is_no_backup() {
    let world = World::new().with_logical_postgres();
    fill_postgres(&world, 100);
    let bin = world.path("fake");
    std::fs::create_dir(&bin).unwrap();
    for program in names(&postgres_bin()).iter().filter(|p| *p != "pg_dump") {
        symlink(postgres_bin().join(program), bin.join(program)).unwrap();
    }
    let real = postgres_bin().join("pg_dump");
    let fake = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec {0} --version;; esac\n{0} \"$@\"\necho 'the disk made a noise' >&2\nexit 1\n",
        real.display()
    );
    std::fs::write(bin.join("pg_dump"), fake).unwrap();
    std::fs::set_permissions(bin.join("pg_dump"), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.edit_config(|c| {
        c.replace("method = \"logical\"", &format!("method = \"logical\"\nbin_dir = \"{}\"", bin.display()))
    });
    assert_backup_fails(&world, "orders", 12, &["pg_dump", "the disk made a noise"]);
    let said = world.tell(&["backup", "orders", "--log", "trace"]);
    assert!(!format!("{}{}", said.stdout, said.stderr).contains(POSTGRES_PASSWORD), "the password was shown");
}

#[test]
fn an_unknown_key_in_the_config_is_named_with_its_file() {
    let world = World::new();
    let good = std::fs::read_to_string(world.config_file()).unwrap();
    let file = world.config_file().display().to_string();
    for (wrong, words) in [
        (good.replace("segment_size", "segment_sise"), ["segment_sise"]),
        (good.replace("[sandbox]", "[sandbags]"), ["sandbags"]),
        (good.replace("kind = \"sqlite\"\n", "kind = \"sqlite\"\nrpto = \"1h\"\n"), ["rpto"]),
        (good.replace("notes/notes.sqlite\"\n", "notes/notes.sqlite\"\nbusy = \"1s\"\n"), ["busy"]),
        (good.replace("kind = \"files\"", "kind = \"fires\""), ["fires"]),
        (good.replace("\"64KiB\"", "\"64 elephants\""), ["segment_size"]),
    ] {
        assert_ne!(wrong, good);
        std::fs::write(world.config_file(), wrong).unwrap();
        world.tell(&["list"]).ended(3).says(&words).says(&[&file]);
    }
    std::fs::remove_file(world.config_file()).unwrap();
    let said = world.tell(&["list"]).says(&[&file, "try:"]);
    assert!([3, 6].contains(&said.code), "{said:?}");
    std::fs::write(world.config_file(), good).unwrap();
    world.tell(&["list"]).ok();
}

/// Adds an own runbook of the name `odd`.
fn with_runbook(world: &World, text: &str) {
    std::fs::create_dir_all(world.path("runbooks")).unwrap();
    std::fs::write(world.path("runbooks/odd.yaml"), text).unwrap();
    world.edit_config(|c| c.replace("[lifeboat]\n", "[lifeboat]\nrunbooks = \"runbooks\"\n"));
}

const HEAD: &str = "schema: lifeboat.runbook/1\nname: odd\ntitle: Odd\nwhy: For a test.\n";

#[test]
fn a_runbook_that_names_an_unknown_system_is_refused_with_file_and_name() {
    let world = World::new();
    with_runbook(
        &world,
        &format!("{HEAD}steps:\n  - id: check\n    title: Ask\n    check: {{system: nobodys}}\n"),
    );
    world.tell(&["runbook", "check"]).ended(3).says(&["odd.yaml", "nobodys", "notes"]);
    world.ask(&["backup", "notes"]).ok();
    world.tell(&["drill", "sqlite-damaged"]).ended(3).says(&["odd.yaml", "nobodys"]);
    world.assert_nothing_left();
}

#[test]
fn a_cyclic_runbook_is_refused_with_the_cycle() {
    let world = World::new();
    let step = |id: &str, needs: &str| {
        format!("  - id: {id}\n    title: Tell\n    needs: [{needs}]\n    notify: {{text: hello}}\n")
    };
    with_runbook(&world, &format!("{HEAD}steps:\n{}{}{}", step("a", "c"), step("b", "a"), step("c", "b")));
    world.tell(&["runbook", "list"]).ended(3).says(&["odd.yaml", "->"]);
    world.tell(&["recover", "full-disaster", "--dry-run"]).ended(3).says(&["->"]);
}

#[test]
fn an_unknown_key_in_a_runbook_is_refused() {
    let world = World::new();
    with_runbook(
        &world,
        &format!("{HEAD}steps:\n  - id: tell\n    title: Tell\n    notyfy: {{text: hello}}\n"),
    );
    world.tell(&["runbook", "check"]).ended(3).says(&["odd.yaml", "notyfy"]);
}

#[test]
fn names_that_do_not_exist_are_not_found_and_the_known_ones_are_listed() {
    let world = World::new();
    let id = "20200101-000000-00000000";
    let to = world.path("out").display().to_string();
    for args in [
        &["show", id][..],
        &["verify", id],
        &["restore", id, "--to", &to],
        &["report", id],
        &["runs", "show", id],
        &["runs", "resume", id],
    ] {
        world.tell(args).ended(6).says(&[id]);
    }
    for args in
        [&["backup", "nothing"][..], &["list", "nothing"], &["restore", "--system", "nothing", "--to", &to]]
    {
        world.tell(args).ended(6).says(&["nothing", "documents, notes"]);
    }
    world.tell(&["drill", "no-such-scenario"]).ended(6).says(&["no-such-scenario"]);
    world.tell(&["backup", "notes", "--destination", "moon"]).ended(6).says(&["moon", "local"]);
    for args in [&["show", "../../etc/passwd"][..], &["backup", "../notes"], &["nonsense"], &["restore", id]]
    {
        world.tell(args).ended(2);
    }
    world.tell(&["backup"]).ended(3).says(&["--all"]);
    assert!(world.stored().is_empty());
}

#[test]
fn a_target_that_is_not_empty_is_not_touched_without_the_word() {
    let world = World::new();
    let (of_notes, of_documents) = (world.backup("notes"), world.backup("documents"));
    for (id, file) in [(&of_notes, "notes.sqlite"), (&of_documents, "precious")] {
        let to = world.path("out");
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(to.join(file), "precious").unwrap();
        world.tell(&["restore", id, "--to", to.to_str().unwrap()]).ended(7).says(&["try:"]);
        assert_eq!(files_below(&to), [file]);
        assert_eq!(std::fs::read(to.join(file)).unwrap(), b"precious");
        std::fs::remove_dir_all(&to).unwrap();
    }
    let before = notes(&world.notes());
    world.tell(&["restore", "--system", "notes", "--in-place"]).ended(7);
    assert_eq!(notes(&world.notes()), before);
    let left = names(world.home());
    assert!(!left.iter().any(|n| n.contains(".lifeboat-")), "{left:?}");
}

#[test]
fn a_recovery_needs_the_word_and_a_reason() {
    let world = World::new().with_redis();
    fill_redis(&world, 10);
    world.ask(&["backup", "--all"]).ok();
    let (before, keys) = (notes(&world.notes()), redis_keys(&world));
    let runs = world.runs().len();
    world.tell(&["recover", "full-disaster"]).ended(3).says(&["--in-place", "--dry-run"]);
    world.tell(&["recover", "full-disaster", "--in-place"]).ended(3).says(&["--reason"]);
    world.tell(&["recover", "full-disaster", "--in-place", "--reason", "  "]).ended(3).says(&["--reason"]);
    world.tell(&["recover", "full-disaster", "--reason", "x"]).ended(3).says(&["--in-place"]);
    assert_eq!((notes(&world.notes()), redis_keys(&world), world.runs().len()), (before, keys, runs));
}
