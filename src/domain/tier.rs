//! A tier: schedule, backup kind, destinations and retention under one name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backup::BackupKind;
use super::id::{DestinationName, TierName};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    pub name: TierName,
    pub kind: BackupKind,
    /// Five-field cron expression, UTC.
    pub schedule: String,
    pub destinations: Vec<DestinationName>,
    pub keep_for: Option<Duration>,
    pub keep_count: Option<u32>,
}
