//! `service`: starts or stops a system's service with the action configured for it.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step, read_system};
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::runbook::fact::ServiceAction;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub system: SystemName,
    pub action: ServiceAction,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let system = read_system(&mut fields, scope, problems);
    let actions =
        [("start", ServiceAction::Start), ("stop", ServiceAction::Stop), ("status", ServiceAction::Status)];
    let action = fields.require("action", problems).and_then(|a| a.choice(&actions, problems));
    fields.finish(problems);
    Some(Action::Service(Service { system: system?, action: action? }))
}

#[async_trait]
impl Step for Service {
    fn describe(&self) -> String {
        match self.action {
            ServiceAction::Start => format!("start the service of `{}`", self.system),
            ServiceAction::Stop => format!("stop the service of `{}`", self.system),
            ServiceAction::Status => format!("see that the service of `{}` runs", self.system),
        }
    }
    fn effect(&self) -> Effect {
        match self.action {
            ServiceAction::Start | ServiceAction::Stop => Effect::Idempotent,
            ServiceAction::Status => Effect::Read,
        }
    }
    fn timeout(&self) -> Duration {
        5 * MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        Some(&self.system)
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        acting.host.service(&acting.act, &self.system, self.action, &acting.job).await?;
        Ok(StepOutput::default())
    }
}
