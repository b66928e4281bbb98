//! RTO and RPO from what a run's journal and proofs say. Pure: events in, figures out.
//!
//! The clock runs from the fault, not from when lifeboat began, to when the system was verified and its application
//! checks passed, not to when a process ended. RPO is read from the restored data. A figure that is not known is
//! absent, and an objective that cannot be judged makes the verdict INCONCLUSIVE.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::critical::critical_path;
use crate::domain::Timestamp;
use crate::domain::backup::{Watermark, WatermarkSource};
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{StepId, SystemName};
use crate::domain::restore::Phase;
use crate::domain::verification::{Outcome, Verification};
use crate::runbook::execute::{Execution, StepReport, StepStatus, SystemReport, level_of};
use crate::runbook::model::Need;
use crate::runbook::plan::{Plan, PlannedSystem};
use crate::runbook::seconds;
use crate::runbook::step::Action;

/// How an instant is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    Observed,
    Declared,
    /// A drill without a real fault: the moment the run was accepted.
    Simulated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub at: Timestamp,
    pub known: Known,
}

/// What happened outside the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    pub fault: Moment,
    pub declared: Option<Timestamp>,
    pub accepted: Timestamp,
}

impl Events {
    /// A drill: the fault is simulated at the moment the run was accepted.
    pub fn simulated(accepted: Timestamp) -> Self {
        Self { fault: Moment { at: accepted, known: Known::Simulated }, declared: None, accepted }
    }
}

/// A figure against its objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    #[serde(rename = "achieved_seconds", with = "seconds::maybe")]
    pub achieved: Option<Duration>,
    /// `None`: no objective, the figure is only reported.
    #[serde(rename = "target_seconds", with = "seconds::maybe")]
    pub target: Option<Duration>,
    pub met: Met,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Met {
    Yes,
    No,
    /// There is an objective, and the figure is not known.
    Unknown,
    NoObjective,
}

impl Figure {
    fn new(achieved: Option<Duration>, target: Option<Duration>) -> Self {
        let met = match (achieved, target) {
            (_, None) => Met::NoObjective,
            (None, Some(_)) => Met::Unknown,
            (Some(a), Some(t)) if a <= t => Met::Yes,
            (Some(_), Some(_)) => Met::No,
        };
        Self { achieved, target, met }
    }

    fn verdict(self) -> Verdict {
        match self.met {
            Met::Yes | Met::NoObjective => Verdict::Pass,
            Met::No => Verdict::Fail,
            Met::Unknown => Verdict::Inconclusive,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemMeasure {
    pub name: SystemName,
    pub kind: String,
    pub need: Need,
    pub verdict: Verdict,
    /// Application checks count as E6 only when RTO and RPO were met.
    pub level: Option<EvidenceLevel>,
    pub rto: Figure,
    /// The same without waiting for people.
    #[serde(with = "seconds::maybe")]
    pub rto_machine: Option<Duration>,
    pub rpo: Figure,
    pub watermark: Option<Watermark>,
    /// Canary records that were acknowledged before the fault and are not in the copy.
    pub lost: Option<u64>,
    /// Canary records missing inside what was restored: loss that an age cannot show.
    pub holes: Option<u64>,
    pub compared: u64,
    pub unit: String,
    pub restored_items: Option<u64>,
    pub restored_bytes: Option<u64>,
    /// Fetch, load, replay, rebuild, verify.
    pub phases: Vec<Phase>,
    pub verified_at: Option<Timestamp>,
    pub remarks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub verdict: Verdict,
    pub level: Option<EvidenceLevel>,
    pub fault: Moment,
    /// When the last required system was verified and checked.
    pub service_at: Option<Timestamp>,
    /// Fault to service.
    #[serde(with = "seconds::maybe")]
    pub rta_business: Option<Duration>,
    /// Declaration to service.
    #[serde(with = "seconds::maybe")]
    pub rta_declared: Option<Duration>,
    /// Acceptance to service without waiting for people.
    #[serde(with = "seconds::maybe")]
    pub rta_machine: Option<Duration>,
    #[serde(with = "seconds")]
    pub human_wait: Duration,
    /// Service to the last first backup afterwards; `None` until every recovered system has one.
    #[serde(with = "seconds::maybe")]
    pub time_to_reprotected: Option<Duration>,
    /// Of all required systems the oldest watermark decides.
    #[serde(with = "seconds::maybe")]
    pub rpo_worst: Option<Duration>,
    /// Newest minus oldest watermark.
    #[serde(with = "seconds::maybe")]
    pub skew: Option<Duration>,
    /// The steps that set the time to service, first to last.
    pub critical_path: Vec<StepId>,
    /// How much later each other step could have ended without delaying service.
    pub slack_seconds: BTreeMap<StepId, f64>,
    pub systems: Vec<SystemMeasure>,
}

/// Measures a run that has ended. The verdict is the execution's own, lowered by objectives that were missed.
pub fn measure(plan: &Plan, execution: &Execution, events: &Events) -> Measurement {
    let systems: Vec<SystemMeasure> = plan
        .systems
        .iter()
        .filter_map(|planned| {
            let report = execution.systems.iter().find(|s| s.name == planned.name)?;
            Some(measure_system(planned, report, execution, events))
        })
        .collect();
    let required: Vec<&SystemMeasure> = systems.iter().filter(|s| s.need == Need::Required).collect();
    let service_at = required
        .iter()
        .map(|s| s.verified_at)
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.into_iter().max());
    let from = |start: Timestamp| service_at.and_then(|end| (end - start).to_std().ok());
    let waited = service_at.map(|end| waited_until(execution, end));
    let (critical_path, slack_seconds) = critical_path(execution, service_at);
    Measurement {
        verdict: overall(execution, &systems),
        level: required.iter().map(|s| s.level).min().flatten(),
        fault: events.fault,
        service_at,
        rta_business: from(events.fault.at),
        rta_declared: events.declared.and_then(from),
        rta_machine: from(events.accepted).zip(waited).map(|(all, w)| all.saturating_sub(w)),
        human_wait: execution.human_wait,
        time_to_reprotected: service_at.and_then(|end| reprotected(execution, end)),
        rpo_worst: required
            .iter()
            .map(|s| s.rpo.achieved)
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
        skew: skew(&required),
        critical_path,
        slack_seconds,
        systems,
    }
}

fn measure_system(
    planned: &PlannedSystem,
    report: &SystemReport,
    execution: &Execution,
    events: &Events,
) -> SystemMeasure {
    let steps: Vec<&StepReport> =
        execution.steps.iter().filter(|s| s.system.as_ref() == Some(&planned.name)).collect();
    let verified_at = verified_at(&steps);
    let took = verified_at.and_then(|at| (at - events.fault.at).to_std().ok());
    let rto = Figure::new(took, Some(planned.rto));
    let proof = report.proof.as_ref();
    let watermark = proof.and_then(|p| p.watermark);
    // a watermark behind the fault can only be the clock's doing: nothing was lost then
    let age = watermark.map(|w| (events.fault.at - w.at).to_std().unwrap_or_default());
    let rpo = Figure::new(age, planned.rpo);
    let restored = steps.iter().find_map(|s| s.output.restored.as_ref());
    let mut phases: Vec<Phase> = restored.map(|r| r.phases.clone()).unwrap_or_default();
    phases.extend(proof.map(|p| p.phases.clone()).unwrap_or_default());
    let objectives = rto.verdict().worst(rpo.verdict());
    let level = capped(report, objectives);
    let mut verdict = report.verdict.worst(objectives);
    if level.is_none_or(|l| l < planned.level) {
        verdict = verdict.worst(Verdict::Inconclusive);
    }
    SystemMeasure {
        name: planned.name.clone(),
        kind: planned.kind.clone(),
        need: planned.need,
        verdict,
        level,
        rto,
        rto_machine: took
            .map(|t| t.saturating_sub(verified_at.map_or(Duration::ZERO, |at| waited_until(execution, at)))),
        rpo,
        watermark,
        lost: proof.and_then(|p| p.lost),
        holes: proof.and_then(|p| p.canaries.as_ref()).map(|c| c.holes),
        compared: report.verification.compared,
        unit: report.verification.unit.clone(),
        restored_items: restored.map(|r| r.items),
        restored_bytes: restored.map(|r| r.bytes),
        phases,
        verified_at,
        remarks: remarks(watermark, events),
    }
}

fn remarks(watermark: Option<Watermark>, events: &Events) -> Vec<String> {
    let mut remarks = Vec::new();
    match watermark.map(|w| w.source) {
        Some(WatermarkSource::Clock) => remarks.push(
            "the data carries no time of its own; the RPO is that of the capture's consistency point"
                .to_owned(),
        ),
        None => remarks.push("no watermark could be read from the restored data".to_owned()),
        Some(WatermarkSource::Canary | WatermarkSource::Engine) => {}
    }
    if watermark.is_some_and(|w| w.at > events.fault.at) {
        remarks.push("the newest write is later than the fault: the fault's time is not exact".to_owned());
    }
    remarks
}

/// When the last required step that speaks about the copy had passed. `None` while one has not.
fn verified_at(steps: &[&StepReport]) -> Option<Timestamp> {
    let evidence = steps
        .iter()
        .filter(|s| s.need == Need::Required && s.action.as_ref().is_some_and(Action::is_evidence));
    let ends: Option<Vec<Timestamp>> =
        evidence.map(|s| if s.status == StepStatus::Succeeded { s.ended_at } else { None }).collect();
    ends?.into_iter().max()
}

/// E6 needs its objectives; without them the application checks say nothing about the level.
fn capped(report: &SystemReport, objectives: Verdict) -> Option<EvidenceLevel> {
    let level = report.level?;
    if level < EvidenceLevel::E6 || objectives == Verdict::Pass {
        return Some(level);
    }
    let mut without = Verification::new(&report.verification.unit);
    let checks = report.verification.checks.iter();
    without
        .checks
        .extend(checks.filter(|c| c.level < EvidenceLevel::E6 && c.outcome == Outcome::Passed).cloned());
    level_of(&without)
}

fn overall(execution: &Execution, systems: &[SystemMeasure]) -> Verdict {
    systems.iter().fold(execution.verdict, |verdict, system| match (system.need, system.verdict) {
        (Need::Required, seen) => verdict.worst(seen),
        (Need::Optional, Verdict::Pass) => verdict,
        (Need::Optional, _) => verdict.worst(Verdict::Degraded),
    })
}

/// Waiting for people up to `end`. Waits after service do not count against it.
fn waited_until(execution: &Execution, end: Timestamp) -> Duration {
    execution.waits.iter().map(|(from, to)| ((*to).min(end) - *from).to_std().unwrap_or_default()).sum()
}

fn reprotected(execution: &Execution, service_at: Timestamp) -> Option<Duration> {
    let backups: Vec<&StepReport> =
        execution.steps.iter().filter(|s| matches!(s.action, Some(Action::Backup(_)))).collect();
    if backups.is_empty() || backups.iter().any(|b| b.status != StepStatus::Succeeded) {
        return None;
    }
    let last = backups.iter().filter_map(|b| b.ended_at).max()?;
    Some((last - service_at).to_std().unwrap_or_default())
}

fn skew(systems: &[&SystemMeasure]) -> Option<Duration> {
    let marks: Vec<Timestamp> = systems.iter().filter_map(|s| s.watermark).map(|w| w.at).collect();
    if marks.len() < 2 || marks.len() < systems.len() {
        return None;
    }
    let (oldest, newest) = (marks.iter().min()?, marks.iter().max()?);
    (*newest - *oldest).to_std().ok()
}
