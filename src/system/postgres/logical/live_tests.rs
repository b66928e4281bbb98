//! Logical backups against real servers: what comes back, what is refused, and that every check can go red.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::toc::{TOC, Toc};
use crate::domain::backup::BackupKind;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{ArtifactName, RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::{Place, ServerPlace};
use crate::domain::restore::{Existing, RestoreRequest, Restored, Selection};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::postgres::Postgres;
use crate::system::postgres::client::Connector;
use crate::system::postgres::programs::{Wanted, find};
use crate::system::postgres::settings::{Method, Settings};
use crate::system::testing::{MemoryBackups, free_port};
use crate::system::{ArtifactWriter, BackupSink, DataSystem, Engine, EngineDeps};

/// A throwaway server; killed and removed when dropped.
struct Server {
    place: ServerPlace,
    _child: tokio::process::Child,
    _home: tempfile::TempDir,
}

impl Server {
    async fn start(job: &JobContext) -> Self {
        let account = Account::for_servers("nobody").unwrap();
        let home = tempfile::Builder::new().prefix("lifeboat-pg-").tempdir().unwrap();
        let dir = home.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        if let Some(account) = &account {
            account.own_tree(home.path()).unwrap();
        }
        let settings = Settings::default();
        find(&settings, "initdb", Wanted::Newest)
            .unwrap()
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale",
                "C.UTF-8",
                "-D",
            ])
            .arg(&dir)
            .account(account.clone())
            .dir("/")
            .output(job)
            .await
            .unwrap();
        let port = free_port().unwrap();
        let child = find(&settings, "postgres", Wanted::Newest)
            .unwrap()
            .arg("-D")
            .arg(&dir)
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
            ])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=40"])
            .account(account)
            .dir("/")
            .start_logged(&home.path().join("log"))
            .unwrap();
        let place = ServerPlace {
            host: "127.0.0.1".to_owned(),
            port,
            dir,
        };
        let server = Self {
            place,
            _child: child,
            _home: home,
        };
        let limited = job.child(std::time::Duration::from_secs(30));
        while server
            .connector()
            .connect(&server.place(), "postgres", &limited)
            .await
            .is_err()
        {
            limited
                .sleep("wait for server", std::time::Duration::from_millis(20))
                .await
                .unwrap();
        }
        server
    }

    fn place(&self) -> Place {
        Place::Server(self.place.clone())
    }

    fn settings(&self) -> Settings {
        Settings {
            port: self.place.port,
            method: Method::Logical,
            ..Settings::default()
        }
    }

    fn connector(&self) -> Connector {
        Connector::new(Arc::new(self.settings()))
    }

    /// The engine with this server as production.
    fn system(&self) -> Postgres {
        system(self.settings())
    }

    async fn sql(&self, database: &str, sql: &str) {
        let job = JobContext::plain();
        let client = self
            .connector()
            .connect(&Place::Production, database, &job)
            .await
            .unwrap();
        client
            .execute_all(&job, "prepare test", "SET search_path = public")
            .await
            .unwrap();
        // one statement at a time: some cannot stand together in one transaction
        for statement in super::script::statements(sql) {
            client
                .execute_all(&job, "prepare test", &statement)
                .await
                .unwrap();
        }
    }

    async fn ask(&self, database: &str, sql: &str) -> String {
        let job = JobContext::plain();
        let client = self
            .connector()
            .connect(&Place::Production, database, &job)
            .await
            .unwrap();
        client.text(&job, "ask", sql).await.unwrap().unwrap_or_default()
    }

    fn tool(&self, name: &str, database: &str) -> Program {
        let env = self
            .connector()
            .environment(&Place::Production, database)
            .unwrap();
        let program = find(&self.settings(), name, Wanted::Newest).unwrap();
        env.into_iter().fold(program, |p, (k, v)| p.env(k, v))
    }

    async fn schema(&self, database: &str) -> String {
        let job = JobContext::plain();
        let dump = self
            .tool("pg_dump", database)
            .args(["--create", "--schema-only"])
            .output(&job);
        let text = String::from_utf8(dump.await.unwrap().to_vec()).unwrap();
        text.lines()
            .filter(|l| !l.starts_with('\\'))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn system(settings: Settings) -> Postgres {
    let deps = EngineDeps {
        name: SystemName::parse("pg").unwrap(),
        state_dir: std::env::temp_dir(),
    };
    Postgres::build(settings, deps).unwrap()
}

fn request(manifest: &Manifest, place: Place, existing: Existing, patterns: &[&str]) -> RestoreRequest {
    RestoreRequest {
        run: RunId::parse("20260101-000000-00000001").unwrap(),
        chain: vec![manifest.clone()],
        place,
        existing,
        selection: Selection {
            patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
        },
    }
}

async fn restore(
    system: &Postgres,
    backups: &MemoryBackups,
    request: RestoreRequest,
    job: &JobContext,
) -> Result<Restored> {
    let plan = system.plan_restore(request, job).await?;
    system.restore(&plan, backups, job).await
}

async fn verify(
    system: &Postgres,
    backups: &MemoryBackups,
    manifest: &Manifest,
    place: &Place,
) -> Verification {
    let job = JobContext::plain();
    let chain = [manifest.clone()];
    system.verify(&chain, place, backups, &job).await.unwrap()
}

fn assert_green(found: &Verification) {
    let failures: Vec<_> = found.failures().collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(found.level(), Some(EvidenceLevel::E4), "{:#?}", found.checks);
    assert!(found.compared > 0);
}

/// Things that are hard to carry, in two databases with names that are easily misread.
const ROLES: &str = "
CREATE ROLE app LOGIN PASSWORD 'secret';
CREATE ROLE \"Odd; \"\"Role\" NOLOGIN;
GRANT app TO \"Odd; \"\"Role\";
ALTER ROLE app SET search_path TO 'a b', public;
ALTER ROLE ALL SET work_mem TO '5MB';
CREATE DATABASE shop OWNER app;
CREATE DATABASE \"dbname=postgres\";
COMMENT ON DATABASE shop IS 'it''s a shop';
ALTER DATABASE shop SET default_transaction_read_only TO on;
ALTER DATABASE shop SET search_path TO \"$user\", public;
ALTER ROLE app IN DATABASE shop SET statement_timeout TO '1ms';
GRANT CONNECT ON DATABASE shop TO \"Odd; \"\"Role\" WITH GRANT OPTION;
";

const SHOP: &str = "
CREATE EXTENSION hstore;
CREATE SCHEMA \"Odd Schema\";
CREATE TYPE mood AS ENUM ('sad', 'ok; not', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE \"Odd Schema\".\"T\"\"able; x\" (\"Col umn\" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \"select\" text);
INSERT INTO \"Odd Schema\".\"T\"\"able; x\" (\"select\") SELECT 'row ' || g FROM generate_series(1, 50) g;
CREATE TABLE orders (id bigserial PRIMARY KEY, body text, amount money, at timestamptz DEFAULT now(), m mood, p positive, h hstore, raw bytea, f float8, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO orders (body, amount, m, p, h, raw, f) SELECT repeat(md5(g::text), 8), g::money, 'happy', g, 'a=>1', sha256(g::text::bytea), g / 3.0 FROM generate_series(1, 3000) g;
INSERT INTO orders (body, raw) VALUES (E'tab\\t newline\\n return\\r backslash \\\\ end \\\\. \\001 \\x7f', '\\x00ff0a5c'), ('\\.', ''), ('\\N', NULL), ('Grüße 日本語 😀', NULL), ('', NULL), (NULL, NULL);
CREATE INDEX ON orders (body);
CREATE INDEX \"odd index\" ON orders ((lower(body))) WHERE amount IS NOT NULL;
CREATE TABLE empty_one (a int, b text);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (extra int) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p');
INSERT INTO child VALUES (2, 'c', 3);
CREATE TABLE parts (k int, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000) PARTITION BY LIST (k);
CREATE TABLE parts_high_rest PARTITION OF parts_high DEFAULT;
CREATE INDEX ON parts (v);
INSERT INTO parts SELECT g, 'v' || g FROM generate_series(0, 299) g;
CREATE TABLE lines (order_id bigint REFERENCES orders ON DELETE CASCADE, n int);
INSERT INTO lines SELECT g, g FROM generate_series(1, 100) g;
CREATE SEQUENCE plain START 7;
CREATE SEQUENCE stepped INCREMENT 5;
SELECT nextval('stepped');
SELECT nextval('stepped');
CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS a;
CREATE VIEW seen AS SELECT id, body FROM orders;
CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n FROM orders;
CREATE UNIQUE INDEX ON sums (n);
CREATE MATERIALIZED VIEW not_filled AS SELECT 1 AS a WITH NO DATA;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $x$BEGIN NEW.body := 'touched;'; RETURN NEW; END$x$;
CREATE TRIGGER touching BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON orders USING (id > 0);
ALTER TABLE orders OWNER TO app;
GRANT SELECT ON orders TO \"Odd; \"\"Role\";
ALTER TABLE lines ADD CONSTRAINT big CHECK (n > 1000) NOT VALID;
COMMENT ON INDEX \"odd index\" IS 'two
--
-- Name: x; Type: INDEX; Schema: public; Owner: me
--
lines;';
SELECT lo_from_bytea(4242, decode(repeat('00ff5c0a', 50000), 'hex'));
SELECT lo_from_bytea(4243, '');
SELECT lo_create(4244);
SELECT lo_put(4244, 10000, 'sparse');
ALTER LARGE OBJECT 4242 OWNER TO app;
GRANT SELECT ON LARGE OBJECT 4242 TO PUBLIC;
COMMENT ON LARGE OBJECT 4242 IS E'it''s\\ntwo \\\\ lines';
";

async fn filled(job: &JobContext) -> Server {
    let server = Server::start(job).await;
    server.sql("postgres", ROLES).await;
    server.sql("shop", SHOP).await;
    let second =
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1); DROP SCHEMA IF EXISTS nope; CREATE SCHEMA s;";
    server.sql("dbname=postgres", second).await;
    server
}

async fn backed_up(server: &Server, job: &JobContext) -> (MemoryBackups, Manifest) {
    let backups = MemoryBackups::default();
    let system = server.system();
    let manifest = backups.take(&system, BackupKind::Full, &[], job).await.unwrap();
    (backups, manifest)
}

fn toc(backups: &MemoryBackups, manifest: &Manifest) -> Toc {
    let all = backups.artifacts(&manifest.id);
    let found = all.iter().find(|(n, _)| n.as_str() == TOC).unwrap();
    serde_json::from_slice(&found.1).unwrap()
}

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
        assert_eq!(source.schema(database).await, target.schema(database).await);
    }
    let settings = "SELECT array_agg(x ORDER BY x)::text FROM (SELECT (setdatabase = 0)::text || array_to_string(setconfig, '|') AS x FROM pg_db_role_setting) s";
    assert_eq!(
        source.ask("postgres", settings).await,
        target.ask("postgres", settings).await
    );
    let comment = "SELECT obj_description(4242, 'pg_largeobject') || lomacl::text FROM pg_largeobject_metadata WHERE oid = 4242";
    assert_eq!(
        source.ask("shop", comment).await,
        target.ask("shop", comment).await
    );
    assert_eq!(
        target.ask("shop", "SELECT nextval('public.plain')").await,
        "7",
        "a sequence that was never called starts where it should"
    );
    target
        .sql("shop", "SELECT setval('public.plain', 7, false)")
        .await;
    every_change_is_red(&target, &system, &backups, &manifest).await;
}

const CHANGES: [(&str, &str, &str); 12] = [
    (
        "changed value",
        "UPDATE orders SET body = body || '!' WHERE id = 5",
        "UPDATE orders SET body = left(body, -1) WHERE id = 5",
    ),
    (
        "missing row",
        "DELETE FROM parts WHERE k = 7",
        "INSERT INTO parts VALUES (7, 'v7')",
    ),
    (
        "extra row",
        "INSERT INTO empty_one VALUES (1)",
        "TRUNCATE empty_one",
    ),
    (
        "emptied table",
        "TRUNCATE no_columns",
        "INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES",
    ),
    (
        "missing table",
        "ALTER TABLE child RENAME TO gone",
        "ALTER TABLE gone RENAME TO child",
    ),
    ("extra table", "CREATE TABLE extra (a int)", "DROP TABLE extra"),
    (
        "moved sequence",
        "SELECT setval('stepped', 11)",
        "SELECT setval('stepped', 6)",
    ),
    (
        "missing large object",
        "SELECT lo_unlink(4243)",
        "SELECT lo_create(4243)",
    ),
    (
        "changed large object",
        "SELECT lo_put(4242, 70000, 'x')",
        "SELECT lo_put(4242, 70000, '\\x00')",
    ),
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
    (
        "missing role",
        "ALTER ROLE app RENAME TO other",
        "ALTER ROLE other RENAME TO app",
    ),
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
        assert!(
            !found.is_red(),
            "{name} is not undone: {:#?}",
            found.failures().collect::<Vec<_>>()
        );
    }
    target.sql("postgres", "DROP DATABASE \"dbname=postgres\";").await;
    assert!(verify(system, backups, manifest, &target.place()).await.is_red());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_loads_with_psql_alone_and_damage_to_the_files_is_seen() {
    let job = JobContext::plain();
    let source = filled(&job).await;
    let (backups, manifest) = backed_up(&source, &job).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("files");
    let place = Place::Directory { path: dir.clone() };
    let system = source.system();
    let asked = request(&manifest, place.clone(), Existing::Refuse, &[]);
    restore(&system, &backups, asked.clone(), &job).await.unwrap();
    let again = system.plan_restore(asked, &job).await.unwrap();
    assert!(!again.missing.is_empty(), "a filled directory must be refused");
    let target = Server::start(&job).await;
    for load in &toc(&backups, &manifest).load {
        if load.file.ends_with("create.sql") && load_is_for_postgres(&dir, &load.file) {
            continue;
        }
        target
            .tool("psql", load.database.as_deref().unwrap_or("postgres"))
            .args(["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(dir.join(&load.file))
            .output(&job)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", load.file));
    }
    assert_green(&verify(&target.system(), &backups, &manifest, &target.place()).await);
    assert!(!verify(&system, &backups, &manifest, &place).await.is_red());
    let shop = toc(&backups, &manifest);
    let tables = &shop.databases.iter().find(|d| d.name == "shop").unwrap().tables;
    let part = &tables.iter().find(|t| t.name == "orders").unwrap().parts[0];
    let file = dir.join(&part.file);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[usize::try_from(part.header_bytes).unwrap() + 5] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(verify(&system, &backups, &manifest, &place).await.is_red());
    std::fs::remove_file(&file).unwrap();
    assert!(verify(&system, &backups, &manifest, &place).await.is_red());
}

fn load_is_for_postgres(dir: &Path, file: &str) -> bool {
    let text = std::fs::read_to_string(dir.join(file)).unwrap();
    text.starts_with("CREATE DATABASE \"postgres\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_holds_something_is_refused_until_replacing_is_asked_for() {
    let job = JobContext::plain();
    let source = Server::start(&job).await;
    source
        .sql("postgres", "CREATE DATABASE shop; CREATE ROLE app;")
        .await;
    source
        .sql(
            "shop",
            "CREATE TABLE t (a int); INSERT INTO t VALUES (1); SELECT lo_create(77);",
        )
        .await;
    let (backups, manifest) = backed_up(&source, &job).await;
    let target = Server::start(&job).await;
    target
        .sql("postgres", "CREATE DATABASE shop; CREATE ROLE app LOGIN;")
        .await;
    target.sql("shop", "CREATE TABLE precious (a int);").await;
    let system = target.system();
    for place in [Place::Production, target.place()] {
        let asked = request(&manifest, place, Existing::Refuse, &[]);
        let plan = system.plan_restore(asked, &job).await.unwrap();
        assert!(
            plan.missing.iter().any(|m| m.contains("precious")),
            "{:?}",
            plan.missing
        );
        let error = system.restore(&plan, &backups, &job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    assert_eq!(
        target.ask("shop", "SELECT count(*) FROM public.precious").await,
        "0"
    );
    let asked = request(&manifest, Place::Production, Existing::Replace, &[]);
    restore(&system, &backups, asked.clone(), &job).await.unwrap();
    assert_green(&verify(&system, &backups, &manifest, &target.place()).await);
    // a second time over its own result, and over what a dead attempt of the same run left
    target
        .sql(
            "postgres",
            "COMMENT ON DATABASE shop IS 'lifeboat: restore not finished, run 20260101-000000-00000001';",
        )
        .await;
    let refuse = RestoreRequest {
        existing: Existing::Refuse,
        ..asked
    };
    restore(&system, &backups, refuse, &job).await.unwrap();
    assert_green(&verify(&system, &backups, &manifest, &target.place()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_comes_back_into_a_live_database_or_into_a_new_one() {
    let job = JobContext::plain();
    let source = filled(&job).await;
    let (backups, manifest) = backed_up(&source, &job).await;
    let system = source.system();
    source.sql("shop", "SET default_transaction_read_only = off; TRUNCATE public.parts; INSERT INTO public.empty_one VALUES (9);").await;
    let count = "SELECT count(*) FROM public.parts";
    let asked = |existing, patterns: &[&str]| request(&manifest, Place::Production, existing, patterns);
    let refused = restore(
        &system,
        &backups,
        asked(Existing::Refuse, &["shop:public.empty_one"]),
        &job,
    )
    .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let unknown = restore(
        &system,
        &backups,
        asked(Existing::Refuse, &["shop:public.nothing"]),
        &job,
    )
    .await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
    let done = restore(
        &system,
        &backups,
        asked(Existing::Refuse, &["shop:public.parts_*"]),
        &job,
    )
    .await;
    assert_eq!(done.unwrap().items, 300);
    assert_eq!(source.ask("shop", count).await, "300");
    restore(
        &system,
        &backups,
        asked(Existing::Replace, &["public.empty_one"]),
        &job,
    )
    .await
    .unwrap();
    assert_green(&verify(&system, &backups, &manifest, &source.place()).await);
    let target = Server::start(&job).await;
    let fresh = request(&manifest, target.place(), Existing::Refuse, &["shop:*.orders"]);
    restore(&target.system(), &backups, fresh, &job).await.unwrap();
    assert_eq!(
        target.ask("shop", "SELECT count(*) FROM public.orders").await,
        "3006"
    );
    assert_eq!(target.ask("shop", count).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_is_said() {
    let job = JobContext::plain();
    let server = Server::start(&job).await;
    server
        .sql(
            "postgres",
            "CREATE DATABASE closed ALLOW_CONNECTIONS false; CREATE ROLE app; CREATE DATABASE shop;",
        )
        .await;
    server
        .sql(
            "shop",
            "CREATE EXTENSION hstore; CREATE TABLE mine (a int); INSERT INTO mine VALUES (1); \
             ALTER EXTENSION hstore ADD TABLE mine; CREATE TABLE cfg (a int); INSERT INTO cfg VALUES (1), (2), (3); \
             CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a; CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int REFERENCES p); \
             ALTER TABLE c DISABLE TRIGGER ALL; INSERT INTO c VALUES (5); \
             ALTER TABLE p ADD CONSTRAINT later CHECK (id > 5) NOT VALID; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'p_pkey'::regclass;",
        )
        .await;
    let (_, manifest) = backed_up(&server, &job).await;
    let notes = manifest.captured.notes.join("\n");
    for said in [
        "allow no connections are not in this backup: closed",
        "rows of public.mine are not in this backup",
        "materialized views are computed again when loaded, not restored as they were: public.mv",
        "disabled triggers of foreign keys come back enabled: public.c",
        "NOT VALID stay so; rows that break them are restored: later on public.p",
        "invalid indexes are not restored: public.p_pkey",
    ] {
        assert!(notes.contains(said), "{said} is missing in\n{notes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_tables_of_extensions_are_carried_as_far_as_their_condition_says() {
    let job = JobContext::plain();
    let server = Server::start(&job).await;
    server
        .sql(
            "postgres",
            "CREATE EXTENSION hstore; CREATE TABLE cfg (a int); INSERT INTO cfg VALUES (1), (2), (3); \
             ALTER EXTENSION hstore ADD TABLE cfg; \
             UPDATE pg_extension SET extconfig = ARRAY['cfg'::regclass::oid], extcondition = ARRAY['WHERE a > 1'] WHERE extname = 'hstore';",
        )
        .await;
    let (backups, manifest) = backed_up(&server, &job).await;
    let toc = toc(&backups, &manifest);
    let table = &toc.databases[0].tables[0];
    assert_eq!((table.name.as_str(), table.rows), ("cfg", 2));
    assert_eq!(
        manifest.captured.fingerprint.items["postgres/public.cfg"].count,
        2
    );
}

/// Passes everything on, and cuts the server's connections when the first rows come.
struct CuttingSink<S> {
    inner: S,
    server: Connector,
}

#[async_trait]
impl<S: BackupSink> BackupSink for CuttingSink<S> {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactWriter>> {
        if name.as_str().contains("/data/") {
            let job = JobContext::plain();
            let client = self.server.connect(&Place::Production, "template1", &job).await?;
            let cut = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = 'postgres'";
            client.text(&job, "cut connections", cut).await?;
        }
        self.inner.artifact(name).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_and_a_failing_tool_fail_the_backup() {
    let job = JobContext::plain();
    let server = Server::start(&job).await;
    server
        .sql(
            "postgres",
            "CREATE TABLE public.big AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 20000) g;",
        )
        .await;
    let backups = MemoryBackups::default();
    let system = server.system();
    let plan = backups_plan(&system, &job).await.unwrap();
    let sink = CuttingSink {
        inner: backups.sink(&plan.id),
        server: server.connector(),
    };
    let error = system.backup(&plan, &sink, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let tools = tempfile::tempdir().unwrap();
    for (tool, fake) in [
        (
            "pg_dump",
            "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' '\\n'\necho 'no such luck' >&2\nexit 1\n",
        ),
        ("pg_dumpall", "#!/bin/sh\nexec pg_dumpall \"$@\"\n"),
    ] {
        let path = tools.path().join(tool);
        let real = find(&Settings::default(), tool, Wanted::Newest).unwrap();
        let fake = fake.replace("exec pg_dumpall", &format!("exec {}", real.path().display()));
        std::fs::write(&path, fake).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let broken = super::live_tests::system(Settings {
        bin_dir: Some(tools.path().to_path_buf()),
        ..server.settings()
    });
    let plan = backups_plan(&broken, &job).await.unwrap();
    let sink = MemoryBackups::default();
    let error = broken
        .backup(&plan, &sink.sink(&plan.id), &job)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no such luck"), "{error}");
}

async fn backups_plan(system: &Postgres, job: &JobContext) -> Result<crate::domain::backup::BackupPlan> {
    let request = crate::domain::backup::BackupRequest {
        id: crate::domain::id::BackupId::new(job.now(), job.clock().random()),
        kind: BackupKind::Incremental,
        tier: None,
        chain: Vec::new(),
    };
    let plan = system.plan_backup(&request, job).await?;
    assert_eq!(plan.kind, BackupKind::Full);
    assert!(plan.notes[0].contains("full taken"));
    if plan.bytes_estimate.is_none() {
        return Err(Error::bug("estimate size"));
    }
    Ok(plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_stops_the_restore() {
    let job = JobContext::plain();
    let server = Server::start(&job).await;
    server
        .sql(
            "postgres",
            "CREATE TABLE public.t AS SELECT g FROM generate_series(1, 100) g;",
        )
        .await;
    let (backups, manifest) = backed_up(&server, &job).await;
    let part = toc(&backups, &manifest).databases[0].tables[0].parts[0]
        .file
        .clone();
    let name = ArtifactName::parse(part).unwrap();
    let target = Server::start(&job).await;
    backups.tamper(&manifest.id, &name, |mut bytes| {
        bytes.truncate(bytes.len() - 10);
        bytes
    });
    let asked = request(&manifest, target.place(), Existing::Refuse, &[]);
    let error = restore(&target.system(), &backups, asked, &job)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
