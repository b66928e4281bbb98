//! A catalog of one run in memory that can die like a process.

use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::catalog::{
    BackupQuery, BackupRecord, Catalog, HeldLease, LedgerEntry, NewRun, Proof, Resource, RunEnd,
};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupState, Lease};
use crate::domain::canary::CanaryRecord;
use crate::domain::id::{BackupId, DestinationName, RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::run::{JournalRecord, Owner, RunEvent, RunRecord, RunState};
use crate::error::{Error, ErrorKind, Result};

/// Where a dying catalog takes the process down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Before(usize),
    After(usize),
    Never,
}

#[derive(Debug, Default)]
struct Memory {
    run: Option<RunRecord>,
    journal: Vec<JournalRecord>,
}

/// One run in memory. With a death set, the call it meets never returns: as for a process that was killed there.
#[derive(Debug)]
pub struct MemoryCatalog {
    memory: Mutex<Memory>,
    death: Mutex<(Death, usize)>,
    pub died: Notify,
}

impl Default for MemoryCatalog {
    fn default() -> Self {
        Self { memory: Mutex::default(), death: Mutex::new((Death::Never, 0)), died: Notify::new() }
    }
}

impl MemoryCatalog {
    pub fn set_death(&self, death: Death) {
        *self.death.lock().unwrap() = (death, 0);
    }

    /// Writes since the death was set.
    pub fn writes(&self) -> usize {
        self.death.lock().unwrap().1
    }

    pub fn events(&self) -> Vec<RunEvent> {
        self.memory.lock().unwrap().journal.iter().map(|r| r.event.clone()).collect()
    }

    async fn write<T>(&self, change: impl FnOnce(&mut Memory) -> Result<T> + Send) -> Result<T> {
        let (death, nth) = {
            let mut state = self.death.lock().unwrap();
            state.1 += 1;
            *state
        };
        let dead = |k: usize| nth > k;
        match death {
            Death::Before(k) if nth == k || dead(k) => self.die().await,
            Death::After(k) if dead(k) => self.die().await,
            Death::Before(_) | Death::After(_) | Death::Never => {}
        }
        let result = change(&mut self.memory.lock().unwrap());
        if death == Death::After(nth) {
            self.die().await;
        }
        result
    }

    async fn die(&self) {
        self.died.notify_one();
        std::future::pending::<()>().await;
    }
}

fn not_here<T>() -> Result<T> {
    Err(Error::bug("use the test catalog for that"))
}

fn newest(memory: &mut Memory, epoch: u32) -> Result<&mut RunRecord> {
    let run = memory.run.as_mut().unwrap();
    if run.epoch == epoch {
        return Ok(run);
    }
    Err(Error::new(ErrorKind::Conflict, "write with an old epoch").with("epoch", epoch))
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn open_run(&self, run: &NewRun) -> Result<()> {
        self.memory.lock().unwrap().run = Some(RunRecord {
            id: run.id.clone(),
            kind: run.kind,
            system: None,
            subject: None,
            state: RunState::Running,
            started_at: run.started_at,
            finished_at: None,
            owner: run.owner.clone(),
            epoch: 1,
            verdict: None,
            level: None,
            error: None,
            detail: serde_json::Value::Null,
        });
        Ok(())
    }
    async fn run(&self, _: &RunId) -> Result<RunRecord> {
        Ok(self.memory.lock().unwrap().run.clone().unwrap())
    }
    async fn runs(&self, _: u32) -> Result<Vec<RunRecord>> {
        not_here()
    }
    async fn unfinished_runs(&self) -> Result<Vec<RunRecord>> {
        not_here()
    }
    async fn adopt_run(&self, _: &RunId, seen: u32, _: &Owner) -> Result<u32> {
        let mut memory = self.memory.lock().unwrap();
        let run = newest(&mut memory, seen)?;
        assert!(!run.state.is_final());
        run.epoch += 1;
        run.state = RunState::Running;
        Ok(run.epoch)
    }
    async fn move_run(
        &self,
        _: &RunId,
        epoch: u32,
        state: RunState,
        end: RunEnd,
        at: Timestamp,
    ) -> Result<()> {
        let change = move |memory: &mut Memory| {
            let run = newest(memory, epoch)?;
            assert!(run.state.may_become(state), "{} -> {state}", run.state);
            run.state = state;
            run.verdict = end.verdict;
            run.level = end.level;
            run.error = end.error;
            run.finished_at = state.is_final().then_some(at);
            Ok(())
        };
        self.write(change).await
    }
    async fn set_run_detail(&self, _: &RunId, _: u32, _: &serde_json::Value) -> Result<()> {
        not_here()
    }
    async fn append(&self, _: &RunId, epoch: u32, event: &RunEvent, at: Timestamp) -> Result<u64> {
        let change = |memory: &mut Memory| {
            newest(memory, epoch)?;
            let seq = memory.journal.len() as u64 + 1;
            let event = event.clone();
            memory.journal.push(JournalRecord { seq, at, epoch, event });
            Ok(seq)
        };
        self.write(change).await
    }
    async fn journal(&self, _: &RunId) -> Result<Vec<JournalRecord>> {
        Ok(self.memory.lock().unwrap().journal.clone())
    }
    async fn commit_backup(&self, _: &Manifest, _: &DestinationName) -> Result<()> {
        not_here()
    }
    async fn backup(&self, _: &BackupId) -> Result<BackupRecord> {
        not_here()
    }
    async fn backups(&self, _: &BackupQuery) -> Result<Vec<BackupRecord>> {
        not_here()
    }
    async fn set_backup_state(&self, _: &BackupId, _: BackupState, _: Timestamp) -> Result<()> {
        not_here()
    }
    async fn record_proof(&self, _: &BackupId, _: &Proof) -> Result<()> {
        not_here()
    }
    async fn forget_backup(&self, _: &BackupId) -> Result<()> {
        not_here()
    }
    async fn forget_copy(&self, _: &BackupId, _: &DestinationName) -> Result<()> {
        not_here()
    }
    async fn record_lease(&self, _: &RunId, _: &Lease, _: Timestamp) -> Result<()> {
        not_here()
    }
    async fn keep_lease(&self, _: &Lease) -> Result<()> {
        not_here()
    }
    async fn clear_lease(&self, _: &Lease) -> Result<()> {
        not_here()
    }
    async fn leases(&self) -> Result<Vec<HeldLease>> {
        not_here()
    }
    async fn record_resource(&self, _: &RunId, _: &Owner, _: &Resource, _: Timestamp) -> Result<i64> {
        not_here()
    }
    async fn clear_resource(&self, _: i64) -> Result<()> {
        not_here()
    }
    async fn resources(&self) -> Result<Vec<LedgerEntry>> {
        not_here()
    }
    async fn next_canary(&self, _: &SystemName) -> Result<u64> {
        not_here()
    }
    async fn canary_written(&self, _: &SystemName, _: &CanaryRecord) -> Result<()> {
        not_here()
    }
    async fn canaries_after(&self, _: &SystemName, _: u64, _: Timestamp) -> Result<u64> {
        not_here()
    }
}
