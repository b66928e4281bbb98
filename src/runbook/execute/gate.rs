//! Gates: a person's decision, journaled. Time never answers one.

use super::Context;
use super::attempt::{Fate, Recorder};
use crate::domain::run::{RunEvent, StepOutcome};
use crate::error::{ErrorKind, Result};
use crate::runbook::host::{Answer, Question};
use crate::runbook::journal::StepHistory;
use crate::runbook::model::Mode;
use crate::runbook::output::StepOutput;
use crate::runbook::plan::PlannedStep;
use crate::runbook::step::{DrillAnswer, Gate};

pub async fn pass(
    context: &Context,
    step: &PlannedStep,
    gate: &Gate,
    past: &StepHistory,
    recorder: &mut Recorder<'_>,
) -> Result<Fate> {
    let given = past.fresh_answer().map(|a| Answer {
        approved: a.approved,
        by: a.by.clone(),
        reason: a.reason.clone(),
    });
    let attempt = if past.open {
        past.attempts
    } else {
        recorder.intent(past.attempts + 1).await?;
        past.attempts + 1
    };
    let answer = match given {
        Some(answer) => answer,
        None => match ask(context, step, gate).await {
            Some(answer) => {
                recorder
                    .event(RunEvent::Gate {
                        step: step.id.clone(),
                        approved: answer.approved,
                        by: answer.by.clone(),
                        reason: answer.reason.clone(),
                    })
                    .await?;
                answer
            }
            None if context.is_cancelled() => return Ok(Fate::Stopped),
            None => {
                let why =
                    format!("waits for a decision: {}; approve or refuse it, then resume the run", gate.ask);
                return Ok(Fate::Waiting { why });
            }
        },
    };
    recorder.outcome(attempt, outcome(&answer)).await?;
    Ok(Fate::Settled)
}

/// `None` when nobody answered: an answer without a name and a reason is none.
async fn ask(context: &Context, step: &PlannedStep, gate: &Gate) -> Option<Answer> {
    if context.plan.mode == Mode::Drill && gate.drill == DrillAnswer::Approve {
        return Some(Answer {
            approved: true,
            by: format!("runbook {}", step.runbook),
            reason: "drill: approve".to_owned(),
        });
    }
    let question =
        Question { step: step.id.clone(), ask: gate.ask.clone(), digest: context.plan.digest.clone() };
    let asked = context.job.run("ask a person", context.host.ask(&question, &context.job)).await;
    let answer = match asked {
        Ok(answer) => answer?,
        Err(error) => {
            tracing::debug!(step = %step.id, %error, "nobody could be asked");
            return None;
        }
    };
    (!answer.by.trim().is_empty() && !answer.reason.trim().is_empty()).then_some(answer)
}

fn outcome(answer: &Answer) -> StepOutcome {
    let text = format!("by {}: {}", answer.by, answer.reason);
    if answer.approved {
        StepOutcome::Succeeded { output: StepOutput::text(format!("approved {text}")).to_value() }
    } else {
        StepOutcome::Failed {
            error: format!("refused {text}"),
            exit_code: ErrorKind::Denied.exit_code(),
            hint: Some("approve the gate to go on, or close the run".to_owned()),
        }
    }
}
