//! One step brought to an end: intent, act, outcome, and the tries that its effect class allows.

use std::sync::Arc;
use std::time::Duration;

use super::resume::{Settled, settle};
use super::{Context, gate};
use crate::domain::id::StepId;
use crate::domain::run::{JournalRecord, RunEvent, StepOutcome};
use crate::error::{Error, Result, Retry};
use crate::runbook::host::{Act, Observation, Question};
use crate::runbook::journal::StepHistory;
use crate::runbook::model::{Effect, OnFail, RetryWhen};
use crate::runbook::output::StepOutput;
use crate::runbook::plan::PlannedStep;
use crate::runbook::step::{Acting, Action};
use crate::runtime::retry::RetryPolicy;
use crate::runtime::{JobContext, Progress};

const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// How it ended, as far as scheduling goes; the rest is in the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// An outcome is in the journal.
    Settled,
    /// A person must say something first.
    Waiting { why: String },
    /// The job was cancelled; an open intent stays open.
    Stopped,
}

/// Collects the records of one step while they are written.
pub struct Recorder<'a> {
    context: &'a Context,
    step: &'a StepId,
    pub records: Vec<JournalRecord>,
}

impl Recorder<'_> {
    pub async fn event(&mut self, event: RunEvent) -> Result<()> {
        self.records.push(self.context.append(event).await?);
        Ok(())
    }

    pub async fn intent(&mut self, attempt: u32) -> Result<()> {
        let step = self.step.clone();
        self.event(RunEvent::Intent { step, attempt }).await
    }

    pub async fn outcome(&mut self, attempt: u32, outcome: StepOutcome) -> Result<()> {
        let step = self.step.clone();
        self.event(RunEvent::Outcome { step, attempt, outcome }).await
    }
}

/// `Err` only when the journal cannot be written or lifeboat itself is broken; a failed act is an outcome.
pub async fn carry_out(
    context: &Context,
    step: &PlannedStep,
    past: StepHistory,
) -> Result<(StepId, Vec<JournalRecord>, Fate)> {
    let mut recorder = Recorder { context, step: &step.id, records: Vec::new() };
    let fate = match &step.action {
        Action::Gate(asked) => gate::pass(context, step, asked, &past, &mut recorder).await?,
        Action::Restore(_)
        | Action::Verify(_)
        | Action::Service(_)
        | Action::Command(_)
        | Action::Check(_)
        | Action::Query(_)
        | Action::Http(_)
        | Action::Wait(_)
        | Action::Notify(_)
        | Action::Backup(_) => work(context, step, &past, &mut recorder).await?,
    };
    Ok((step.id.clone(), recorder.records, fate))
}

async fn work(
    context: &Context,
    step: &PlannedStep,
    past: &StepHistory,
    recorder: &mut Recorder<'_>,
) -> Result<Fate> {
    if past.open || (step.effect == Effect::Once && past.has_failed()) {
        match settle(context, step, past).await {
            Settled::Redo => {}
            Settled::Stopped => return Ok(Fate::Stopped),
            Settled::Ask { why } => return Ok(Fate::Waiting { why }),
            Settled::Done(output) => {
                let result = act(context, step, past.attempts, Some(*output), recorder).await?;
                match record(context, past.attempts, result, recorder).await? {
                    Tried::Done => return Ok(Fate::Settled),
                    Tried::Stopped => return Ok(Fate::Stopped),
                    // it was done, and its own check says that it did not help: try as after any failure
                    Tried::Failed { .. } => {}
                }
            }
        }
    }
    try_until_done(context, step, past.attempts, recorder).await
}

async fn try_until_done(
    context: &Context,
    step: &PlannedStep,
    attempts_before: u32,
    recorder: &mut Recorder<'_>,
) -> Result<Fate> {
    let tries = match step.effect {
        Effect::Once => 1,
        Effect::Read | Effect::Idempotent | Effect::Resumable => step.retry.max + 1,
    };
    let waits = RetryPolicy { attempts_max: tries, first_wait: step.retry.backoff, wait_max: BACKOFF_MAX };
    for nth in 1..=tries {
        let attempt = attempts_before + nth;
        recorder.intent(attempt).await?;
        let result = act(context, step, attempt, None, recorder).await?;
        let later = match record(context, attempt, result, recorder).await? {
            Tried::Done => return Ok(Fate::Settled),
            Tried::Stopped => return Ok(Fate::Stopped),
            Tried::Failed { later } => later,
        };
        let again = step.retry.when == RetryWhen::Any || later == Retry::Later;
        if nth == tries || !again {
            return ask_to_go_on(context, step, attempt, recorder).await;
        }
        let wait = waits.wait(nth + 1);
        if context.job.sleep("wait before the next try", wait).await.is_err() {
            return Ok(Fate::Stopped);
        }
    }
    Err(super::lost_step(&step.id))
}

enum Tried {
    Done,
    Failed { later: Retry },
    Stopped,
}

/// Writes the outcome of an act. An act that was cancelled keeps its open intent: what it did is unknown.
async fn record(
    context: &Context,
    attempt: u32,
    result: Result<StepOutput>,
    recorder: &mut Recorder<'_>,
) -> Result<Tried> {
    let (outcome, tried) = match result {
        Ok(output) => match output.findings() {
            None => (StepOutcome::Succeeded { output: output.to_value() }, Tried::Done),
            Some(error) => (
                StepOutcome::Unproven { error, output: output.to_value() },
                Tried::Failed { later: Retry::Never },
            ),
        },
        Err(_) if context.is_cancelled() => return Ok(Tried::Stopped),
        Err(error) => (
            StepOutcome::Failed {
                error: error.to_string(),
                exit_code: error.kind().exit_code(),
                hint: error.advice().map(str::to_owned),
            },
            Tried::Failed { later: error.retry() },
        ),
    };
    recorder.outcome(attempt, outcome).await?;
    Ok(tried)
}

async fn ask_to_go_on(
    context: &Context,
    step: &PlannedStep,
    attempt: u32,
    recorder: &mut Recorder<'_>,
) -> Result<Fate> {
    if step.on_fail != OnFail::Ask {
        return Ok(Fate::Settled);
    }
    let question = Question {
        step: step.id.clone(),
        ask: format!("`{}` failed. Go on without it?", step.title),
        digest: context.plan.digest.clone(),
    };
    let answer = context.host.ask(&question, &context.job).await;
    if let Ok(Some(answer)) = answer
        && answer.approved
        && !answer.by.trim().is_empty()
        && !answer.reason.trim().is_empty()
    {
        let outcome = StepOutcome::Skipped { reason: answer.reason, by: Some(answer.by) };
        recorder.outcome(attempt, outcome).await?;
    }
    Ok(Fate::Settled)
}

/// The act within its hard limit, on a worker of its own, so that a panic in it is an error and parallel steps use all
/// cores. `done` holds what is known to have happened: then only the step's own checks are made.
///
/// The outer error is the journal's, the inner one the act's.
async fn act(
    context: &Context,
    step: &PlannedStep,
    attempt: u32,
    done: Option<StepOutput>,
    recorder: &mut Recorder<'_>,
) -> Result<Result<StepOutput>> {
    let progress = Arc::new(Progress::default());
    context.host.observe(&Observation::StepStarted {
        step: step.id.clone(),
        attempt,
        progress: progress.clone(),
    });
    let limit = context.job.child(step.timeout).with_progress(progress);
    let acting = acting(context, step, attempt, &limit);
    let planned = step.clone();
    let task = context.job.workers().spawn("carry out step", async move {
        let result = perform(&planned, &acting, done).await;
        // a panic ends the task with an error of its own; what the step says is carried inside
        Ok(result)
    });
    let work = async { limit.run("carry out step", task.join()).await.and_then(|inner| inner) };
    let Some(budget) = step.budget else {
        return Ok(work.await);
    };
    tokio::pin!(work);
    if let Ok(result) = tokio::time::timeout(budget, &mut work).await {
        return Ok(result);
    }
    let text = format!("{} is over its budget of {}", step.id, humantime::format_duration(budget));
    tracing::warn!(step = %step.id, "step is over its budget");
    recorder.event(RunEvent::Note { text }).await?;
    Ok(work.await)
}

pub fn acting(context: &Context, step: &PlannedStep, attempt: u32, job: &JobContext) -> Acting {
    Acting {
        host: context.host.clone(),
        act: Act { step: step.id.clone(), attempt },
        point: step.system.as_ref().and_then(|s| context.plan.point(s)).cloned(),
        job: job.clone(),
    }
}

/// The action and then, if nothing speaks against it yet, the step's own checks.
async fn perform(
    step: &PlannedStep,
    acting: &Acting,
    done: Option<StepOutput>,
) -> std::result::Result<StepOutput, Error> {
    let mut output = match done {
        Some(output) => output,
        None => step.action.run(acting).await?,
    };
    for check in &step.verify {
        if output.findings().is_some() {
            break;
        }
        let seen = check.run(acting).await?;
        output.checks.extend(seen.checks);
        if let Some(proof) = seen.proof {
            output.proof = Some(proof);
        }
    }
    Ok(output)
}
