//! What planning is told about the world: configured systems and the recovery point chosen for each.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::seconds;
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, BackupState, Watermark};
use crate::domain::id::{BackupId, SystemName};
use crate::domain::objective::{Objectives, Role};

/// A configured system, as far as a runbook can use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemFact {
    pub name: SystemName,
    pub kind: String,
    pub role: Role,
    pub objectives: Objectives,
    /// Which service actions are configured; steps for others are left out, and that is said.
    pub service_actions: BTreeSet<ServiceAction>,
    /// Names of the configured application checks.
    pub checks: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceAction {
    Start,
    Stop,
    Status,
}

impl fmt::Display for ServiceAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Status => "status",
        })
    }
}

/// What was found for one system: the point to restore, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PointFact {
    /// `None` when there is nothing to restore; `missing` then says so.
    pub point: Option<Point>,
    /// One line each: what restoring it will do.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Forecast of the restore from measured throughput; `None` when nothing was measured yet.
    #[serde(with = "seconds::maybe")]
    pub expected: Option<Duration>,
    pub free_bytes: Option<u64>,
    /// What makes the recovery impossible now.
    pub missing: Vec<String>,
    /// What could not be found out.
    pub unknown: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub backup: BackupId,
    /// Full first, `backup` last.
    pub chain: Vec<BackupId>,
    pub kind: BackupKind,
    pub captured_at: Timestamp,
    pub watermark: Option<Watermark>,
    pub state: BackupState,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
}

impl Point {
    /// The newest write it holds, as far as is known.
    pub fn holds_until(&self) -> Timestamp {
        self.watermark.map_or(self.captured_at, |w| w.at)
    }
}
