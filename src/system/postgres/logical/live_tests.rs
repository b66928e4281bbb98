//! Logical backups against real servers: what comes back, and that every check can go red.

mod limits;
mod support;

use self::support::{Server, assert_green, backed_up, filled, request, restore, toc, verify};
use crate::domain::manifest::Manifest;
use crate::domain::restore::Existing;
use crate::runtime::JobContext;
use crate::system::postgres::Postgres;
use crate::system::testing::MemoryBackups;

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_and_every_change_afterwards_is_seen() {
    let job = JobContext::plain();
    let source = filled(&job).await;
    let (backups, manifest) = backed_up(&source, &job).await;
    let toc = toc(&backups, &manifest);
    let shop = toc.databases.iter().find(|d| d.name == "shop").unwrap();
    let orders = shop.tables.iter().find(|t| t.name == "orders").unwrap();
    assert!(orders.parts.len() > 1, "the table was not cut: {orders:?}");
    assert_eq!(orders.rows, 3006);
    let target = Server::start(&job).await;
    let system = target.system();
    let asked = request(&manifest, target.place(), Existing::Refuse, &[]);
    let restored = restore(&system, &backups, asked, &job).await.unwrap();
    assert!(restored.items >= 3006 + 50 + 300, "{restored:?}");
    assert_green(&verify(&system, &backups, &manifest, &target.place()).await);
    for database in ["shop", "dbname=postgres", "postgres"] {
        let (was, is) = (source.schema(database).await, target.schema(database).await);
        let differing = was.lines().zip(is.lines()).find(|(a, b)| a != b);
        assert!(was == is, "{database}: first difference {differing:?}");
    }
    let settings = "SELECT array_agg(x ORDER BY x)::text FROM (SELECT (setdatabase = 0)::text || array_to_string(setconfig, '|') AS x FROM pg_db_role_setting) s";
    assert_eq!(source.ask("postgres", settings).await, target.ask("postgres", settings).await);
    let comment = "SELECT obj_description(4242, 'pg_largeobject') || lomacl::text FROM pg_largeobject_metadata WHERE oid = 4242";
    assert_eq!(source.ask("shop", comment).await, target.ask("shop", comment).await);
    assert_eq!(
        target.ask("shop", "SELECT nextval('public.plain')").await,
        "7",
        "a sequence that was never called starts where it should"
    );
    target.sql("shop", "SELECT setval('public.plain', 7, false);").await;
    every_change_is_red(&target, &system, &backups, &manifest).await;
}

const CHANGES: [(&str, &str, &str); 12] = [
    (
        "changed value",
        "UPDATE orders SET body = body || '!' WHERE id = 5",
        "UPDATE orders SET body = left(body, -1) WHERE id = 5",
    ),
    ("missing row", "DELETE FROM parts WHERE k = 7", "INSERT INTO parts VALUES (7, 'v7')"),
    ("extra row", "INSERT INTO empty_one VALUES (1)", "TRUNCATE empty_one"),
    (
        "emptied table",
        "TRUNCATE no_columns",
        "INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES",
    ),
    ("missing table", "ALTER TABLE child RENAME TO gone", "ALTER TABLE gone RENAME TO child"),
    ("extra table", "CREATE TABLE extra (a int)", "DROP TABLE extra"),
    ("moved sequence", "SELECT setval('stepped', 11)", "SELECT setval('stepped', 6)"),
    ("missing large object", "SELECT lo_unlink(4243)", "SELECT lo_create(4243)"),
    ("changed large object", "SELECT lo_put(4242, 70000, 'x')", "SELECT lo_put(4242, 70000, '\\x00')"),
    (
        "missing index",
        "ALTER INDEX \"odd index\" RENAME TO other",
        "ALTER INDEX other RENAME TO \"odd index\"",
    ),
    (
        "missing constraint",
        "ALTER TABLE lines RENAME CONSTRAINT big TO small",
        "ALTER TABLE lines RENAME CONSTRAINT small TO big",
    ),
    ("missing role", "ALTER ROLE app RENAME TO other", "ALTER ROLE other RENAME TO app"),
];

async fn every_change_is_red(
    target: &Server,
    system: &Postgres,
    backups: &MemoryBackups,
    manifest: &Manifest,
) {
    for (name, change, undo) in CHANGES {
        target.sql("shop", &format!("{change};")).await;
        let found = verify(system, backups, manifest, &target.place()).await;
        assert!(found.is_red(), "{name} was not seen");
        target.sql("shop", &format!("{undo};")).await;
        let found = verify(system, backups, manifest, &target.place()).await;
        assert!(!found.is_red(), "{name} is not undone: {:#?}", found.failures().collect::<Vec<_>>());
    }
    target.sql("postgres", "DROP DATABASE \"dbname=postgres\";").await;
    assert!(verify(system, backups, manifest, &target.place()).await.is_red());
}
