//! The catalog in a SQLite database. Owns the connection, its transactions and how rows become values.
//!
//! Every write is one `BEGIN IMMEDIATE` transaction and durable when the call returns (WAL, `synchronous=FULL`). Within
//! a process the connection is behind a mutex; several processes may have the file open at once. Dropping a call does
//! not undo it: the transaction runs to its end, committed or not.

mod backups;
mod canaries;
mod connection;
mod held;
mod row;
mod runs;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior};

pub(super) use connection::Db;

use super::{BackupQuery, BackupRecord, Catalog, HeldLease, LedgerEntry, NewRun, Proof, Resource, RunEnd};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupState, Lease};
use crate::domain::canary::CanaryRecord;
use crate::domain::id::{BackupId, DestinationName, RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::run::{JournalRecord, Owner, RunEvent, RunRecord, RunState};
use crate::error::{ErrorKind, Result};
use crate::runtime::Workers;

/// Tries of one transaction while other processes write.
const ATTEMPTS_MAX: u32 = 3;

#[derive(Clone, Debug)]
pub struct SqliteCatalog {
    connection: Arc<Mutex<Connection>>,
    path: PathBuf,
    workers: Workers,
}

impl SqliteCatalog {
    /// Opens the catalog, makes it where it is missing (directories 0700, file 0600) and migrates an older one. Blocks
    /// for some milliseconds.
    ///
    /// Errors: `Unsupported` for a catalog of a newer lifeboat, `Config` for another program's database, `Corrupt`,
    /// `Denied`. Each says what to do.
    pub fn open(path: impl Into<PathBuf>, workers: Workers) -> Result<Self> {
        let path = path.into();
        let connection =
            connection::connect(&path).map_err(|e| e.during("open catalog").with("path", path.display()))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path, workers })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn write<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl Fn(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact(op, TransactionBehavior::Immediate, work).await
    }

    /// One snapshot, however many statements `work` has.
    async fn read<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl Fn(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact(op, TransactionBehavior::Deferred, work).await
    }

    async fn transact<T: Send + 'static>(
        &self,
        op: &'static str,
        behavior: TransactionBehavior,
        work: impl Fn(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = self.connection.clone();
        self.workers
            .block(op, move || {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                let mut attempt = 1;
                loop {
                    match once(&mut connection, op, behavior, &work) {
                        Err(error) if error.kind() == ErrorKind::Busy && attempt < ATTEMPTS_MAX => {
                            tracing::debug!(op, attempt, %error, "catalog is busy");
                            attempt += 1;
                        }
                        result => return result,
                    }
                }
            })
            .await
    }
}

fn once<T>(
    connection: &mut Connection,
    op: &'static str,
    behavior: TransactionBehavior,
    work: &impl Fn(&Transaction<'_>) -> Result<T>,
) -> Result<T> {
    let tx = connection.transaction_with_behavior(behavior).or_db(op)?;
    let result = work(&tx)?;
    tx.commit().or_db(op)?;
    Ok(result)
}

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn open_run(&self, run: &NewRun) -> Result<()> {
        let run = run.clone();
        self.write("open run", move |tx| runs::open(tx, &run)).await
    }

    async fn run(&self, id: &RunId) -> Result<RunRecord> {
        let id = id.clone();
        self.read("find run", move |tx| runs::get(tx, &id)).await
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunRecord>> {
        self.read("list runs", move |tx| runs::newest(tx, limit)).await
    }

    async fn unfinished_runs(&self) -> Result<Vec<RunRecord>> {
        self.read("list unfinished runs", runs::unfinished).await
    }

    async fn adopt_run(&self, id: &RunId, seen_epoch: u32, owner: &Owner) -> Result<u32> {
        let (id, owner) = (id.clone(), owner.clone());
        self.write("adopt run", move |tx| runs::adopt(tx, &id, seen_epoch, &owner)).await
    }

    async fn move_run(
        &self,
        id: &RunId,
        epoch: u32,
        state: RunState,
        end: RunEnd,
        at: Timestamp,
    ) -> Result<()> {
        let id = id.clone();
        self.write("move run", move |tx| runs::change(tx, &id, epoch, state, &end, at)).await
    }

    async fn set_run_detail(&self, id: &RunId, epoch: u32, detail: &serde_json::Value) -> Result<()> {
        let (id, detail) = (id.clone(), detail.clone());
        self.write("set run detail", move |tx| runs::set_detail(tx, &id, epoch, &detail)).await
    }

    async fn append(&self, id: &RunId, epoch: u32, event: &RunEvent, at: Timestamp) -> Result<u64> {
        let (id, event) = (id.clone(), event.clone());
        self.write("append to journal", move |tx| runs::append(tx, &id, epoch, &event, at)).await
    }

    async fn journal(&self, id: &RunId) -> Result<Vec<JournalRecord>> {
        let id = id.clone();
        self.read("read journal", move |tx| runs::journal(tx, &id)).await
    }

    async fn commit_backup(&self, manifest: &Manifest, destination: &DestinationName) -> Result<()> {
        let (manifest, destination) = (manifest.clone(), destination.clone());
        self.write("commit backup", move |tx| backups::commit(tx, &manifest, &destination)).await
    }

    async fn backup(&self, id: &BackupId) -> Result<BackupRecord> {
        let id = id.clone();
        self.read("find backup", move |tx| backups::get(tx, &id)).await
    }

    async fn backups(&self, query: &BackupQuery) -> Result<Vec<BackupRecord>> {
        let query = query.clone();
        self.read("list backups", move |tx| backups::list(tx, &query)).await
    }

    async fn set_backup_state(&self, id: &BackupId, state: BackupState, at: Timestamp) -> Result<()> {
        let id = id.clone();
        self.write("set backup state", move |tx| backups::set_state(tx, &id, state, at)).await
    }

    async fn record_proof(&self, id: &BackupId, proof: &Proof) -> Result<()> {
        let (id, proof) = (id.clone(), proof.clone());
        self.write("record proof", move |tx| backups::record_proof(tx, &id, &proof)).await
    }

    async fn forget_backup(&self, id: &BackupId) -> Result<()> {
        let id = id.clone();
        self.write("forget backup", move |tx| backups::forget(tx, &id)).await
    }

    async fn forget_copy(&self, id: &BackupId, destination: &DestinationName) -> Result<()> {
        let (id, destination) = (id.clone(), destination.clone());
        self.write("forget copy", move |tx| backups::forget_copy(tx, &id, &destination)).await
    }

    async fn record_lease(&self, run: &RunId, lease: &Lease, at: Timestamp) -> Result<()> {
        let (run, lease) = (run.clone(), lease.clone());
        self.write("record lease", move |tx| held::record_lease(tx, &run, &lease, at)).await
    }

    async fn keep_lease(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.write("keep lease", move |tx| held::keep_lease(tx, &lease)).await
    }

    async fn clear_lease(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.write("clear lease", move |tx| held::clear_lease(tx, &lease)).await
    }

    async fn leases(&self) -> Result<Vec<HeldLease>> {
        self.read("list leases", held::leases).await
    }

    async fn record_resource(
        &self,
        run: &RunId,
        owner: &Owner,
        resource: &Resource,
        at: Timestamp,
    ) -> Result<i64> {
        let (run, owner, resource) = (run.clone(), owner.clone(), resource.clone());
        self.write("record resource", move |tx| held::record_resource(tx, &run, &owner, &resource, at)).await
    }

    async fn clear_resource(&self, id: i64) -> Result<()> {
        self.write("clear resource", move |tx| held::clear_resource(tx, id)).await
    }

    async fn resources(&self) -> Result<Vec<LedgerEntry>> {
        self.read("list resources", held::resources).await
    }

    async fn next_canary(&self, system: &SystemName) -> Result<u64> {
        let system = system.clone();
        self.write("number canary", move |tx| canaries::next(tx, &system)).await
    }

    async fn canary_written(&self, system: &SystemName, record: &CanaryRecord) -> Result<()> {
        let (system, record) = (system.clone(), record.clone());
        self.write("record canary", move |tx| canaries::written(tx, &system, &record)).await
    }

    async fn canaries_after(&self, system: &SystemName, seq: u64, until: Timestamp) -> Result<u64> {
        let system = system.clone();
        self.read("count canaries", move |tx| canaries::after(tx, &system, seq, until)).await
    }
}

#[cfg(test)]
mod tests;
