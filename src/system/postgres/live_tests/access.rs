//! Reaching servers: passwords, servers that are down, heartbeats, client programs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_proven_by_scram_and_a_wrong_one_is_denied() {
    let job = JobContext::plain();
    let hba = |dir: &Path| {
        std::fs::write(
            dir.join("pg_hba.conf"),
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n\
             host replication all 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        Ok(())
    };
    let server = TestServer::start(&engine(Settings::default()), hba, &job).await.unwrap();
    let admin = engine(at(server.place.port));
    let role = "CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'right one'; GRANT pg_read_all_data TO keeper";
    run(&admin, "postgres", role, &job).await;
    let secrets = tempfile::tempdir().unwrap();
    let with = |password: &str| {
        let path = secrets.path().join(password.replace(' ', "-"));
        std::fs::write(&path, format!("{password}\n")).unwrap();
        engine(Settings {
            user: "keeper".to_owned(),
            password: Some(SecretRef::parse(&format!("file:{}", path.display())).unwrap()),
            row_fingerprint: false,
            ..at(server.place.port)
        })
    };
    let backups = MemoryBackups::default();
    let right = with("right one");
    backups.take(&right, BackupKind::Full, &[], &job).await.unwrap();
    let wrong = with("wrong one");
    let error = backups.take(&wrong, BackupKind::Full, &[], &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.advice().is_some() && !error.to_string().contains("wrong one"));
    let error =
        crate::system::postgres::replication::Replication::open(&wrong.connector, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(wrong.probe(&job).await.unwrap().state, HealthState::Degraded);
    assert_eq!(right.probe(&job).await.unwrap().state, HealthState::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_a_finding_of_the_probe_and_an_error_of_the_rest() {
    let (mut server, system, job) = start().await;
    let healthy = system.probe(&job).await.unwrap();
    assert_eq!(healthy.state, HealthState::Healthy, "{healthy:?}");
    server.kill().await.unwrap();
    assert_eq!(system.probe(&job).await.unwrap().state, HealthState::Down);
    let backups = MemoryBackups::default();
    let error = backups.take(&system, BackupKind::Full, &[], &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.advice().is_some());
    let error = system.release(&slot::lease(system.name()), &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_back_with_the_data_and_do_not_disturb_the_fingerprint() {
    let (_server, system, job) = start().await;
    run(&system, "postgres", "CREATE TABLE public.t (i int); INSERT INTO public.t VALUES (1)", &job).await;
    assert!(system.read(&Place::Production, &job).await.unwrap().is_empty());
    let record = |seq| crate::domain::canary::CanaryRecord { seq, utc: job.now(), mac: format!("mac{seq}") };
    let (first, second) = (record(1), record(2));
    system.write(&first, &job).await.unwrap();
    system.write(&second, &job).await.unwrap();
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    system.write(&record(600), &job).await.unwrap();
    assert_eq!(system.read(&Place::Production, &job).await.unwrap().len(), 1);
    assert!(chain[0].captured.fingerprint.items.keys().all(|k| !k.contains("canary")));
    assert_content(&verify(&system, &chain, &Place::Production, &backups, &job).await);
    let copy = bring_up(&system, &chain, &backups, &job).await;
    assert_eq!(system.read(&copy.place, &job).await.unwrap(), [first, second]);
    let error = system.ask(&copy.place, "DELETE FROM public.t", &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_programs_reach_a_database_whose_name_looks_like_a_connection_string() {
    let (_server, system, job) = start().await;
    run(&system, "postgres", "CREATE DATABASE \"dbname=postgres\"", &job).await;
    let mut psql: Program = crate::system::postgres::programs::find(
        &Settings::default(),
        "psql",
        crate::system::postgres::programs::Wanted::AtLeast(15),
    )
    .unwrap();
    let connector: &Connector = &system.connector;
    for (key, value) in connector.environment(&Place::Production, "dbname=postgres").unwrap() {
        psql = psql.env(key, value);
    }
    let said = psql.args(["-XAtc", "SELECT current_database()"]).output(&job).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said).trim(), "dbname=postgres");
}
