//! The status board: what everyone may read without asking an actor. Written by actors, read by web, CLI and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::domain::Timestamp;
use crate::domain::id::{RunId, SystemName};
use crate::runtime::Progress;
use crate::system::Health;

/// How a system is looked after, apart from its own health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervision {
    Starting,
    Supervised,
    /// Its actor died and is about to be started again.
    Restarting,
    /// Its actor died too often; nothing looks after the system until lifeboat is restarted.
    Unsupervised,
}

/// A running job, for progress bars.
#[derive(Clone, Debug, Serialize)]
pub struct JobStatus {
    pub run: RunId,
    pub what: String,
    pub since: Timestamp,
    #[serde(skip)]
    pub progress: Arc<Progress>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SystemStatus {
    pub supervision: Supervision,
    /// Starts of its actor so far.
    pub generation: u64,
    pub health: Option<Health>,
    pub health_as_of: Option<Timestamp>,
    pub job: Option<JobStatus>,
    pub last_error: Option<String>,
}

impl Default for SystemStatus {
    fn default() -> Self {
        Self {
            supervision: Supervision::Starting,
            generation: 0,
            health: None,
            health_as_of: None,
            job: None,
            last_error: None,
        }
    }
}

/// Shared, cheap to clone; locks are held for a copy only.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard {
    systems: Arc<Mutex<BTreeMap<SystemName, SystemStatus>>>,
}

impl StatusBoard {
    pub fn update(&self, system: &SystemName, change: impl FnOnce(&mut SystemStatus)) {
        let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        change(systems.entry(system.clone()).or_default());
    }

    pub fn systems(&self) -> BTreeMap<SystemName, SystemStatus> {
        self.systems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn system(&self, name: &SystemName) -> Option<SystemStatus> {
        self.systems.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}
