//! `check`: the application checks configured for a system, all of them or one by name.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step, read_system};
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::SystemName;
use crate::domain::verification::Check;
use crate::error::Result;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppCheck {
    pub system: SystemName,
    /// `None`: all of them.
    pub name: Option<String>,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let system = read_system(&mut fields, scope, problems);
    let name = fields.take("name").and_then(|a| a.text(problems));
    fields.finish(problems);
    Some(Action::Check(AppCheck { system: system?, name }))
}

#[async_trait]
impl Step for AppCheck {
    fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("ask `{}` what the application check `{name}` asks", self.system),
            None => format!("ask `{}` what its applications need from it", self.system),
        }
    }
    fn effect(&self) -> Effect {
        Effect::Read
    }
    fn timeout(&self) -> Duration {
        5 * MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        Some(&self.system)
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let which = self.name.as_deref();
        let mut checks = acting.host.check(&acting.act, &self.system, which, &acting.job).await?;
        if checks.is_empty() {
            checks.push(Check::inconclusive("application checks", EvidenceLevel::E6, "none was made"));
        }
        Ok(StepOutput::checked(checks))
    }
}
