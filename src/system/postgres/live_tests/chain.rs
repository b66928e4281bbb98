//! Backups and chains of them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backup_brings_back_every_database_tablespace_and_odd_name() {
    let (server, system, job) = start().await;
    fill(&system, &tablespace_dir(&server), &job).await;
    let backups = MemoryBackups::default();
    let full = backups.take(&system, BackupKind::Full, &[], &job).await.unwrap();
    assert_eq!(full.captured.fingerprint.unit, "rows");
    assert!(full.captured.notes.iter().any(|n| n.contains("public.scratch")), "{:?}", full.captured.notes);
    let chain = [full];
    let copy = bring_up(&system, &chain, &backups, &job).await;
    assert!(copy.restored.items > 900);
    assert_content(&verify(&system, &chain, &copy.place, &backups, &job).await);
    let answer = system.ask(&copy.place, "SELECT count(*) FROM public.far_away", &job).await.unwrap();
    assert_eq!(answer, "5000");
    let query =
        format!("@{} SELECT count(*) FROM public.items", crate::system::postgres::rows::quote_ident(ODD));
    assert_eq!(system.ask(&copy.place, &query, &job).await.unwrap(), "20000");
    let scratch = system.ask(&copy.place, "SELECT count(*) FROM public.scratch", &job).await.unwrap();
    assert_eq!(scratch, "0");
    // nothing of the copy may lie in the original's tablespace
    let inside = Path::new("pg_tblspc").read_dir().is_err();
    assert!(
        inside
            && copy
                .home
                .path()
                .join("data/pg_tblspc")
                .read_dir()
                .unwrap()
                .all(|e| e.unwrap().path().is_dir())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_backup_of_a_chain_ends_exactly_at_its_point_while_a_writer_goes_on() {
    let (_server, system, job) = start().await;
    run(&system, "postgres", "CREATE TABLE public.log (id bigserial, at timestamptz DEFAULT now())", &job)
        .await;
    let (writing, connector) = (job.child(std::time::Duration::from_secs(300)), system.connector.clone());
    let writer = {
        let job = writing.clone();
        job.clone().workers().spawn("writer", async move {
            let client = connector.connect(&Place::Production, "postgres", &job).await?;
            loop {
                client.execute_all(&job, "write", "INSERT INTO public.log DEFAULT VALUES").await?;
            }
            #[expect(unreachable_code, reason = "gives the task its type")]
            Ok(())
        })
    };
    let backups = MemoryBackups::default();
    let mut chain = Vec::new();
    for kind in [BackupKind::Full, BackupKind::Incremental, BackupKind::Incremental] {
        let taken = backups.take(&system, kind, &chain, &job).await.unwrap();
        assert_eq!(taken.kind, kind, "{:?}", taken.captured.notes);
        assert_eq!(taken.captured.fingerprint.unit, "rows", "{:?}", taken.captured.notes);
        chain.push(taken);
    }
    writing.cancel();
    assert!(writer.join().await.is_err());
    let counts: Vec<u64> =
        chain.iter().map(|m| m.captured.fingerprint.items["postgres/public.log"].count).collect();
    assert!(counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
    for length in 1..=chain.len() {
        let copy = bring_up(&system, &chain[..length], &backups, &job).await;
        assert_content(&verify(&system, &chain[..length], &copy.place, &backups, &job).await);
    }
    // a chain with a hole is refused
    let holed = [chain[0].clone(), chain[2].clone()];
    let error = restore(&system, &holed, &home().path().join("data"), &backups, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_wal_makes_a_full_backup_with_a_note() {
    let (_server, system, job) = start().await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let lease = slot::lease(system.name());
    let client = connect(&system, &Place::Production, "postgres", &job).await;
    let held = slot::find(&client, &lease.name, &job).await.unwrap().unwrap();
    assert_eq!(held.keeps_from.unwrap().to_string(), chain[0].captured.position.end);
    system.release(&lease, &job).await.unwrap();
    system.release(&lease, &job).await.unwrap();
    assert!(slot::find(&client, &lease.name, &job).await.unwrap().is_none());
    for _ in 0..3 {
        client.execute_all(&job, "move on", "CREATE TABLE IF NOT EXISTS public.t (i int)").await.unwrap();
        client.execute_all(&job, "move on", "INSERT INTO public.t VALUES (1)").await.unwrap();
        client.execute_all(&job, "move on", "SELECT pg_switch_wal()").await.unwrap();
        client.execute_all(&job, "move on", "CHECKPOINT").await.unwrap();
    }
    let next = backups.take(&system, BackupKind::Incremental, &chain, &job).await.unwrap();
    assert_eq!(next.kind, BackupKind::Full);
    assert!(next.captured.notes[0].contains("removed WAL"), "{:?}", next.captured.notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tablespace_makes_the_next_incremental_a_full() {
    let (server, system, job) = start().await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let space = format!("CREATE TABLESPACE late LOCATION '{}'", tablespace_dir(&server).display());
    run(&system, "postgres", &space, &job).await;
    let next = backups.take(&system, BackupKind::Incremental, &chain, &job).await.unwrap();
    assert_eq!(next.kind, BackupKind::Full, "{:?}", next.captured.notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_leaves_no_slot_once_its_lease_is_released() {
    let (_server, system, job) = start().await;
    let cancelled = job.child(std::time::Duration::from_secs(60));
    let request = crate::domain::backup::BackupRequest {
        id: crate::domain::id::BackupId::new(job.now(), 1),
        kind: BackupKind::Full,
        tier: None,
        chain: Vec::new(),
    };
    let plan = system.plan_backup(&request, &job).await.unwrap();
    assert_eq!(plan.leases.len(), 1);
    cancelled.cancel();
    let backups = MemoryBackups::default();
    let error = system.backup(&plan, &backups.sink(&plan.id), &cancelled).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    for lease in &plan.leases {
        system.release(lease, &job).await.unwrap();
    }
    let count =
        system.ask(&Place::Production, "SELECT count(*) FROM pg_replication_slots", &job).await.unwrap();
    assert_eq!(count, "0");
}
