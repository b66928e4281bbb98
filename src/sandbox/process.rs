//! Sandboxes made of local processes: a private directory and, for engines with a server, one on a loopback port.
//!
//! Invariants: a directory is in the ledger before it exists; a server runs as an unprivileged account when we are root;
//! a server counts as started only while its process lives and the port it was given is its own. Dropping a sandbox
//! kills its server and leaves the directory to the sweep.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::process::Child;

use super::ledger::{Ledger, cleanup_job, remove_home};
use super::{Provider, Sandbox, port, remains, root};
use crate::catalog::Catalog;
use crate::domain::id::{RunId, SystemName};
use crate::domain::place::{Place, ServerPlace};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::runtime::{JobContext, Workers};
use crate::system::{DataSystem, Sandboxing};

/// A port may be taken between finding it and listening on it.
const PORTS_TRIED_MAX: u32 = 5;
/// Of a server's log, the last part goes into an error.
const LOG_TAIL_BYTES: u64 = 4096;
const LOG_TAIL_LINES: usize = 12;
/// Of a system's name in the directory's: Unix socket paths below it end at 107 bytes.
const NAME_CHARS_KEPT: usize = 24;

/// Makes sandboxes below one directory of this machine.
#[derive(Debug)]
pub struct ProcessProvider {
    root: PathBuf,
    account: Option<Account>,
    ledger: Ledger,
}

impl ProcessProvider {
    /// `account` is what servers run as (`Account::for_servers`); it must be able to enter `root` and its parents.
    pub fn new(root: PathBuf, account: Option<Account>, catalog: Arc<dyn Catalog>) -> Self {
        Self { root, account, ledger: Ledger::new(catalog) }
    }
}

#[async_trait]
impl Provider for ProcessProvider {
    async fn create(&self, run: &RunId, system: &SystemName, job: &JobContext) -> Result<Box<dyn Sandbox>> {
        let (base, account) = (self.root.clone(), self.account.clone());
        let prepare = move || root::prepare(&base, account.as_ref());
        let root =
            job.run("prepare sandbox root", job.workers().block("prepare sandbox root", prepare)).await?;
        let short: String = system.as_str().chars().take(NAME_CHARS_KEPT).collect();
        let home = root.join(format!("{run}-{short}-{:08x}", job.clock().random()));
        let entry = job.run("write ledger", self.ledger.directory(run, &home, job.now())).await?;
        let sandbox = ProcessSandbox {
            data: home.join("data"),
            home,
            run: run.clone(),
            account: self.account.clone(),
            ledger: self.ledger.clone(),
            workers: job.workers().clone(),
            entries: vec![entry],
            server: None,
            place: None,
        };
        match sandbox.make(job).await {
            Ok(()) => Ok(Box::new(sandbox)),
            // somebody else's directory is not ours to remove
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.ledger.clear(entry).await?;
                Err(error.during("make sandbox"))
            }
            Err(error) => {
                let mut half = sandbox;
                if let Err(left) = half.destroy(job).await {
                    tracing::debug!(%left, "a half-made sandbox is left to the sweep");
                }
                Err(error.during("make sandbox"))
            }
        }
    }

    async fn sweep(&self, job: &JobContext) -> Result<Vec<String>> {
        self.ledger.sweep(job).await
    }
}

#[derive(Debug)]
struct ProcessSandbox {
    home: PathBuf,
    data: PathBuf,
    run: RunId,
    account: Option<Account>,
    ledger: Ledger,
    workers: Workers,
    /// What of it is in the ledger.
    entries: Vec<i64>,
    server: Option<Child>,
    /// Set once a server has answered.
    place: Option<ServerPlace>,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Empty,
    Restored,
}

impl ProcessSandbox {
    async fn make(&self, job: &JobContext) -> Result<()> {
        let (home, data, run) = (self.home.clone(), self.data.clone(), self.run.clone());
        let account = self.account.clone();
        let make = move || {
            let mut private = std::fs::DirBuilder::new();
            private.mode(0o700);
            private.create(&home).or_io("make directory", &home)?;
            remains::mark(&home, &run)?;
            private.create(&data).or_io("make directory", &data)?;
            let Some(account) = account else { return Ok(()) };
            for dir in [&home, &data] {
                std::os::unix::fs::lchown(dir, Some(account.uid), Some(account.gid))
                    .or_io("change owner", dir)?;
            }
            Ok(())
        };
        // not through job.run: a half-made directory is worse than a late cancel
        job.workers().block("make sandbox directory", make).await
    }

    fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    async fn start(
        &mut self,
        system: &dyn DataSystem,
        content: Content,
        job: &JobContext,
    ) -> Result<Vec<String>> {
        let Some(sandboxing) = system.sandboxing() else {
            return Ok(Vec::new());
        };
        if self.server.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "start a second server in a sandbox")
                .with("path", self.home.display()));
        }
        sandboxing.programs()?;
        if let Content::Empty = content {
            sandboxing.initialise(&self.data, self.account.as_ref(), job).await?;
        }
        let mut tried = 1;
        loop {
            let place =
                ServerPlace { host: "127.0.0.1".to_owned(), port: port::free()?, dir: self.data.clone() };
            let Some(program) = sandboxing.server(&self.data, place.port)? else {
                return Ok(Vec::new());
            };
            let done = match content {
                Content::Empty => Vec::new(),
                Content::Restored => sandboxing.neutralise(&self.data, place.port, job).await?,
            };
            self.give_to_account(job).await?;
            match self.serve(sandboxing, program, place, job).await {
                Err(error) if error.kind() == ErrorKind::Busy && tried < PORTS_TRIED_MAX => {
                    tracing::debug!(%error, "another port");
                    tried += 1;
                }
                result => return result.map(|()| done),
            }
        }
    }

    async fn give_to_account(&self, job: &JobContext) -> Result<()> {
        let Some(account) = self.account.clone() else {
            return Ok(());
        };
        let data = self.data.clone();
        let own = job.workers().block("give sandbox to its account", move || account.own_tree(&data));
        job.run("give sandbox to its account", own).await
    }

    /// Starts the server and waits until it answers. `Busy` when somebody else has the port. On an error no server is
    /// left running.
    async fn serve(
        &mut self,
        sandboxing: &dyn Sandboxing,
        program: Program,
        place: ServerPlace,
        job: &JobContext,
    ) -> Result<()> {
        let name = program.path().display().to_string();
        let child = program
            .env(remains::ENV_HOME, &self.home)
            .account(self.account.clone())
            .start_logged(&self.log())?;
        let pid = child.id().unwrap_or_default();
        self.server = Some(child);
        let written = self.ledger.process(&self.run, pid, &name, job.now());
        let outcome = match job.run("write ledger", written).await {
            Ok(entry) => {
                self.entries.push(entry);
                self.watch(sandboxing, &place, job).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.place = Some(place),
            Err(error) => {
                let tail = self.log_tail();
                self.stop_server().await?;
                return Err(error
                    .during("start sandbox server")
                    .with("program", name)
                    .with("port", place.port)
                    .with("log", tail));
            }
        }
        Ok(())
    }

    async fn watch(
        &mut self,
        sandboxing: &dyn Sandboxing,
        place: &ServerPlace,
        job: &JobContext,
    ) -> Result<()> {
        let Some(child) = &mut self.server else {
            return Err(Error::bug("watch a server that was not started"));
        };
        let pid = child.id();
        let at = Place::Server(place.clone());
        let answered = tokio::select! {
            status = child.wait() => {
                let status = status.or_io("wait for server", &self.home)?;
                return Err(early_exit(place.port).with("status", status));
            }
            answered = sandboxing.ready(&at, job) => answered,
        };
        if let Ok(Some(status)) = child.try_wait() {
            return Err(early_exit(place.port).with("status", status));
        }
        answered?;
        let home = self.home.clone();
        let number = place.port;
        let who = move || {
            let pids: Vec<u32> = remains::processes_under(&home).into_iter().chain(pid).collect();
            Ok(port::listener(number, &pids))
        };
        match self.workers.block("find listener", who).await? {
            port::Listener::Foreign => Err(port_taken(place.port)),
            port::Listener::Ours | port::Listener::Unknown => Ok(()),
        }
    }

    /// What the server said last, on one line.
    fn log_tail(&self) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = std::fs::File::open(self.log())?;
            let bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
            Ok(tail)
        };
        let text = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        match lines.len() {
            0 => "empty".to_owned(),
            n => lines[n.saturating_sub(LOG_TAIL_LINES)..].join(" | "),
        }
    }

    /// Kills the server and everything else that runs in the sandbox. The job that used it may be over.
    async fn stop_server(&mut self) -> Result<()> {
        let job = cleanup_job(&self.workers);
        if let Some(mut server) = self.server.take() {
            let kill = async { server.kill().await.or_io("kill server", &self.home) };
            job.run("kill server", kill).await?;
        }
        remains::kill_under(&self.home, &job).await?;
        Ok(())
    }
}

fn early_exit(port: u16) -> Error {
    if port::is_taken(port) {
        return port_taken(port);
    }
    Error::new(ErrorKind::Failed, "keep the server running").why("it ended by itself")
}

fn port_taken(port: u16) -> Error {
    Error::new(ErrorKind::Busy, "listen on a port").with("port", port).why("another process has it")
}

#[async_trait]
impl Sandbox for ProcessSandbox {
    fn directory(&self) -> Place {
        Place::Directory { path: self.data.clone() }
    }

    fn place(&self) -> Place {
        self.place.clone().map_or_else(|| self.directory(), Place::Server)
    }

    async fn start_empty(&mut self, system: &dyn DataSystem, job: &JobContext) -> Result<()> {
        self.start(system, Content::Empty, job).await.map(drop)
    }

    async fn start_restored(&mut self, system: &dyn DataSystem, job: &JobContext) -> Result<Vec<String>> {
        self.start(system, Content::Restored, job).await
    }

    async fn kill(&mut self) -> Result<()> {
        self.stop_server().await
    }

    async fn destroy(&mut self, _job: &JobContext) -> Result<()> {
        self.stop_server().await?;
        self.place = None;
        remove_home(&self.home, &self.run, &self.workers).await?;
        // the directory's entry goes last: it is the one that finds everything else
        while let Some(entry) = self.entries.last() {
            self.ledger.clear(*entry).await?;
            self.entries.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy;
