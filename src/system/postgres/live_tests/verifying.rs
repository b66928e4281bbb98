//! Verification, tested by breaking what it checks.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_verifier_goes_red_for_every_kind_of_difference() {
    let (_server, system, job) = start().await;
    let tables = "CREATE TABLE public.a (id int, v text); INSERT INTO public.a SELECT n, 'v' FROM generate_series(1, 100) n; \
        CREATE TABLE public.b (id int); INSERT INTO public.b VALUES (1); CREATE TABLE public.empty (id int)";
    run(&system, "postgres", tables, &job).await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let copy = bring_up(&system, &chain, &backups, &job).await;
    assert_content(&verify(&system, &chain, &copy.place, &backups, &job).await);
    let client = connect(&system, &copy.place, "postgres", &job).await;
    for (damage, repair) in [
        ("UPDATE public.a SET v = 'w' WHERE id = 50", "UPDATE public.a SET v = 'v' WHERE id = 50"),
        ("DELETE FROM public.a WHERE id = 7", "INSERT INTO public.a VALUES (7, 'v')"),
        ("INSERT INTO public.a VALUES (101, 'v')", "DELETE FROM public.a WHERE id = 101"),
        ("INSERT INTO public.empty VALUES (1)", "TRUNCATE public.empty"),
        ("CREATE TABLE public.extra (id int)", "DROP TABLE public.extra"),
        ("TRUNCATE public.b", "INSERT INTO public.b VALUES (1)"),
        ("DROP TABLE public.b", "CREATE TABLE public.b (id int); INSERT INTO public.b VALUES (1)"),
    ] {
        client.execute_all(&job, "damage", damage).await.unwrap();
        let found = verify(&system, &chain, &copy.place, &backups, &job).await;
        assert!(found.is_red(), "not seen: {damage}");
        client.execute_all(&job, "repair", repair).await.unwrap();
        let found = verify(&system, &chain, &copy.place, &backups, &job).await;
        assert!(!found.is_red(), "{:#?}", found.failures().collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_and_a_damaged_table_are_found_by_the_integrity_check() {
    let (mut server, system, job) = start().await;
    let table = "CREATE TABLE public.t (id int PRIMARY KEY, v text); \
        INSERT INTO public.t SELECT n, md5(n::text) FROM generate_series(1, 20000) n";
    run(&system, "postgres", table, &job).await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    for relation in ["t_pkey", "t"] {
        let path = format!("SELECT pg_relation_filepath('public.{relation}')");
        let path = server.place.dir.join(system.ask(&Place::Production, &path, &job).await.unwrap());
        run(&system, "postgres", "CHECKPOINT", &job).await;
        server.kill().await.unwrap();
        while crate::system::postgres::target::working_in(&server.place.dir).is_some() {
            tokio::task::yield_now().await;
        }
        let before = std::fs::read(&path).unwrap();
        let mut damaged = before.clone();
        // line pointers and tuples of a page in the middle
        damaged[4 * 8192 + 24..4 * 8192 + 32].fill(0x5a);
        damaged[5 * 8192 - 300..5 * 8192 - 16].fill(0xff);
        std::fs::write(&path, &damaged).unwrap();
        server.resume(&system, &job).await.unwrap();
        let found = verify(&system, &chain, &Place::Production, &backups, &job).await;
        let red: Vec<_> = found.failures().filter(|c| c.level == EvidenceLevel::E3).collect();
        assert!(!red.is_empty(), "{relation}: {found:#?}");
        server.kill().await.unwrap();
        while crate::system::postgres::target::working_in(&server.place.dir).is_some() {
            tokio::task::yield_now().await;
        }
        std::fs::write(&path, &before).unwrap();
        server.resume(&system, &job).await.unwrap();
        assert_content(&verify(&system, &chain, &Place::Production, &backups, &job).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unpacked_files_pass_pg_verifybackup_and_damage_to_them_is_seen() {
    let (server, _, job) = start().await;
    let system = engine(Settings { row_fingerprint: false, ..at(server.place.port) });
    fill(&system, &tablespace_dir(&server), &job).await;
    let backups = MemoryBackups::default();
    let chain = [backups.take(&system, BackupKind::Full, &[], &job).await.unwrap()];
    let home = home();
    let dir = home.path().join("data");
    restore(&system, &chain, &dir, &backups, &job).await.unwrap();
    let tool = crate::system::postgres::programs::find(
        &Settings::default(),
        "pg_verifybackup",
        crate::system::postgres::programs::Wanted::Exactly(15),
    );
    // the records behind the recovery point are there as zeros only
    tool.unwrap().arg("--no-parse-wal").arg(&dir).output(&job).await.unwrap();
    let place = Place::Directory { path: dir.clone() };
    assert_content(&verify(&system, &chain, &place, &backups, &job).await);
    let victim = dir.join("global/pg_control");
    let before = std::fs::read(&victim).unwrap();
    let mut flipped = before.clone();
    flipped[100] ^= 1;
    for content in [Some(flipped), Some(before[..100].to_vec()), None] {
        match content {
            Some(content) => std::fs::write(&victim, content).unwrap(),
            None => std::fs::remove_file(&victim).unwrap(),
        }
        assert!(verify(&system, &chain, &place, &backups, &job).await.is_red());
        std::fs::write(&victim, &before).unwrap();
    }
    std::fs::write(dir.join("base/extra"), "x").unwrap();
    assert!(verify(&system, &chain, &place, &backups, &job).await.is_red());
}
