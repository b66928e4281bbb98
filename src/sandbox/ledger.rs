//! The ledger of what sandboxes made on this machine, and the sweep of what dead processes left behind.
//!
//! An entry is written before the thing it names is made and cleared after it is gone, so that what exists is always a
//! part of what is written down. Entries of a live process and of another host are never touched.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::remains;
use crate::catalog::{Catalog, LedgerEntry, Resource};
use crate::domain::Timestamp;
use crate::domain::id::RunId;
use crate::domain::run::Owner;
use crate::error::Result;
use crate::runtime::process::{Liveness, liveness, own_identity, start_mark};
use crate::runtime::{JobContext, SystemClock, Workers};

/// Longest time that removing one sandbox may take, whatever became of the job that used it.
const CLEANUP_TIME_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub(super) struct Ledger {
    catalog: Arc<dyn Catalog>,
    owner: Owner,
}

impl Ledger {
    pub(super) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self::owned_by(catalog, own_identity())
    }

    pub(super) fn owned_by(catalog: Arc<dyn Catalog>, owner: Owner) -> Self {
        Self { catalog, owner }
    }

    pub(super) async fn directory(&self, run: &RunId, path: &Path, at: Timestamp) -> Result<i64> {
        let path = path.to_path_buf();
        let resource = Resource::Directory { path };
        self.catalog.record_resource(run, &self.owner, &resource, at).await
    }

    pub(super) async fn process(&self, run: &RunId, pid: u32, program: &str, at: Timestamp) -> Result<i64> {
        let resource = Resource::Process {
            pid,
            // one that ended already has no mark, and no process ever equals that
            started: start_mark(pid).unwrap_or_default(),
            program: program.to_owned(),
        };
        self.catalog.record_resource(run, &self.owner, &resource, at).await
    }

    pub(super) async fn clear(&self, entry: i64) -> Result<()> {
        self.catalog.clear_resource(entry).await
    }

    /// Removes everything that processes which are gone had made. Every entry is tried; the first failure is given back
    /// after the last one, and its entry stays for the next sweep.
    pub(super) async fn sweep(&self, job: &JobContext) -> Result<Vec<String>> {
        let mut entries = job.run("read ledger", self.catalog.resources()).await?;
        // a directory is removed once nothing runs in it
        entries.sort_by_key(|e| matches!(e.resource, Resource::Directory { .. }));
        let (mut removed, mut failure) = (Vec::new(), None);
        for entry in entries {
            job.check("sweep sandboxes")?;
            match liveness(&entry.owner) {
                Liveness::Alive => {}
                Liveness::Elsewhere => {
                    tracing::warn!(run = %entry.run, host = %entry.owner.host, resource = ?entry.resource,
                        "left alone: made on another host");
                }
                Liveness::Gone => match self.remove(&entry, job).await {
                    Ok(what) => removed.extend(what),
                    Err(error) => {
                        tracing::debug!(run = %entry.run, %error, "entry stays in the ledger");
                        failure.get_or_insert(error);
                    }
                },
            }
        }
        failure.map_or(Ok(removed), Err)
    }

    async fn remove(&self, entry: &LedgerEntry, job: &JobContext) -> Result<Vec<String>> {
        let removed = match &entry.resource {
            Resource::Process { pid, started, program } => {
                let killed = remains::kill_process(*pid, started, &cleanup_job(job.workers())).await?;
                killed.then(|| format!("process {pid} ({program})")).into_iter().collect()
            }
            Resource::Directory { path } => remove_home(path, &entry.run, job.workers()).await?,
        };
        self.clear(entry.id).await?;
        Ok(removed)
    }
}

/// A job that the end of the sandbox's own job does not stop: cleaning up is what is left to do then.
pub(super) fn cleanup_job(workers: &Workers) -> JobContext {
    JobContext::new(Arc::new(SystemClock), workers.clone()).child(CLEANUP_TIME_MAX)
}

/// Kills what runs in a sandbox's directory and removes it; gives what was there. Idempotent.
pub(super) async fn remove_home(home: &Path, run: &RunId, workers: &Workers) -> Result<Vec<String>> {
    let job = cleanup_job(workers);
    let mut removed: Vec<String> =
        remains::kill_under(home, &job).await?.into_iter().map(|pid| format!("process {pid}")).collect();
    let (path, run) = (home.to_path_buf(), run.clone());
    let existed = workers.block("remove sandbox", move || remains::remove_home(&path, &run)).await?;
    if existed == remains::Existed::Yes {
        removed.push(format!("directory {}", home.display()));
    }
    Ok(removed)
}
