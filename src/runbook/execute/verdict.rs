//! Verdicts, derived from what the steps saw. Pure; nobody can set one.
//!
//! A required system is PASS only when every required step of it succeeded, its level reaches the objective, and a
//! content check (E4) passed. Findings against the copy are never waived: a person may go on in spite of them, and the
//! verdict still says FAIL. Anything unknown is INCONCLUSIVE, anything skipped or let pass is DEGRADED at best.

use super::report::{StepReport, StepStatus, SystemReport};
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::verification::{Outcome, Verification};
use crate::runbook::model::{Need, OnFail};
use crate::runbook::plan::{Plan, PlannedSystem};
use crate::runbook::step::Action;

/// Level of a system: nothing above E3 counts unless the content itself was compared.
pub fn level_of(verification: &Verification) -> Option<EvidenceLevel> {
    let level = verification.level()?;
    let passed = |at: EvidenceLevel| {
        let mut checks = verification.checks.iter();
        checks.any(|c| c.level == at && c.outcome == Outcome::Passed)
    };
    if level <= EvidenceLevel::E3 || passed(EvidenceLevel::E4) {
        return Some(level);
    }
    let below = verification.checks.iter().filter(|c| c.outcome == Outcome::Passed);
    below.map(|c| c.level).filter(|l| *l <= EvidenceLevel::E3).max()
}

pub fn systems(plan: &Plan, steps: &[StepReport]) -> Vec<SystemReport> {
    plan.systems
        .iter()
        .map(|system| {
            let own: Vec<&StepReport> =
                steps.iter().filter(|s| s.system.as_ref() == Some(&system.name)).collect();
            system_report(plan, system, &own)
        })
        .collect()
}

fn system_report(plan: &Plan, system: &PlannedSystem, steps: &[&StepReport]) -> SystemReport {
    let mut verification = Verification::default();
    let mut proof = None;
    let mut required = Verification::default();
    for step in steps {
        let mut seen = Verification::default();
        if let Some(found) = &step.output.proof {
            seen.merge(found.verification.clone());
            proof = Some(found.clone());
        }
        seen.checks.extend(step.output.checks.iter().cloned());
        // the step's error tells of the failed attempt when a person then let it pass and the findings are gone
        if step.need == Need::Required {
            required.merge(seen.clone());
        }
        verification.merge(seen);
    }
    let level = level_of(&required);
    let mut verdict = steps.iter().fold(Verdict::Pass, |v, s| v.worst(step_verdict(plan, s)));
    if required.is_red() {
        verdict = verdict.worst(Verdict::Fail);
    }
    if level.is_none_or(|l| l < system.level.max(EvidenceLevel::E4)) {
        verdict = verdict.worst(Verdict::Inconclusive);
    }
    SystemReport {
        name: system.name.clone(),
        kind: system.kind.clone(),
        need: system.need,
        verdict,
        level,
        verification,
        proof,
    }
}

fn step_verdict(plan: &Plan, step: &StepReport) -> Verdict {
    let evidence = step.action.as_ref().is_some_and(Action::is_evidence);
    let on_fail = plan.step(&step.id).map_or(OnFail::Pause, |s| s.on_fail);
    match (step.status, step.need) {
        (StepStatus::Succeeded, _) => Verdict::Pass,
        (StepStatus::Pending | StepStatus::Waiting | StepStatus::Unknown, Need::Required) => {
            Verdict::Inconclusive
        }
        (
            StepStatus::Pending
            | StepStatus::Waiting
            | StepStatus::Unknown
            | StepStatus::Failed
            | StepStatus::TimedOut
            | StepStatus::Skipped,
            Need::Optional,
        ) => Verdict::Degraded,
        (StepStatus::Failed | StepStatus::TimedOut, Need::Required) if evidence => Verdict::Fail,
        (StepStatus::Failed | StepStatus::TimedOut, Need::Required) => match on_fail {
            OnFail::Continue => Verdict::Degraded,
            OnFail::Pause | OnFail::Rollback | OnFail::Ask => Verdict::Fail,
        },
        // going on after red evidence does not make it green
        (StepStatus::Skipped, Need::Required) if evidence && step.error.is_some() => Verdict::Fail,
        (StepStatus::Skipped, Need::Required) if evidence => Verdict::Inconclusive,
        (StepStatus::Skipped, Need::Required) => Verdict::Degraded,
        (StepStatus::Undone, _) => Verdict::Fail,
    }
}

/// The whole run: required systems in full, optional ones as DEGRADED at worst.
pub fn overall(
    plan: &Plan,
    systems: &[SystemReport],
    steps: &[StepReport],
) -> (Verdict, Option<EvidenceLevel>) {
    let without_system = steps.iter().filter(|s| s.system.is_none());
    let mut verdict = without_system.fold(Verdict::Pass, |v, s| v.worst(step_verdict(plan, s)));
    for system in systems {
        verdict = match (system.need, system.verdict) {
            (Need::Optional, Verdict::Pass) => verdict,
            (Need::Optional, _) => verdict.worst(Verdict::Degraded),
            (Need::Required, seen) => verdict.worst(seen),
        };
    }
    let mut required = systems.iter().filter(|s| s.need == Need::Required).peekable();
    if required.peek().is_none() {
        return (verdict.worst(Verdict::Inconclusive), None);
    }
    // `None` sorts below every level: the weakest decides
    let level = required.map(|s| s.level).min().flatten();
    (verdict, level)
}
