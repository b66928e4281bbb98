//! Forecasting from what was measured: how long a restore of so many bytes will take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::id::SystemName;
use crate::domain::run::RunKind;
use crate::error::Result;
use crate::operation::Node;

/// Runs looked at, newest first.
const RUNS_MAX: u32 = 50;

/// What one restore of one system took; kept in the detail of recover and drill runs under `measured`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub system: SystemName,
    pub bytes: u64,
    pub seconds: f64,
}

/// The slowest of the last measured throughputs, applied to `bytes`; `None` when nothing was measured yet.
pub async fn restore_time(node: &Node, system: &SystemName, bytes: u64) -> Result<Option<Duration>> {
    let runs = node.catalog.runs(RUNS_MAX).await?;
    let measured = runs
        .iter()
        .filter(|r| matches!(r.kind, RunKind::Recover | RunKind::Drill))
        .filter_map(|r| r.detail.get("measured").cloned())
        .filter_map(|m| serde_json::from_value::<Vec<Measured>>(m).ok())
        .flatten()
        .filter(|m| m.system == *system && m.bytes > 0 && m.seconds > 0.0);
    let slowest = measured.map(|m| m.seconds / m.bytes as f64).max_by(f64::total_cmp);
    Ok(slowest.map(|seconds_per_byte| Duration::from_secs_f64(seconds_per_byte * bytes as f64)))
}
