//! Undoing, last first, journaled like everything else. Only what is known to have succeeded is undone.

use super::attempt::{self, Fate};
use super::report::status_of;
use super::{End, Executor, StepStatus, Waiting};
use crate::error::Result;
use crate::runbook::model::{Need, OnFail};
use crate::runbook::plan::PlannedStep;

impl Executor {
    pub(super) async fn go_back(&mut self) -> Result<End> {
        let mut done: Vec<PlannedStep> = self.context.plan.steps.clone();
        done.retain(|s| s.undo.is_some() && status_of(s, &self.history) == StepStatus::Succeeded);
        // by the journal's order, not by its times: a clock may have been set back between two processes
        done.sort_by_key(|s| std::cmp::Reverse(self.history.step(&s.id).last));
        for step in &done {
            if self.context.is_cancelled() {
                return Ok(End::Cancelled);
            }
            let Some(undo) = undo_of(step)? else { continue };
            let past = self.history.step(&undo.id);
            let (_, records, fate) = attempt::carry_out(&self.context, &undo, past).await?;
            self.history.apply(&records);
            let why = match fate {
                Fate::Stopped => return Ok(End::Cancelled),
                Fate::Waiting { why } => why,
                Fate::Settled if self.history.step(&undo.id).has_failed() => format!(
                    "failed: {}; find the cause and resume the run to go on undoing",
                    self.history.step(&undo.id).failure.unwrap_or_default()
                ),
                Fate::Settled => continue,
            };
            let step = undo.id;
            return Ok(End::Waiting(vec![Waiting { step, why }]));
        }
        Ok(End::RolledBack)
    }
}

/// The undo of a step as a step of its own.
fn undo_of(step: &PlannedStep) -> Result<Option<PlannedStep>> {
    let Some(action) = &step.undo else {
        return Ok(None);
    };
    Ok(Some(PlannedStep {
        id: step.undo_id()?,
        title: format!("undo: {}", step.title),
        effect: action.effect(),
        timeout: action.timeout(),
        budget: None,
        on_fail: OnFail::Pause,
        need: Need::Required,
        action: action.clone(),
        verify: Vec::new(),
        undo: None,
        probe: None,
        expected: None,
        ..step.clone()
    }))
}
