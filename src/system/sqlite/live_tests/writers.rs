//! Databases that other processes write while they are captured, or were writing when they died.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

/// The writer of the tests below: started by them as a process of its own.
#[test]
#[ignore = "the body of a child process, started by other tests"]
fn writer_process() {
    let Some(path) = std::env::var_os("LIFEBOAT_TEST_WRITER") else {
        return;
    };
    let mut connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 20; CREATE TABLE a(n, pad); CREATE TABLE b(n); CREATE TABLE sum(n)",
        )
        .unwrap();
    connection.execute("INSERT INTO sum VALUES (0)", []).unwrap();
    for n in 0_i64.. {
        let transaction = connection.transaction().unwrap();
        transaction.execute("INSERT INTO a VALUES (?1, randomblob(500))", [n]).unwrap();
        transaction.execute("INSERT INTO b VALUES (?1)", [n]).unwrap();
        transaction.execute("UPDATE sum SET n = n + 1", []).unwrap();
        transaction.commit().unwrap();
        // with a rollback journal a writer without any pause would never let a reader in
        std::thread::park_timeout(Duration::from_millis(1));
        if n == 100 {
            println!("writing");
        }
    }
}

struct Writer(Child);

impl Writer {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "system::sqlite::live_tests::writers::writer_process",
                "--ignored",
                "--nocapture",
            ])
            .env("LIFEBOAT_TEST_WRITER", path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines.map_while(std::io::Result::ok).any(|l| l.contains("writing")),
            "the writer did not start"
        );
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Takes backups while another process writes, and looks for torn or missing transactions in every restored copy.
async fn backups_beside_a_writer(journal: &str) {
    let home = Home::with(&format!("PRAGMA journal_mode = {journal}"));
    home.production().execute_batch("CREATE TABLE first(x)").unwrap();
    let writer = Writer::start(home.path());
    for round in 0..4 {
        let before: i64 = home.ask(&Place::Production, "SELECT n FROM sum").await;
        let chain = [home.full().await];
        let place = home.place(&round.to_string());
        home.restore(&chain, &place, Existing::Refuse).await.unwrap();
        home.assert_green(&chain, &place).await;
        let seen: i64 = home.ask(&place, "SELECT n FROM sum").await;
        assert!(seen >= before, "{journal}: acknowledged transactions are missing: {seen} of {before}");
        let torn =
            "SELECT count(*) FROM sum WHERE n <> (SELECT count(*) FROM a) OR n <> (SELECT count(*) FROM b)";
        assert_eq!(home.ask(&place, torn).await, 0, "{journal}: a torn transaction");
    }
    drop(writer);
}

impl Home {
    async fn ask(&self, place: &Place, query: &str) -> i64 {
        let answer = self.system.queries().unwrap().ask(place, query, &self.job).await;
        answer.unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn a_database_written_by_another_process_in_wal_mode_is_captured_whole() {
    backups_beside_a_writer("WAL").await;
}

#[tokio::test]
async fn a_database_written_by_another_process_with_a_rollback_journal_is_captured_whole() {
    backups_beside_a_writer("DELETE").await;
}

#[tokio::test]
async fn what_a_killed_writer_left_in_its_log_is_in_the_backup_and_never_in_the_restore() {
    let home = Home::with("PRAGMA journal_mode = WAL; CREATE TABLE first(x)");
    drop(Writer::start(home.path()));
    assert!(std::fs::metadata(with_suffix(home.path(), "-wal")).unwrap().len() > 0);
    let chain = [home.full().await];
    // written since: the log of the old database must not reach the new one
    drop({
        home.production().execute_batch("DROP TABLE a; DROP TABLE b; DROP TABLE sum").unwrap();
        Writer::start(home.path())
    });
    let newest = home.ask(&Place::Production, "SELECT n FROM sum").await;
    drop({
        home.production().execute_batch("DROP TABLE a; DROP TABLE b; DROP TABLE sum").unwrap();
        Writer::start(home.path())
    });
    assert!(newest > 0);
    let run = RunId::new(home.job.now(), 5);
    home.restore_as(run.clone(), &chain, &Place::Production, Existing::Replace).await.unwrap();
    home.assert_green(&chain, &Place::Production).await;
    // the old one is kept with its log, and opens
    let old = with_suffix(home.path(), &format!(".lifeboat-old-{run}"));
    let kept: i64 = Connection::open(old).unwrap().query_row("SELECT n FROM sum", [], |r| r.get(0)).unwrap();
    assert!(kept > 100);
}
