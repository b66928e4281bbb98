//! Servers, systems and data for the live tests of logical backups.

use std::sync::Arc;

use super::super::toc::{TOC, Toc};
use crate::domain::backup::BackupKind;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::{Place, ServerPlace};
use crate::domain::restore::{Existing, RestoreRequest, Restored, Selection};
use crate::domain::verification::Verification;
use crate::error::Result;
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::postgres::Postgres;
use crate::system::postgres::client::Connector;
use crate::system::postgres::programs::{Wanted, find};
use crate::system::postgres::settings::{Method, Settings};
use crate::system::testing::{MemoryBackups, free_port};
use crate::system::{DataSystem, Engine, EngineDeps};

/// A throwaway server; killed and removed when dropped.
pub struct Server {
    pub place: ServerPlace,
    _child: tokio::process::Child,
    _home: tempfile::TempDir,
}

impl Server {
    pub async fn start(job: &JobContext) -> Self {
        let account = Account::for_servers("nobody").unwrap();
        let home = tempfile::Builder::new().prefix("lifeboat-pg-").tempdir().unwrap();
        let dir = home.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        if let Some(account) = &account {
            account.own_tree(home.path()).unwrap();
        }
        let settings = Settings::default();
        initialise(&dir, account.clone(), job).await;
        let port = free_port().unwrap();
        let child = find(&settings, "postgres", Wanted::Newest)
            .unwrap()
            .arg("-D")
            .arg(&dir)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=40"])
            .account(account)
            .dir("/")
            .start_logged(&home.path().join("log"))
            .unwrap();
        let place = ServerPlace { host: "127.0.0.1".to_owned(), port, dir };
        let server = Self { place, _child: child, _home: home };
        let limited = job.child(std::time::Duration::from_secs(30));
        while server.connector().connect(&server.place(), "postgres", &limited).await.is_err() {
            limited.sleep("wait for server", std::time::Duration::from_millis(20)).await.unwrap();
        }
        server
    }

    pub fn place(&self) -> Place {
        Place::Server(self.place.clone())
    }

    pub fn settings(&self) -> Settings {
        Settings { port: self.place.port, method: Method::Logical, ..Settings::default() }
    }

    pub fn connector(&self) -> Connector {
        Connector::new(Arc::new(self.settings()))
    }

    /// The engine with this server as production.
    pub fn system(&self) -> Postgres {
        system(self.settings())
    }

    pub async fn sql(&self, database: &str, sql: &str) {
        let job = JobContext::plain();
        let client = self.connector().connect(&Place::Production, database, &job).await.unwrap();
        client.execute_all(&job, "prepare test", "SET search_path = public").await.unwrap();
        // one statement at a time: some cannot stand together in one transaction
        for statement in super::super::script::statements(sql) {
            client.execute_all(&job, "prepare test", &statement).await.unwrap();
        }
    }

    pub async fn ask(&self, database: &str, sql: &str) -> String {
        let job = JobContext::plain();
        let client = self.connector().connect(&Place::Production, database, &job).await.unwrap();
        client.text(&job, "ask", sql).await.unwrap().unwrap_or_default()
    }

    pub fn tool(&self, name: &str, database: &str) -> Program {
        let env = self.connector().environment(&Place::Production, database).unwrap();
        let program = find(&self.settings(), name, Wanted::Newest).unwrap();
        env.into_iter().fold(program, |p, (k, v)| p.env(k, v))
    }

    pub async fn schema(&self, database: &str) -> String {
        let job = JobContext::plain();
        let dump =
            self.tool("pg_dump", database).args(["--create", "--schema-only"]).output(&job).await.unwrap();
        let text = String::from_utf8(dump.to_vec()).unwrap();
        text.lines().filter(|l| !l.starts_with('\\')).collect::<Vec<_>>().join("\n")
    }
}

async fn initialise(dir: &std::path::Path, account: Option<Account>, job: &JobContext) {
    find(&Settings::default(), "initdb", Wanted::Newest)
        .unwrap()
        .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8", "-D"])
        .arg(dir)
        .account(account)
        .dir("/")
        .output(job)
        .await
        .unwrap();
}

pub fn system(settings: Settings) -> Postgres {
    let deps = EngineDeps { name: SystemName::parse("pg").unwrap(), state_dir: std::env::temp_dir() };
    Postgres::build(settings, deps).unwrap()
}

pub fn request(manifest: &Manifest, place: Place, existing: Existing, patterns: &[&str]) -> RestoreRequest {
    RestoreRequest {
        run: RunId::parse("20260101-000000-00000001").unwrap(),
        chain: vec![manifest.clone()],
        place,
        existing,
        selection: Selection { patterns: patterns.iter().map(|p| (*p).to_owned()).collect() },
    }
}

pub async fn restore(
    system: &Postgres,
    backups: &MemoryBackups,
    request: RestoreRequest,
    job: &JobContext,
) -> Result<Restored> {
    let plan = system.plan_restore(request, job).await?;
    system.restore(&plan, backups, job).await
}

pub async fn verify(
    system: &Postgres,
    backups: &MemoryBackups,
    manifest: &Manifest,
    place: &Place,
) -> Verification {
    let job = JobContext::plain();
    let chain = [manifest.clone()];
    system.verify(&chain, place, backups, &job).await.unwrap()
}

pub fn assert_green(found: &Verification) {
    let failures: Vec<_> = found.failures().collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(found.level(), Some(EvidenceLevel::E4), "{:#?}", found.checks);
    assert!(found.compared > 0);
}

/// Things that are hard to carry, in two databases with names that are easily misread.
pub const ROLES: &str = "
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

pub const SHOP: &str = "
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

pub async fn filled(job: &JobContext) -> Server {
    let server = Server::start(job).await;
    server.sql("postgres", ROLES).await;
    server.sql("shop", SHOP).await;
    let second =
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1); DROP SCHEMA IF EXISTS nope; CREATE SCHEMA s;";
    server.sql("dbname=postgres", second).await;
    server
}

pub async fn backed_up(server: &Server, job: &JobContext) -> (MemoryBackups, Manifest) {
    let backups = MemoryBackups::default();
    let system = server.system();
    let manifest = backups.take(&system, BackupKind::Full, &[], job).await.unwrap();
    (backups, manifest)
}

pub fn toc(backups: &MemoryBackups, manifest: &Manifest) -> Toc {
    let all = backups.artifacts(&manifest.id);
    let found = all.iter().find(|(n, _)| n.as_str() == TOC).unwrap();
    serde_json::from_slice(&found.1).unwrap()
}
