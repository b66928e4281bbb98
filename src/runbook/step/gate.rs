//! `gate`: asks a person. Never answered by time; the executor and the journal carry the answer.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step};
use crate::domain::id::SystemName;
use crate::error::{Error, Result};
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub ask: String,
    pub drill: DrillAnswer,
    pub system: Option<SystemName>,
}

/// What happens at the gate in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillAnswer {
    /// A person is asked, as in a recovery.
    Ask,
    /// The runbook itself approves, and that is recorded.
    Approve,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let ask = fields.require("ask", problems).and_then(|a| a.text(problems));
    let answers = [("ask", DrillAnswer::Ask), ("approve", DrillAnswer::Approve)];
    let drill = fields.take("drill").and_then(|a| a.choice(&answers, problems));
    fields.finish(problems);
    Some(Action::Gate(Gate {
        ask: ask?,
        drill: drill.unwrap_or(DrillAnswer::Ask),
        system: scope.system.cloned(),
    }))
}

#[async_trait]
impl Step for Gate {
    fn describe(&self) -> String {
        format!("decide: {}", self.ask)
    }
    fn effect(&self) -> Effect {
        Effect::Read
    }
    /// Not used: a gate waits for as long as it takes.
    fn timeout(&self) -> Duration {
        MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        self.system.as_ref()
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        Err(Error::bug("carry out a gate as if it were an act").with("step", &acting.act.step))
    }
}
