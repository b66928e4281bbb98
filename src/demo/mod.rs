//! The demo: throwaway "production" on loopback with real data, writers that keep writing, a disaster, and the recovery.
//!
//! Owns the story and the cleaning up. Everything between is what a user would run: the same operations, the same
//! shipped scenario. Leaves nothing behind but the report, also when it is cancelled.

pub mod estate;
pub mod fill;
pub mod source;
pub mod strike;
pub mod writer;

use std::path::PathBuf;

use serde::Serialize;

use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::SystemName;
use crate::operation::recover::Outcome;

/// One system in the answer of `lifeboat demo --json`.
#[derive(Clone, Debug, Serialize)]
pub struct SystemResult {
    pub name: SystemName,
    pub kind: String,
    pub verdict: Verdict,
    pub evidence_level: Option<EvidenceLevel>,
    pub rto: Figure,
    pub rpo: Figure,
    /// Rows, keys or files whose content was compared with what was captured.
    pub compared: u64,
    pub unit: String,
    /// Writes that the demo's own writers had acknowledged before the fault and that are not in what was recovered.
    pub lost: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    pub achieved_seconds: Option<f64>,
    pub target_seconds: Option<f64>,
}

/// The answer of `lifeboat demo --json`.
#[derive(Clone, Debug, Serialize)]
pub struct DemoResult {
    pub verdict: Verdict,
    pub drill_verdict: Option<Verdict>,
    pub systems: Vec<SystemResult>,
    /// Systems that could not be shown, and why.
    pub left_out: Vec<String>,
    pub report: Vec<PathBuf>,
}

impl SystemResult {
    pub fn all(outcome: &Outcome, lost: impl Fn(&SystemName) -> Option<u64>) -> Vec<Self> {
        let figure = |f: &crate::scenario::measure::Figure| Figure {
            achieved_seconds: f.achieved.map(|d| d.as_secs_f64()),
            target_seconds: f.target.map(|d| d.as_secs_f64()),
        };
        let one = |s: &crate::scenario::measure::SystemMeasure| Self {
            name: s.name.clone(),
            kind: s.kind.clone(),
            verdict: s.verdict,
            evidence_level: s.level,
            rto: figure(&s.rto),
            rpo: figure(&s.rpo),
            compared: s.compared,
            unit: s.unit.clone(),
            lost: lost(&s.name),
        };
        outcome.measurement.systems.iter().map(one).collect()
    }
}
