//! Sandboxes with real servers: what exists, what the ledger says, and what is left after every kind of end.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::toy::{Server, Toy};
use super::*;
use crate::catalog::Resource;
use crate::catalog::sqlite::SqliteCatalog;
use crate::domain::run::Owner;
use crate::runtime::process::{host_name, start_mark};

struct Bench {
    home: PathBuf,
    /// Goes with the bench that made it.
    temporary: Option<tempfile::TempDir>,
    catalog: Arc<SqliteCatalog>,
    provider: ProcessProvider,
    run: RunId,
    job: JobContext,
}

fn bench() -> Bench {
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut bench = bench_in(home.path());
    bench.temporary = Some(home);
    bench
}

fn bench_in(home: &std::path::Path) -> Bench {
    let job = JobContext::plain();
    let catalog = Arc::new(SqliteCatalog::open(home.join("c.db"), job.workers().clone()).unwrap());
    let account = Account::for_servers("nobody").unwrap();
    Bench {
        provider: ProcessProvider::new(home.join("boxes"), account, catalog.clone()),
        home: home.to_path_buf(),
        temporary: None,
        catalog,
        run: RunId::new(job.now(), job.clock().random()),
        job: job.child(Duration::from_secs(60)),
    }
}

impl Bench {
    async fn create(&self) -> Box<dyn Sandbox> {
        let name = SystemName::parse("toy").unwrap();
        self.provider.create(&self.run, &name, &self.job).await.unwrap()
    }

    async fn ledger(&self) -> Vec<Resource> {
        let entries = self.catalog.resources().await.unwrap();
        entries.into_iter().map(|e| e.resource).collect()
    }

    fn boxes(&self) -> usize {
        std::fs::read_dir(self.home.join("boxes")).unwrap().count()
    }

    /// From now on sandboxes are made in the name of a process that has ended.
    fn as_dead_owner(&mut self) {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let owner = Owner { pid: child.id(), started: "1@another-boot".to_owned(), host: host_name() };
        child.wait().unwrap();
        self.provider.ledger = Ledger::owned_by(self.catalog.clone(), owner);
    }
}

fn data_of(sandbox: &dyn Sandbox) -> PathBuf {
    match sandbox.directory() {
        Place::Directory { path } => path,
        Place::Production | Place::Server(_) => panic!("no directory"),
    }
}

fn process_in(ledger: &[Resource]) -> (u32, String) {
    let mut processes = ledger.iter().filter_map(|r| match r {
        Resource::Process { pid, started, .. } => Some((*pid, started.clone())),
        Resource::Directory { .. } => None,
    });
    processes.next_back().unwrap()
}

fn lives((pid, started): &(u32, String)) -> bool {
    start_mark(*pid).as_ref() == Some(started)
}

#[tokio::test]
async fn a_sandbox_exists_with_its_ledger_and_leaves_nothing_when_destroyed() {
    let bench = bench();
    let mut sandbox = bench.create().await;
    let data = data_of(&*sandbox);
    assert_eq!(sandbox.place(), sandbox.directory());
    assert_eq!(bench.ledger().await, [Resource::Directory { path: data.parent().unwrap().to_path_buf() }]);
    let home = std::fs::metadata(data.parent().unwrap()).unwrap();
    assert_eq!(home.permissions().mode() & 0o777, 0o700);

    sandbox.start_empty(&Toy::new(Server::Redis), &bench.job).await.unwrap();
    assert!(matches!(sandbox.place(), Place::Server(_)));
    let server = process_in(&bench.ledger().await);
    assert!(lives(&server));
    if nix::unistd::geteuid().is_root() {
        let nobody = Account::named("nobody").unwrap().uid;
        assert_eq!(std::fs::metadata(format!("/proc/{}", server.0)).unwrap().uid(), nobody);
        assert_eq!(std::fs::metadata(data.join("made")).unwrap().uid(), nobody);
    }

    for _ in 0..2 {
        sandbox.destroy(&bench.job).await.unwrap();
        assert!(!lives(&server));
        assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
    }
}

#[tokio::test]
async fn a_killed_server_starts_again_on_what_was_restored() {
    let bench = bench();
    let mut sandbox = bench.create().await;
    let toy = Toy::new(Server::Redis);
    std::fs::write(data_of(&*sandbox).join("restored"), "x").unwrap();
    let done = sandbox.start_restored(&toy, &bench.job).await.unwrap();
    let Place::Server(place) = sandbox.place() else { panic!("no server") };
    assert_eq!(done, [format!("listens on {} only", place.port)]);
    let again = sandbox.start_restored(&toy, &bench.job).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);

    let first = process_in(&bench.ledger().await);
    sandbox.kill().await.unwrap();
    assert!(!lives(&first));
    sandbox.start_restored(&toy, &bench.job).await.unwrap();
    assert!(data_of(&*sandbox).join("restored").is_file());
    sandbox.destroy(&bench.job).await.unwrap();
    assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
}

#[tokio::test]
async fn what_a_dead_process_left_is_swept_even_when_its_server_was_never_written_down() {
    let mut bench = bench();
    bench.as_dead_owner();
    let mut sandbox = bench.create().await;
    let home = data_of(&*sandbox).parent().unwrap().to_path_buf();
    sandbox.start_empty(&Toy::new(Server::Redis), &bench.job).await.unwrap();
    let server = process_in(&bench.ledger().await);
    // as SIGKILL of the owner between start and record would leave it: nothing is dropped, no process entry
    std::mem::forget(sandbox);
    for entry in bench.catalog.resources().await.unwrap() {
        if matches!(entry.resource, Resource::Process { .. }) {
            bench.catalog.clear_resource(entry.id).await.unwrap();
        }
    }
    assert!(lives(&server));

    let removed = bench.provider.sweep(&bench.job).await.unwrap();
    assert!(removed.contains(&format!("process {}", server.0)), "{removed:?}");
    assert!(removed.contains(&format!("directory {}", home.display())), "{removed:?}");
    assert!(!lives(&server));
    assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
    assert!(bench.provider.sweep(&bench.job).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dropped_sandbox_of_a_dead_process_is_swept() {
    let mut bench = bench();
    bench.as_dead_owner();
    let mut sandbox = bench.create().await;
    sandbox.start_empty(&Toy::new(Server::Redis), &bench.job).await.unwrap();
    drop(sandbox);
    assert_eq!(bench.ledger().await.len(), 2);
    assert!(!bench.provider.sweep(&bench.job).await.unwrap().is_empty());
    assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
}

#[tokio::test]
async fn the_sweep_leaves_living_owners_and_other_hosts_alone() {
    let mut bench = bench();
    let mut living = bench.create().await;
    let elsewhere = Owner { pid: 1, started: "1@boot".to_owned(), host: "another-host".to_owned() };
    bench.provider.ledger = Ledger::owned_by(bench.catalog.clone(), elsewhere);
    let remote = bench.create().await;
    assert!(bench.provider.sweep(&bench.job).await.unwrap().is_empty());
    assert!(data_of(&*living).is_dir() && data_of(&*remote).is_dir());
    assert_eq!(bench.ledger().await.len(), 2);
    living.destroy(&bench.job).await.unwrap();
}

#[tokio::test]
async fn an_entry_without_its_directory_is_only_cleared_and_a_foreign_directory_stays() {
    let mut bench = bench();
    bench.as_dead_owner();
    let precious = bench.home.join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("data"), "x").unwrap();
    let ledger = &bench.provider.ledger;
    for path in [&precious, &bench.home.join("never-made")] {
        ledger.directory(&bench.run, path, bench.job.now()).await.unwrap();
    }
    let error = bench.provider.sweep(&bench.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(precious.join("data").is_file());
    assert_eq!(bench.ledger().await, [Resource::Directory { path: precious }]);
}

#[tokio::test]
async fn a_server_that_ends_at_once_is_an_error_with_its_last_words() {
    let bench = bench();
    let mut sandbox = bench.create().await;
    let error = sandbox.start_empty(&Toy::new(Server::Ends), &bench.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("first | no such tablespace"), "{error}");
    assert_eq!(sandbox.place(), sandbox.directory());
    sandbox.destroy(&bench.job).await.unwrap();
    assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
}

#[tokio::test]
async fn a_server_that_loses_its_port_gets_another_one() {
    let bench = bench();
    let mut sandbox = bench.create().await;
    let toy = Toy::new(Server::PortTaken(std::sync::Mutex::default()));
    sandbox.start_empty(&toy, &bench.job).await.unwrap();
    assert_eq!(toy.starts.load(Ordering::Relaxed), 2);
    sandbox.destroy(&bench.job).await.unwrap();
}

#[tokio::test]
async fn a_system_without_a_server_stays_a_directory() {
    let bench = bench();
    let mut sandbox = bench.create().await;
    let toy = Toy::new(Server::None);
    assert!(sandbox.start_restored(&toy, &bench.job).await.unwrap().is_empty());
    assert_eq!(sandbox.place(), sandbox.directory());
    sandbox.destroy(&bench.job).await.unwrap();
}

#[tokio::test]
async fn destroying_works_for_a_job_that_was_cancelled() {
    let bench = bench();
    let mut sandbox = bench.create().await;
    sandbox.start_empty(&Toy::new(Server::Redis), &bench.job).await.unwrap();
    bench.job.cancel();
    sandbox.destroy(&bench.job).await.unwrap();
    assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
}

const VICTIM_HOME: &str = "LIFEBOAT_TEST_VICTIM_HOME";

/// Starts a sandbox, says so and waits to be killed.
#[tokio::test]
#[ignore = "carried out by the next test in a process of its own"]
async fn victim() {
    let home = PathBuf::from(std::env::var_os(VICTIM_HOME).unwrap());
    let bench = bench_in(&home);
    let mut sandbox = bench.create().await;
    sandbox.start_empty(&Toy::new(Server::Redis), &bench.job).await.unwrap();
    println!("\nstarted");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn sigkill_of_the_owner_takes_the_server_along_and_the_sweep_takes_the_rest() {
    let bench = bench();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::process::tests::victim", "--ignored", "--nocapture"])
        .env(VICTIM_HOME, &bench.home)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(victim.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(said).map_while(std::result::Result::ok);
    assert!(lines.any(|line| line == "started"), "the victim did not start");
    let server = process_in(&bench.ledger().await);
    assert!(lives(&server));
    assert!(bench.provider.sweep(&bench.job).await.unwrap().is_empty(), "its owner lives");

    victim.kill().unwrap();
    victim.wait().unwrap();
    let removed = bench.provider.sweep(&bench.job).await.unwrap();
    assert!(removed.iter().any(|r| r.starts_with("directory")), "{removed:?}");
    assert!(!lives(&server));
    assert_eq!((bench.boxes(), bench.ledger().await.len()), (0, 0));
}
