//! `backup`: protects the recovered system again.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, HOUR, Scope, Step, read_system};
use crate::domain::backup::BackupKind;
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub system: SystemName,
    pub kind: BackupKind,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let system = read_system(&mut fields, scope, problems);
    let kinds = [
        ("full", BackupKind::Full),
        ("incremental", BackupKind::Incremental),
        ("differential", BackupKind::Differential),
    ];
    let kind = fields.take("kind").and_then(|a| a.choice(&kinds, problems));
    fields.finish(problems);
    Some(Action::Backup(Backup { system: system?, kind: kind.unwrap_or(BackupKind::Full) }))
}

#[async_trait]
impl Step for Backup {
    fn describe(&self) -> String {
        format!("take a {} backup of `{}`", self.kind, self.system)
    }
    /// A second backup costs time and space, nothing else.
    fn effect(&self) -> Effect {
        Effect::Idempotent
    }
    fn timeout(&self) -> Duration {
        12 * HOUR
    }
    fn system(&self) -> Option<&SystemName> {
        Some(&self.system)
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let backup = acting.host.backup(&acting.act, &self.system, self.kind, &acting.job).await?;
        Ok(StepOutput { backup: Some(backup), ..StepOutput::default() })
    }
}
