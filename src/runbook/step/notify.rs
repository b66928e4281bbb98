//! `notify`: tells people.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step};
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::runbook::host::{Notice, Severity};
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    pub text: String,
    pub severity: Severity,
    pub system: Option<SystemName>,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let text = fields.require("text", problems).and_then(|a| a.text(problems));
    let severities =
        [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];
    let severity = fields.take("severity").and_then(|a| a.choice(&severities, problems));
    fields.finish(problems);
    Some(Action::Notify(Notify {
        text: text?,
        severity: severity.unwrap_or(Severity::Info),
        system: scope.system.cloned(),
    }))
}

#[async_trait]
impl Step for Notify {
    fn describe(&self) -> String {
        format!("tell people: \"{}\"", self.text)
    }
    /// Hearing it twice after a crash is better than not hearing it.
    fn effect(&self) -> Effect {
        Effect::Idempotent
    }
    fn timeout(&self) -> Duration {
        2 * MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        self.system.as_ref()
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let notice = Notice { act: acting.act.clone(), text: self.text.clone(), severity: self.severity };
        acting.host.notify(&notice, &acting.job).await?;
        Ok(StepOutput::default())
    }
}
