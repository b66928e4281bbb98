//! `verify`: compares what was restored with what was captured, and reads the watermark.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, HOUR, Scope, Step, read_system};
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    pub system: SystemName,
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let system = read_system(&mut fields, scope, problems);
    fields.finish(problems);
    Some(Action::Verify(Verify { system: system? }))
}

#[async_trait]
impl Step for Verify {
    fn describe(&self) -> String {
        format!("verify the content of `{}` against its backup", self.system)
    }
    fn effect(&self) -> Effect {
        Effect::Read
    }
    fn timeout(&self) -> Duration {
        4 * HOUR
    }
    fn system(&self) -> Option<&SystemName> {
        Some(&self.system)
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let point = acting.point()?;
        let proof = acting.host.verify(&acting.act, &self.system, point, &acting.job).await?;
        Ok(StepOutput { proof: Some(proof), ..StepOutput::default() })
    }
}
