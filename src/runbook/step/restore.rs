//! `restore`: brings the planned recovery point of a system back.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, HOUR, Scope, Step, read_system};
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::runbook::host::RestoreAct;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    pub system: SystemName,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let system = read_system(&mut fields, scope, problems);
    fields.finish(problems);
    Some(Action::Restore(Restore { system: system? }))
}

#[async_trait]
impl Step for Restore {
    fn describe(&self) -> String {
        format!("restore `{}` from its chosen backup", self.system)
    }
    fn effect(&self) -> Effect {
        Effect::Resumable
    }
    fn timeout(&self) -> Duration {
        12 * HOUR
    }
    fn system(&self) -> Option<&SystemName> {
        Some(&self.system)
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let act = RestoreAct {
            act: acting.act.clone(),
            system: self.system.clone(),
            point: acting.point()?.clone(),
        };
        let restored = acting.host.restore(&act, &acting.job).await?;
        Ok(StepOutput { restored: Some(restored), ..StepOutput::default() })
    }
}
