//! Carries out a plan: parallel by dependency, journal first, pausing rather than guessing. Starts and resumes alike.
//!
//! Invariants:
//! - nothing is done without a durable intent, and every end that was seen has a durable outcome;
//! - a journal that cannot be written (disk, or a newer epoch) stops everything at once;
//! - what succeeded is not done again; what has no outcome is UNKNOWN and is settled by its effect class;
//! - a failure pauses the run after everything independent of it has ended, unless the runbook says otherwise.

mod attempt;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod decision_tests;
mod gate;
mod report;
mod resume;
mod rollback;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

pub use report::{Execution, StepReport, StepStatus, SystemReport, Waiting};
pub use verdict::level_of;

use super::host::{Host, Observation};
use super::journal::{History, Journal};
use super::model::{Effect, Mode, Need, OnFail};
use super::plan::{Plan, PlannedStep};
use crate::catalog::{Catalog, RunEnd};
use crate::domain::evidence::Verdict;
use crate::domain::id::{RunId, StepId};
use crate::domain::run::{JournalRecord, RunEvent, RunState};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use attempt::Fate;
use report::status_of;

#[derive(Clone, Debug)]
pub struct ExecuteRequest {
    pub run: RunId,
    /// From opening or adopting the run; an older one is refused by the journal.
    pub epoch: u32,
    pub plan: Plan,
    pub direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    /// Undo what was done, at a person's word.
    Back {
        by: String,
        reason: String,
    },
    /// Do nothing more: derive what there is and close the run for good.
    Close {
        by: String,
        reason: String,
    },
}

/// What everything in one execution shares.
#[derive(Clone, Debug)]
struct Context {
    plan: Arc<Plan>,
    host: Arc<dyn Host>,
    journal: Journal,
    job: JobContext,
}

impl Context {
    async fn append(&self, event: RunEvent) -> Result<JournalRecord> {
        self.journal.append(event, self.job.now()).await
    }

    fn is_cancelled(&self) -> bool {
        self.job.token().is_cancelled()
    }
}

/// How the work ended, before it is written down.
enum End {
    /// Nothing is left to do.
    Complete,
    RolledBack,
    Waiting(Vec<Waiting>),
    Cancelled,
    Closed {
        by: String,
        reason: String,
    },
}

/// Starts a run or goes on with one.
///
/// Errors: `Conflict` when another process has taken the run over or the plan was changed; whatever keeps the journal
/// from being written. After an error the run can be resumed. A failed step is not an error: it is in the result.
pub async fn execute(
    request: ExecuteRequest,
    host: Arc<dyn Host>,
    catalog: Arc<dyn Catalog>,
    job: &JobContext,
) -> Result<Execution> {
    request.plan.check_digest()?;
    if request.plan.mode == Mode::Plan {
        return Err(Error::new(ErrorKind::Conflict, "carry out a plan that is only to be looked at")
            .hint("make the plan for a recovery or a drill"));
    }
    let context = Context {
        plan: Arc::new(request.plan),
        host,
        journal: Journal { catalog, run: request.run, epoch: request.epoch },
        job: job.clone(),
    };
    let history = context.journal.read(&context.plan).await?;
    let mut executor = Executor { context, history, settled_here: BTreeSet::new(), waiting: BTreeMap::new() };
    let end = executor.carry_out(&request.direction).await?;
    executor.write_down(end).await
}

struct Executor {
    context: Context,
    history: History,
    /// Steps that were brought to an end, or found to wait, by this process.
    settled_here: BTreeSet<StepId>,
    /// Steps that wait for a person, and for what.
    waiting: BTreeMap<StepId, String>,
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, Result<(StepId, Vec<JournalRecord>, Fate)>>>;

impl Executor {
    async fn carry_out(&mut self, direction: &Direction) -> Result<End> {
        if !self.history.is_empty && !matches!(direction, Direction::Close { .. }) {
            let reason = format!("resumed in epoch {}", self.context.journal.epoch);
            let record = self.context.append(RunEvent::State { state: RunState::Running, reason });
            let record = record.await?;
            self.history.apply(&[record]);
        }
        match direction {
            Direction::Forward if self.history.is_rolling_back(&self.context.plan) => self.go_back().await,
            Direction::Forward => self.go_forward().await,
            Direction::Back { by, reason } => {
                let text = format!("rollback asked for by {by}: {reason}");
                let record = self.context.append(RunEvent::Note { text }).await?;
                self.history.apply(&[record]);
                self.go_back().await
            }
            Direction::Close { by, reason } => Ok(End::Closed { by: by.clone(), reason: reason.clone() }),
        }
    }

    async fn go_forward(&mut self) -> Result<End> {
        loop {
            self.run_what_can_run().await?;
            if self.context.is_cancelled() {
                return Ok(End::Cancelled);
            }
            if self.wants_rollback() {
                return self.go_back().await;
            }
            if self.context.plan.steps.iter().all(|s| self.is_passed(s)) {
                return Ok(End::Complete);
            }
            let waiting = self.all_waiting();
            // a person may have answered a gate or skipped a step meanwhile
            let before = self.history.clone();
            self.history = self.context.journal.read(&self.context.plan).await?;
            let answered = |w: &&Waiting| {
                let now = self.history.step(&w.step);
                now.fresh_answer().is_some() || now != before.step(&w.step)
            };
            let freed: Vec<StepId> = waiting.iter().filter(answered).map(|w| w.step.clone()).collect();
            if freed.is_empty() {
                return Ok(End::Waiting(waiting));
            }
            for step in &freed {
                self.settled_here.remove(step);
                self.waiting.remove(step);
            }
        }
    }

    /// Runs until nothing runs and nothing more can start.
    async fn run_what_can_run(&mut self) -> Result<()> {
        let context = self.context.clone();
        let plan = context.plan.clone();
        let mut running: Running<'_> = FuturesUnordered::new();
        let mut inside: BTreeSet<StepId> = BTreeSet::new();
        loop {
            while (inside.len() as u64) < u64::from(plan.parallel) && !context.is_cancelled() {
                let Some(step) = self.next_ready(&plan, &inside) else {
                    break;
                };
                inside.insert(step.id.clone());
                let past = self.history.step(&step.id);
                running.push(Box::pin(attempt::carry_out(&context, step, past)));
            }
            let Some(ended) = running.next().await else { break };
            let (step, records, fate) = ended?;
            self.history.apply(&records);
            inside.remove(&step);
            self.settled_here.insert(step.clone());
            if let Fate::Waiting { why } = fate {
                self.waiting.insert(step.clone(), why);
            }
            if let Some(planned) = plan.step(&step) {
                let status = status_of(planned, &self.history);
                context.host.observe(&Observation::StepEnded { step, status });
            }
        }
        Ok(())
    }

    fn next_ready<'p>(&self, plan: &'p Plan, inside: &BTreeSet<StepId>) -> Option<&'p PlannedStep> {
        if self.wants_rollback() {
            return None;
        }
        plan.steps.iter().find(|step| {
            !inside.contains(&step.id)
                && !self.settled_here.contains(&step.id)
                && !self.is_passed(step)
                && step.needs.iter().all(|n| plan.step(n).is_none_or(|needed| self.is_passed(needed)))
        })
    }

    /// Whether what needs this step may go on.
    fn is_passed(&self, step: &PlannedStep) -> bool {
        match status_of(step, &self.history) {
            StepStatus::Succeeded | StepStatus::Skipped => true,
            StepStatus::Failed | StepStatus::TimedOut => may_be_passed_over(step) && self.has_given_up(step),
            StepStatus::Pending | StepStatus::Waiting | StepStatus::Unknown | StepStatus::Undone => false,
        }
    }

    /// No further try is due: this process made them all, or an earlier one did.
    fn has_given_up(&self, step: &PlannedStep) -> bool {
        let attempts = self.history.step(&step.id).attempts;
        self.settled_here.contains(&step.id) || step.effect == Effect::Once || attempts > step.retry.max
    }

    fn has_failed_for_good(&self, step: &PlannedStep) -> bool {
        let status = status_of(step, &self.history);
        matches!(status, StepStatus::Failed | StepStatus::TimedOut)
            && self.has_given_up(step)
            && !may_be_passed_over(step)
    }

    fn wants_rollback(&self) -> bool {
        let steps = &self.context.plan.steps;
        steps.iter().any(|s| s.on_fail == OnFail::Rollback && self.has_failed_for_good(s))
    }

    fn all_waiting(&self) -> Vec<Waiting> {
        let asked = self.waiting.iter().map(|(step, why)| Waiting { step: step.clone(), why: why.clone() });
        let steps = self.context.plan.steps.iter();
        let failed = steps.filter(|s| self.settled_here.contains(&s.id) && self.has_failed_for_good(s));
        let failed = failed.filter(|s| !self.waiting.contains_key(&s.id));
        let failed = failed.map(|s| Waiting {
            step: s.id.clone(),
            why: format!(
                "failed: {}; find the cause and resume the run to try again, or skip the step with a name and a reason",
                self.history.step(&s.id).failure.unwrap_or_default()
            ),
        });
        asked.chain(failed).collect()
    }

    /// Writes the end down: journal first, then the run itself.
    async fn write_down(mut self, end: End) -> Result<Execution> {
        self.history = self.context.journal.read(&self.context.plan).await?;
        let (state, reason) = match &end {
            End::Cancelled => (RunState::Interrupted, "stopped on request; resume it to go on".to_owned()),
            End::Waiting(waiting) => (RunState::Paused, paused_because(waiting)),
            End::Complete | End::RolledBack | End::Closed { .. } => return self.close(end).await,
        };
        let mut execution = report::assemble(&self.context, &self.history);
        execution.state = state;
        execution.reason.clone_from(&reason);
        if let End::Waiting(waiting) = end {
            execution.waiting = waiting;
        }
        self.move_run(state, reason, RunEnd::default()).await?;
        Ok(execution)
    }

    async fn close(self, end: End) -> Result<Execution> {
        let mut execution = report::assemble(&self.context, &self.history);
        match &end {
            End::RolledBack => execution.verdict = execution.verdict.worst(Verdict::Fail),
            End::Closed { .. } => execution.verdict = execution.verdict.worst(Verdict::Aborted),
            End::Complete | End::Waiting(_) | End::Cancelled => {}
        }
        let conclusion = match self.context.host.conclude(&execution, &self.context.job).await {
            Err(error) if error.kind() == ErrorKind::Cancelled && self.context.is_cancelled() => {
                let reason = "stopped on request while it was being measured".to_owned();
                execution.state = RunState::Interrupted;
                execution.reason.clone_from(&reason);
                self.move_run(RunState::Interrupted, reason, RunEnd::default()).await?;
                return Ok(execution);
            }
            other => other?,
        };
        if let Some(verdict) = conclusion.verdict {
            execution.verdict = execution.verdict.worst(verdict);
        }
        execution.level = match (execution.level, conclusion.level) {
            (Some(seen), Some(measured)) => Some(seen.min(measured)),
            (seen, None) => seen,
            (None, Some(_)) => None,
        };
        execution.state = match (&end, execution.verdict) {
            (End::Closed { .. }, _) | (_, Verdict::Aborted) => RunState::Aborted,
            (_, Verdict::Pass | Verdict::Degraded) => RunState::Succeeded,
            (_, Verdict::Fail | Verdict::Inconclusive) => RunState::Failed,
        };
        execution.reason = match &end {
            End::Closed { by, reason } => format!("closed by {by}: {reason}"),
            End::RolledBack => "what was done was undone".to_owned(),
            End::Complete | End::Waiting(_) | End::Cancelled => format!("verdict {}", execution.verdict),
        };
        let run_end = RunEnd {
            verdict: Some(execution.verdict),
            level: execution.level,
            error: execution.first_failure(),
            detail: conclusion.detail,
        };
        self.move_run(execution.state, execution.reason.clone(), run_end).await?;
        Ok(execution)
    }

    async fn move_run(&self, state: RunState, reason: String, end: RunEnd) -> Result<()> {
        let record = self.context.append(RunEvent::State { state, reason }).await?;
        let journal = &self.context.journal;
        journal
            .catalog
            .move_run(&journal.run, journal.epoch, state, end, record.at)
            .await
            .map_err(|e| e.during("write down the end of the run"))
    }
}

fn may_be_passed_over(step: &PlannedStep) -> bool {
    step.need == Need::Optional || step.on_fail == OnFail::Continue
}

fn paused_because(waiting: &[Waiting]) -> String {
    let lines: Vec<String> = waiting.iter().map(|w| format!("{} {}", w.step, w.why)).collect();
    lines.join(" | ")
}

/// For a step that is neither done nor waiting: a bug in the plan, never a reason to guess.
fn lost_step(step: &StepId) -> Error {
    Error::bug("bring step to an end").with("step", step)
}
