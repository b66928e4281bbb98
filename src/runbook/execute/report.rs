//! What an execution came to, told from the journal, so that the report of a resumed run is whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Context, verdict};
use crate::domain::Timestamp;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{RunId, RunbookName, StepId, SystemName};
use crate::domain::run::{RunState, StepOutcome};
use crate::domain::verification::Verification;
use crate::error::ErrorKind;
use crate::runbook::host::Proof;
use crate::runbook::journal::History;
use crate::runbook::model::Need;
use crate::runbook::output::StepOutput;
use crate::runbook::plan::PlannedStep;
use crate::runbook::seconds;
use crate::runbook::step::Action;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    Pending,
    /// A gate that is open.
    Waiting,
    /// Announced, and nobody saw its end.
    Unknown,
    Succeeded,
    Failed,
    TimedOut,
    /// Let pass by a person.
    Skipped,
    Undone,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    pub id: StepId,
    pub title: String,
    pub system: Option<SystemName>,
    pub runbook: RunbookName,
    pub need: Need,
    pub needs: Vec<StepId>,
    pub status: StepStatus,
    /// Tries in all, over all resumes.
    pub attempts: u32,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// First start to end, waiting for people included.
    #[serde(with = "seconds::maybe")]
    pub took: Option<Duration>,
    #[serde(with = "seconds")]
    pub human_wait: Duration,
    pub output: StepOutput,
    /// Of the last failure, also when it was then let pass.
    pub error: Option<String>,
    pub hint: Option<String>,
    pub decided_by: Option<String>,
    pub decided_why: Option<String>,
    #[serde(skip, default = "no_action")]
    pub action: Option<Action>,
}

fn no_action() -> Option<Action> {
    None
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemReport {
    pub name: SystemName,
    pub kind: String,
    pub need: Need,
    pub verdict: Verdict,
    /// `None` when nothing was proven.
    pub level: Option<EvidenceLevel>,
    /// Everything that was checked on it, in one.
    pub verification: Verification,
    pub proof: Option<Proof>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub step: StepId,
    /// What is waited for and what to do.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    pub run: RunId,
    pub state: RunState,
    /// Of what was seen so far; final when the state is.
    pub verdict: Verdict,
    /// The weakest required system decides.
    pub level: Option<EvidenceLevel>,
    pub systems: Vec<SystemReport>,
    pub steps: Vec<StepReport>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Times in which nothing went on but waiting for people.
    #[serde(with = "seconds")]
    pub human_wait: Duration,
    /// The same, one by one.
    pub waits: Vec<(Timestamp, Timestamp)>,
    pub notes: Vec<String>,
    pub waiting: Vec<Waiting>,
    pub reason: String,
}

impl Execution {
    pub fn first_failure(&self) -> Option<String> {
        let failed = self.steps.iter().find(|s| s.error.is_some())?;
        failed.error.as_ref().map(|e| format!("{}: {e}", failed.id))
    }
}

pub fn status_of(step: &PlannedStep, history: &History) -> StepStatus {
    let undone = step.undo_id().is_ok_and(|undo| {
        let undo = history.step(&undo);
        matches!(undo.outcome, Some(StepOutcome::Succeeded { .. }))
    });
    let past = history.step(&step.id);
    match &past.outcome {
        Some(StepOutcome::Succeeded { .. }) if undone => StepStatus::Undone,
        Some(StepOutcome::Succeeded { .. }) => StepStatus::Succeeded,
        Some(StepOutcome::Failed { exit_code, .. })
            if *exit_code == ErrorKind::DeadlineExceeded.exit_code() =>
        {
            StepStatus::TimedOut
        }
        Some(StepOutcome::Failed { .. } | StepOutcome::Unproven { .. }) => StepStatus::Failed,
        Some(StepOutcome::Skipped { .. }) => StepStatus::Skipped,
        None if past.open && matches!(step.action, Action::Gate(_)) => StepStatus::Waiting,
        None if past.open => StepStatus::Unknown,
        None => StepStatus::Pending,
    }
}

/// The report as of now; `state` and `reason` are the caller's to say.
pub(super) fn assemble(context: &Context, history: &History) -> Execution {
    let plan = &context.plan;
    let steps: Vec<StepReport> = plan.steps.iter().map(|s| step_report(s, history)).collect();
    let systems = verdict::systems(plan, &steps);
    let (verdict, level) = verdict::overall(plan, &systems, &steps);
    Execution {
        run: context.journal.run.clone(),
        state: RunState::Running,
        verdict,
        level,
        systems,
        steps,
        started_at: history.first_at,
        ended_at: history.last_at,
        human_wait: history.human_wait(),
        waits: history.waits.clone(),
        notes: history.notes.clone(),
        waiting: Vec::new(),
        reason: String::new(),
    }
}

fn step_report(step: &PlannedStep, history: &History) -> StepReport {
    let past = history.step(&step.id);
    let (output, hint, skipped) = match &past.outcome {
        Some(StepOutcome::Succeeded { output } | StepOutcome::Unproven { output, .. }) => {
            (StepOutput::read(output), None, None)
        }
        Some(StepOutcome::Failed { hint, .. }) => (StepOutput::default(), hint.clone(), None),
        Some(StepOutcome::Skipped { reason, by }) => {
            (StepOutput::default(), None, Some((by.clone(), Some(reason.clone()))))
        }
        None => (StepOutput::default(), None, None),
    };
    let answered = past.answer().map(|a| (Some(a.by.clone()), Some(a.reason.clone())));
    let (decided_by, decided_why) = skipped.or(answered).unwrap_or_default();
    let span = past.started_at.zip(past.ended_at);
    StepReport {
        id: step.id.clone(),
        title: step.title.clone(),
        system: step.system.clone(),
        runbook: step.runbook.clone(),
        need: step.need,
        needs: step.needs.clone(),
        status: status_of(step, history),
        attempts: past.attempts,
        started_at: past.started_at,
        ended_at: past.ended_at,
        took: span.and_then(|(from, to)| (to - from).to_std().ok()),
        human_wait: span.map_or(Duration::ZERO, |(from, to)| history.human_wait_between(from, to)),
        output,
        error: past.failure.clone(),
        hint,
        decided_by,
        decided_why,
        action: Some(step.action.clone()),
    }
}
