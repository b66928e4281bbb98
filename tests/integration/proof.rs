//! Drills and recoveries of every kind of system: the verdict, what came back, the report, and that nothing is left.

use serde_json::Value;

use crate::support::content::{fill_postgres, fill_redis, names, notes, psql, redis, redis_keys, tree};
use crate::support::world::text;
use crate::support::{World, until};

/// Drills `scenario` and checks everything that a passed drill says and leaves.
fn drill(world: &World, scenario: &str, systems: usize) -> Value {
    let said = world.ask(&["drill", scenario]).ok().json();
    assert_eq!((&said["verdict"], &said["state"]), (&Value::from("PASS"), &Value::from("succeeded")));
    let measured = said["measurement"]["systems"].as_array().unwrap();
    assert_eq!(measured.len(), systems);
    for system in measured {
        assert_eq!(system["verdict"], "PASS");
        assert!(system["compared"].as_u64().unwrap() > 0, "nothing was compared: {system}");
        assert!(system["rto"]["achieved_seconds"].as_f64().unwrap() > 0.0);
    }
    for file in said["report"].as_array().unwrap() {
        assert!(std::fs::metadata(text(file)).unwrap().len() > 0);
    }
    world.assert_nothing_left();
    said
}

#[test]
fn drills_of_a_database_file_and_a_tree_prove_their_points_and_touch_no_production() {
    let world = World::new();
    world.ask(&["backup", "--all"]).ok();
    let (wanted_notes, wanted_tree) = (notes(&world.notes()), tree(&world.documents()));
    world.tell(&["drill", "files-lost", "--dry-run"]).ok().says(&["documents"]);
    assert_eq!(world.runs().len(), 2, "a dry run is no run");
    drill(&world, "sqlite-damaged", 1);
    drill(&world, "files-lost", 1);
    drill(&world, "full-disaster", 2);
    assert!(
        world.listed().iter().all(|b| b["state"] == "PROVEN" && b["proven"] == "E6"),
        "{:?}",
        world.listed()
    );
    assert_eq!(notes(&world.notes()), wanted_notes);
    assert_eq!(tree(&world.documents()), wanted_tree);
    assert_eq!(names(&world.path("notes")), ["notes.sqlite"], "a drill left files beside production's");
}

#[test]
fn a_drill_is_red_when_a_check_of_the_application_fails() {
    let world = World::new();
    world.edit_config(|c| {
        c.replace(
            "query = \"select count(*) from notes\"\nmin = 1",
            "query = \"select count(*) from notes\"\nmin = 100000",
        )
    });
    world.ask(&["backup", "notes"]).ok();
    let said = world.ask(&["drill", "sqlite-damaged"]).ended(13).json();
    assert_ne!(said["verdict"], "PASS");
    world.assert_nothing_left();
}

#[test]
fn a_drill_without_a_backup_says_what_is_missing_and_changes_nothing() {
    let world = World::new();
    world
        .tell(&["drill", "sqlite-damaged"])
        .ended(7)
        .says(&["no usable backup of notes", "lifeboat backup notes"]);
    let plan = world.ask(&["recover", "sqlite-damaged", "--dry-run"]).ended(7).json();
    assert_eq!(plan["could_run"], false);
    assert!(world.runs().is_empty());
}

#[test]
fn everything_is_recovered_after_a_disaster_and_reported() {
    let world = World::new();
    world.ask(&["backup", "--all"]).ok();
    let (wanted_notes, wanted_tree) = (notes(&world.notes()), tree(&world.documents()));
    std::fs::write(world.notes(), "overwritten with nonsense").unwrap();
    std::fs::remove_dir_all(world.documents().join("app")).unwrap();
    std::fs::write(world.documents().join("settings.json"), "wrong").unwrap();

    let plan = world.ask(&["recover", "full-disaster", "--dry-run"]).ok().json();
    assert_eq!(plan["could_run"], true);
    assert_eq!(
        std::fs::read(world.notes()).unwrap(),
        b"overwritten with nonsense",
        "a dry run changed something"
    );
    world
        .tell(&["recover", "full-disaster", "--in-place", "--reason", "test", "--plan", "0000"])
        .ended(7)
        .says(&["approved"]);
    assert_eq!(std::fs::read(world.notes()).unwrap(), b"overwritten with nonsense");

    let said = world
        .ask(&["recover", "full-disaster", "--in-place", "--reason", "a test of everything"])
        .ok()
        .json();
    assert_eq!(said["verdict"], "PASS");
    assert_eq!(notes(&world.notes()), wanted_notes);
    assert_eq!(tree(&world.documents()), wanted_tree);
    world.assert_nothing_left();

    let run = text(&said["run"]);
    let report = world.ask(&["report", &run, "--to", world.path("told").to_str().unwrap()]).ok().json();
    assert_eq!(report["verdict"], "PASS");
    assert!(report.to_string().contains("a test of everything"));
    assert_eq!(names(&world.path("told")).len(), 2);
    let shown = world.ask(&["runs", "show", &run]).ok().json();
    assert_eq!(shown["run"]["state"], "succeeded");
    assert!(shown["journal"].as_array().unwrap().len() > 10);
    assert!(world.runs().iter().any(|r| r["id"] == run.as_str() && r["verdict"] == "PASS"));
    world.tell(&["runs", "resume", &run]).ended(7).says(&["it has ended"]);
    // the recovered systems are protected again
    let newest: Vec<String> = world.listed().iter().map(|b| text(&b["system"])).collect();
    assert!(newest.iter().filter(|s| *s == "notes").count() >= 2, "{newest:?}");
}

#[test]
fn redis_is_drilled_and_recovered() {
    let world = World::new().with_redis();
    fill_redis(&world, 500);
    world.ask(&["backup", "sessions"]).ok();
    let there = redis_keys(&world);
    drill(&world, "redis-failure", 1);
    assert_eq!(redis_keys(&world), there);

    redis::cmd("FLUSHALL").exec(&mut redis(&world)).unwrap();
    world.ask(&["recover", "redis-failure", "--in-place", "--reason", "flushed"]).ok();
    assert_eq!(redis_keys(&world), there);
    let name: String = redis::cmd("HGET").arg("user").arg("name").query(&mut redis(&world)).unwrap();
    assert_eq!(name, "Ann");

    // gone altogether: the service is started, then filled
    world.redis.as_ref().unwrap().kill();
    assert_eq!(world.ask(&["assess"]).ended(4).json()["scenario"], "redis-failure");
    world.ask(&["recover", "redis-failure", "--in-place", "--reason", "killed"]).ok();
    assert_eq!(redis_keys(&world), there);
    world.assert_nothing_left();
}

/// Everything in the orders, in one line.
const SUM: &str = "select count(*) || ' ' || md5(string_agg(item, ',' order by id)) from orders";

#[test]
fn postgres_is_drilled_and_restored_as_files() {
    for world in [World::new().with_postgres(), World::new().with_logical_postgres()] {
        fill_postgres(&world, 2_000);
        let wanted = psql(&world, "shop", SUM);
        world.ask(&["backup", "orders"]).ok();
        drill(&world, "database-failure", 1);
        let to = world.path("out");
        world.ask(&["restore", "--system", "orders", "--to", to.to_str().unwrap()]).ok();
        assert!(!names(&to).is_empty());
        assert_eq!(psql(&world, "shop", SUM), wanted);
        world.assert_nothing_left();
    }
}

#[test]
fn a_postgres_server_is_recovered_while_it_runs_and_after_its_directory_is_lost() {
    let world = World::new().with_postgres();
    fill_postgres(&world, 2_000);
    world.ask(&["backup", "orders"]).ok();
    psql(&world, "shop", "insert into orders (item) values ('after the full')");
    world.ask(&["backup", "orders", "--kind", "incremental"]).ok();
    let wanted = psql(&world, "shop", SUM);
    // a bad statement on a server that runs: the runbook stops it first
    psql(&world, "shop", "delete from orders where id % 3 = 0");
    world.ask(&["recover", "database-failure", "--dry-run"]).ok();
    let args = ["recover", "database-failure", "--in-place", "--reason", "test", "--no-safety-backup"];
    world.ask(&args).ok();
    assert_eq!(psql(&world, "shop", SUM), wanted);

    let server = world.postgres.as_ref().unwrap();
    server.kill();
    until("the end of the data directory", || std::fs::remove_dir_all(server.dir.join("data")).ok());
    assert_eq!(world.ask(&["assess"]).ended(4).json()["scenario"], "database-failure");
    world.ask(&args).ok();
    assert_eq!(psql(&world, "shop", SUM), wanted);
    world.assert_nothing_left();
    world.ask(&["backup", "orders", "--kind", "incremental"]).ok();
}

#[test]
fn a_logical_backup_is_recovered_into_its_server_running_or_started_for_it() {
    let world = World::new().with_logical_postgres();
    fill_postgres(&world, 2_000);
    world.ask(&["backup", "orders"]).ok();
    let wanted = psql(&world, "shop", SUM);
    psql(
        &world,
        "shop",
        "delete from orders where id % 3 = 0; update orders set item = 'wrong' where id % 5 = 0",
    );
    let args = ["recover", "database-failure", "--in-place", "--reason", "a bad statement"];
    world.ask(&args).ok();
    assert_eq!(psql(&world, "shop", SUM), wanted);

    // a restore through the server starts one that is down
    psql(&world, "shop", "delete from orders where id % 7 = 0");
    world.postgres.as_ref().unwrap().control("stop");
    world.ask(&["recover", "database-failure", "--dry-run"]).ok();
    world.ask(&args).ok();
    assert_eq!(psql(&world, "shop", SUM), wanted);
    world.assert_nothing_left();
}
