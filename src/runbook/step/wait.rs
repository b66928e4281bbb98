//! `wait`: for a system to answer, for a check to pass, or for a time. Bounded by the step's timeout.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step};
use crate::domain::id::SystemName;
use crate::error::{Result, Retry};
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::seconds;
use crate::runbook::spec::{only_reading, read_nested};
use crate::runbook::yaml::At;

const EVERY_DEFAULT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    pub what: WaitFor,
    #[serde(with = "seconds")]
    pub every: Duration,
    pub of: Option<SystemName>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    Answering(SystemName),
    Passing(Box<Action>),
    Time(#[serde(with = "seconds")] Duration),
}

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let answering = fields.take("answering").and_then(|a| a.parse(problems));
    let time = fields.take("time").and_then(|a| a.duration(problems));
    let until = fields.take("until").and_then(|a| {
        let action = read_nested(&a, scope, problems)?;
        only_reading(&a, &action, problems);
        Some(action)
    });
    let every = fields.take("every").and_then(|a| a.duration(problems));
    fields.finish(problems);
    let what = match (answering, until, time) {
        (Some(system), None, None) => Some(WaitFor::Answering(system)),
        (None, Some(action), None) => Some(WaitFor::Passing(Box::new(action))),
        (None, None, Some(time)) => Some(WaitFor::Time(time)),
        _ => {
            at.problem(
                problems,
                "wait for exactly one thing: `answering: SYSTEM`, `until: {a check}` or `time: 30s`",
            );
            None
        }
    };
    Some(Action::Wait(Wait { what: what?, every: every.unwrap_or(EVERY_DEFAULT), of: scope.system.cloned() }))
}

impl Wait {
    /// `Ok(None)`: not yet. An error that will not go away by waiting ends the wait.
    async fn look(&self, acting: &Acting) -> Result<Option<StepOutput>> {
        let seen = match &self.what {
            WaitFor::Answering(system) => {
                acting.host.answering(system, &acting.job).await.map(|()| StepOutput::default())
            }
            WaitFor::Passing(action) => action.run(acting).await,
            WaitFor::Time(time) => {
                acting.job.sleep("wait", *time).await?;
                Ok(StepOutput::default())
            }
        };
        match seen {
            Ok(output) if output.findings().is_none() => Ok(Some(output)),
            Ok(_) => Ok(None),
            Err(error) if error.retry() == Retry::Later => {
                acting.job.check("wait")?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Step for Wait {
    fn describe(&self) -> String {
        match &self.what {
            WaitFor::Answering(system) => format!("wait until `{system}` answers"),
            WaitFor::Passing(action) => format!("wait until this holds: {}", action.describe()),
            WaitFor::Time(time) => format!("wait {}", humantime::format_duration(*time)),
        }
    }
    fn effect(&self) -> Effect {
        Effect::Read
    }
    fn timeout(&self) -> Duration {
        10 * MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        match &self.what {
            WaitFor::Answering(system) => Some(system),
            WaitFor::Passing(action) => action.system().or(self.of.as_ref()),
            WaitFor::Time(_) => self.of.as_ref(),
        }
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        loop {
            if let Some(output) = self.look(acting).await? {
                return Ok(output);
            }
            acting.job.progress().beat();
            acting.job.sleep("wait", self.every).await?;
        }
    }
}
