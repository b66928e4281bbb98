//! What is refused, what fails, what is said about what cannot be carried.

use std::path::Path;

use async_trait::async_trait;

use super::support::{
    Server, assert_green, backed_up, filled, request, restore, system as engine, toc, verify,
};
use crate::domain::backup::BackupKind;
use crate::domain::id::ArtifactName;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestoreRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::Postgres;
use crate::system::postgres::client::Connector;
use crate::system::postgres::programs::{Wanted, find};
use crate::system::postgres::settings::Settings;
use crate::system::testing::MemoryBackups;
use crate::system::{ArtifactWriter, BackupSink, DataSystem};

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
    source.sql("postgres", "CREATE DATABASE shop; CREATE ROLE app;").await;
    source.sql("shop", "CREATE TABLE t (a int); INSERT INTO t VALUES (1); SELECT lo_create(77);").await;
    let (backups, manifest) = backed_up(&source, &job).await;
    let target = Server::start(&job).await;
    target.sql("postgres", "CREATE DATABASE shop; CREATE ROLE app LOGIN;").await;
    target.sql("shop", "CREATE TABLE precious (a int);").await;
    let system = target.system();
    for place in [Place::Production, target.place()] {
        let asked = request(&manifest, place, Existing::Refuse, &[]);
        let plan = system.plan_restore(asked, &job).await.unwrap();
        assert!(plan.missing.iter().any(|m| m.contains("precious")), "{:?}", plan.missing);
        let error = system.restore(&plan, &backups, &job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    assert_eq!(target.ask("shop", "SELECT count(*) FROM public.precious").await, "0");
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
    let refuse = RestoreRequest { existing: Existing::Refuse, ..asked };
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
    let refused = restore(&system, &backups, asked(Existing::Refuse, &["shop:public.empty_one"]), &job).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let unknown = restore(&system, &backups, asked(Existing::Refuse, &["shop:public.nothing"]), &job).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
    let done = restore(&system, &backups, asked(Existing::Refuse, &["shop:public.parts_*"]), &job).await;
    assert_eq!(done.unwrap().items, 300);
    assert_eq!(source.ask("shop", count).await, "300");
    restore(&system, &backups, asked(Existing::Replace, &["public.empty_one"]), &job).await.unwrap();
    assert_green(&verify(&system, &backups, &manifest, &source.place()).await);
    let target = Server::start(&job).await;
    let fresh = request(&manifest, target.place(), Existing::Refuse, &["shop:*.orders"]);
    restore(&target.system(), &backups, fresh, &job).await.unwrap();
    assert_eq!(target.ask("shop", "SELECT count(*) FROM public.orders").await, "3006");
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
    assert_eq!(manifest.captured.fingerprint.items["postgres/public.cfg"].count, 2);
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
    let sink = CuttingSink { inner: backups.sink(&plan.id), server: server.connector() };
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
    let broken = engine(Settings { bin_dir: Some(tools.path().to_path_buf()), ..server.settings() });
    let plan = backups_plan(&broken, &job).await.unwrap();
    let sink = MemoryBackups::default();
    let error = broken.backup(&plan, &sink.sink(&plan.id), &job).await.unwrap_err();
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
    server.sql("postgres", "CREATE TABLE public.t AS SELECT g FROM generate_series(1, 100) g;").await;
    let (backups, manifest) = backed_up(&server, &job).await;
    let part = toc(&backups, &manifest).databases[0].tables[0].parts[0].file.clone();
    let name = ArtifactName::parse(part).unwrap();
    let target = Server::start(&job).await;
    backups.tamper(&manifest.id, &name, |mut bytes| {
        bytes.truncate(bytes.len() - 10);
        bytes
    });
    let asked = request(&manifest, target.place(), Existing::Refuse, &[]);
    let error = restore(&target.system(), &backups, asked, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
