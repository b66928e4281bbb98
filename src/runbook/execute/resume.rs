//! A step whose end nobody saw. Asks the world how far it got, and decides by the effect class; never guesses.

use super::Context;
use super::attempt::acting;
use crate::error::{Error, ErrorKind, Result};
use crate::runbook::host::{POLL_EVERY, Probed, RestoreAct};
use crate::runbook::journal::StepHistory;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::plan::PlannedStep;
use crate::runbook::step::Action;
use crate::runtime::JobContext;

pub enum Settled {
    /// It happened.
    Done(Box<StepOutput>),
    /// It may be done (again).
    Redo,
    /// Only a person can say.
    Ask {
        why: String,
    },
    Stopped,
}

/// What the world says about an act, with its result where it is done.
enum Seen {
    NotStarted,
    Running,
    Done(Box<StepOutput>),
    Partial,
    CannotTell { why: String },
}

pub async fn settle(context: &Context, step: &PlannedStep, past: &StepHistory) -> Settled {
    if past.fresh_answer().is_some_and(|a| a.approved) {
        return Settled::Redo;
    }
    match step.effect {
        Effect::Read | Effect::Idempotent => return Settled::Redo,
        Effect::Resumable | Effect::Once => {}
    }
    let limit = context.job.child(step.timeout);
    let seen = loop {
        match look(context, step, past.attempts, &limit).await {
            Ok(Seen::Running) => {
                if let Err(error) = limit.sleep("wait for an earlier attempt", POLL_EVERY).await {
                    break Err(error);
                }
            }
            other => break other,
        }
    };
    if context.is_cancelled() {
        return Settled::Stopped;
    }
    let seen = seen.unwrap_or_else(|error| Seen::CannotTell { why: error.to_string() });
    decide(step, seen)
}

fn decide(step: &PlannedStep, seen: Seen) -> Settled {
    match (seen, step.effect) {
        (Seen::Done(output), _) => Settled::Done(output),
        (Seen::NotStarted, _) => Settled::Redo,
        (
            Seen::Partial | Seen::Running | Seen::CannotTell { .. },
            Effect::Read | Effect::Idempotent | Effect::Resumable,
        ) => Settled::Redo,
        (Seen::Partial, Effect::Once) => ask("it was done in part"),
        (Seen::Running, Effect::Once) => ask("an earlier attempt still goes on"),
        (Seen::CannotTell { why }, Effect::Once) => {
            ask(&format!("nobody can tell whether it was done ({why})"))
        }
    }
}

fn ask(found: &str) -> Settled {
    Settled::Ask {
        why: format!(
            "may not be repeated and {found}; look for yourself, then skip the step if it was done, \
             or approve it to have it done again"
        ),
    }
}

async fn look(context: &Context, step: &PlannedStep, attempt: u32, job: &JobContext) -> Result<Seen> {
    let acting = acting(context, step, attempt, job);
    if let Some(probe) = &step.probe {
        return match job.run("probe step", probe.run(&acting)).await {
            Ok(output) if output.findings().is_none() => Ok(Seen::Done(Box::new(output))),
            Ok(_) => Ok(Seen::NotStarted),
            Err(error) => said_no(error),
        };
    }
    let Action::Restore(restore) = &step.action else {
        return Ok(Seen::CannotTell { why: "the runbook gives no probe for it".to_owned() });
    };
    let act = RestoreAct {
        act: acting.act.clone(),
        system: restore.system.clone(),
        point: acting.point()?.clone(),
    };
    let probed = job.run("probe restore", context.host.probe_restore(&act, job)).await?;
    Ok(match probed {
        Probed::NotStarted => Seen::NotStarted,
        Probed::Running => Seen::Running,
        Probed::Partial => Seen::Partial,
        Probed::CannotTell { why } => Seen::CannotTell { why },
        Probed::Done(restored) => {
            Seen::Done(Box::new(StepOutput { restored: Some(*restored), ..StepOutput::default() }))
        }
    })
}

/// A probe that ran and said no tells that the act did not happen; one that could not run tells nothing.
fn said_no(error: Error) -> Result<Seen> {
    match error.kind() {
        ErrorKind::Failed | ErrorKind::Unproven | ErrorKind::NotFound => Ok(Seen::NotStarted),
        ErrorKind::Config
        | ErrorKind::Unreachable
        | ErrorKind::Denied
        | ErrorKind::Conflict
        | ErrorKind::Busy
        | ErrorKind::Corrupt
        | ErrorKind::Exhausted
        | ErrorKind::Unsupported
        | ErrorKind::Cancelled
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Bug => Err(error),
    }
}
