//! Against real servers on loopback: what the tests in this folder share.

mod access;
mod chain;
mod placing;
mod verifying;

use std::path::{Path, PathBuf};

use super::Postgres;
use super::client::{Client, Connector};
use super::settings::Settings;
use super::slot;
use crate::domain::backup::BackupKind;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{ArtifactName, RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::{Place, ServerPlace};
use crate::domain::restore::{Existing, RestoreRequest, Restored, Selection};
use crate::domain::verification::Verification;
use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::runtime::secret::SecretRef;
use crate::system::testing::{MemoryBackups, TestServer, free_port};
use crate::system::{Canary, DataSystem, Engine, EngineDeps, HealthState, Queries, Sandboxing};

fn engine(settings: Settings) -> Postgres {
    let deps = EngineDeps {
        name: SystemName::parse("orders-db").unwrap(),
        state_dir: PathBuf::from("/nonexistent"),
    };
    Postgres::build(settings, deps).unwrap()
}

fn at(port: u16) -> Settings {
    Settings { port, row_fingerprint: true, ..Settings::default() }
}

async fn start() -> (TestServer, Postgres, JobContext) {
    let job = JobContext::plain();
    let server = TestServer::start(&engine(Settings::default()), |_| Ok(()), &job).await.unwrap();
    let system = engine(at(server.place.port));
    (server, system, job)
}

async fn connect(system: &Postgres, place: &Place, database: &str, job: &JobContext) -> Client {
    system.connector.connect(place, database, job).await.unwrap()
}

async fn run(system: &Postgres, database: &str, sql: &str, job: &JobContext) {
    let client = connect(system, &Place::Production, database, job).await;
    client.execute_all(job, "prepare test", sql).await.unwrap();
}

/// A server on restored files, killed when dropped.
struct Copy {
    place: Place,
    restored: Restored,
    _child: tokio::process::Child,
    home: tempfile::TempDir,
}

fn request(chain: &[Manifest], dir: &Path, job: &JobContext) -> RestoreRequest {
    RestoreRequest {
        run: RunId::new(job.now(), job.clock().random()),
        chain: chain.to_vec(),
        place: Place::Directory { path: dir.to_owned() },
        existing: Existing::Refuse,
        selection: Selection::default(),
    }
}

async fn restore(
    system: &Postgres,
    chain: &[Manifest],
    dir: &Path,
    source: &MemoryBackups,
    job: &JobContext,
) -> Result<Restored> {
    let plan = system.plan_restore(request(chain, dir, job), job).await?;
    assert!(plan.missing.is_empty(), "{:?}", plan.missing);
    system.restore(&plan, source, job).await
}

fn home() -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("lifeboat-test-").tempdir().unwrap();
    if let Some(account) = Account::for_servers("nobody").unwrap() {
        account.own_tree(home.path()).unwrap();
    }
    home
}

async fn start_on(
    system: &Postgres,
    home: tempfile::TempDir,
    restored: Restored,
    job: &JobContext,
) -> Result<Copy> {
    let dir = home.path().join("data");
    let port = free_port()?;
    system.neutralise(&dir, port, job).await?;
    let account = Account::for_servers("nobody")?;
    if let Some(account) = &account {
        account.own_tree(&dir)?;
    }
    let program = system.server(&dir, port)?.unwrap().account(account);
    let child = program.start_logged(&home.path().join("server.log"))?;
    let place = Place::Server(ServerPlace { host: "127.0.0.1".to_owned(), port, dir });
    system.ready(&place, job).await?;
    Ok(Copy { place, restored, _child: child, home })
}

async fn bring_up(system: &Postgres, chain: &[Manifest], source: &MemoryBackups, job: &JobContext) -> Copy {
    let home = home();
    let restored = restore(system, chain, &home.path().join("data"), source, job).await.unwrap();
    start_on(system, home, restored, job).await.unwrap()
}

async fn verify(
    system: &Postgres,
    chain: &[Manifest],
    place: &Place,
    source: &MemoryBackups,
    job: &JobContext,
) -> Verification {
    system.verify(chain, place, source, job).await.unwrap()
}

fn assert_content(found: &Verification) {
    assert!(!found.is_red(), "{:#?}", found.failures().collect::<Vec<_>>());
    assert_eq!(found.level(), Some(EvidenceLevel::E4), "{found:#?}");
    assert!(found.compared > 0);
}

const ODD: &str = "odd \"name\"; 'x'";

/// Two databases, a tablespace, names that need quoting, an unlogged table, large objects, partitions.
async fn fill(system: &Postgres, tablespace: &Path, job: &JobContext) {
    let client = connect(system, &Place::Production, "postgres", job).await;
    let space = format!("CREATE TABLESPACE far LOCATION '{}'", tablespace.display());
    client.execute_all(job, "make tablespace", &space).await.unwrap();
    let odd = format!("CREATE DATABASE {}", super::rows::quote_ident(ODD));
    client.execute_all(job, "make database", &odd).await.unwrap();
    let common = "CREATE TABLE public.items (id int PRIMARY KEY, body text); \
        INSERT INTO public.items SELECT n, repeat(md5(n::text), 5) FROM generate_series(1, 20000) n; \
        CREATE TABLE public.\"Odd \"\"Table\" (\"a b\" int, \"ü\" text); \
        INSERT INTO public.\"Odd \"\"Table\" VALUES (1, E'tab\\t, line\\n, backslash \\\\'), (NULL, NULL);";
    run(system, ODD, common, job).await;
    let more = "CREATE UNLOGGED TABLE public.scratch (id int); INSERT INTO public.scratch VALUES (1); \
        CREATE TABLE public.far_away (id int, body text) TABLESPACE far; \
        INSERT INTO public.far_away SELECT n, md5(n::text) FROM generate_series(1, 5000) n; \
        CREATE TABLE public.parted (id int, v text) PARTITION BY RANGE (id); \
        CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM (0) TO (100); \
        INSERT INTO public.parted SELECT n, 'v' FROM generate_series(0, 99) n; \
        SELECT lo_from_bytea(0, 'a large object');";
    run(system, "postgres", &format!("{common}{more}"), job).await;
}

fn tablespace_dir(server: &TestServer) -> PathBuf {
    let dir = server.place.dir.with_file_name("far");
    std::fs::create_dir(&dir).unwrap();
    if let Some(account) = &server.account {
        account.own_tree(&dir).unwrap();
    }
    dir
}
