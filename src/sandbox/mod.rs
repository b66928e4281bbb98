//! Sandbox port: throwaway places for drills, tests and the demo. Everything made is in a ledger first.

mod ledger;
mod port;
pub mod process;
mod remains;
mod root;

use std::fmt::Debug;

use async_trait::async_trait;

use crate::domain::id::{RunId, SystemName};
use crate::domain::place::Place;
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::DataSystem;

/// A throwaway place being filled: an empty directory, later perhaps with a server on it.
#[async_trait]
pub trait Sandbox: Debug + Send + Sync {
    /// The directory, for engines that restore before the server starts.
    fn directory(&self) -> Place;
    /// Where the copy can be reached now: the server once started, the directory before.
    fn place(&self) -> Place;
    /// Initialises an empty server in the directory and starts it; for engines that restore into a running server.
    async fn start_empty(&mut self, system: &dyn DataSystem, job: &JobContext) -> Result<()>;
    /// Neutralises what was restored and starts a server on it. What was neutralised is given back, for the report.
    async fn start_restored(&mut self, system: &dyn DataSystem, job: &JobContext) -> Result<Vec<String>>;
    /// Kills the server the hard way, for faults.
    async fn kill(&mut self) -> Result<()>;
    /// Stops and removes everything; idempotent. The ledger is empty of it afterwards.
    async fn destroy(&mut self, job: &JobContext) -> Result<()>;
}

/// Makes sandboxes of one sort.
#[async_trait]
pub trait Provider: Debug + Send + Sync + 'static {
    async fn create(&self, run: &RunId, system: &SystemName, job: &JobContext) -> Result<Box<dyn Sandbox>>;
    /// Removes what dead runs left behind; gives what was removed.
    async fn sweep(&self, job: &JobContext) -> Result<Vec<String>>;
}
