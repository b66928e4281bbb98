//! `command`: runs a program of the operator's own. A list of arguments, never a shell line.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step};
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::runbook::host::CommandAct;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The system it belongs to, for reports.
    pub system: Option<SystemName>,
}

/// Either the list itself, or `{argv: [..], env: {..}}`.
pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut env = BTreeMap::new();
    let argv = if matches!(at.node.value, crate::runbook::yaml::Value::List(_)) {
        at.texts(problems)
    } else {
        let mut fields = at.fields(problems)?;
        let argv = fields.require("argv", problems).map(|a| a.texts(problems));
        if let Some(mut given) = fields.take("env").and_then(|a| a.fields(problems)) {
            for (name, value) in given.entries() {
                env.extend(value.text(problems).map(|v| (name.to_owned(), v)));
            }
        }
        fields.finish(problems);
        argv?
    };
    if argv.first().is_none_or(String::is_empty) {
        at.problem(problems, "names no program; write `command: [program, argument]`");
        return None;
    }
    Some(Action::Command(Command { argv, env, system: scope.system.cloned() }))
}

#[async_trait]
impl Step for Command {
    fn describe(&self) -> String {
        format!("run `{}`", self.argv.join(" "))
    }
    /// Nothing is known about it: unless its author says otherwise it must not happen twice.
    fn effect(&self) -> Effect {
        Effect::Once
    }
    fn timeout(&self) -> Duration {
        10 * MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        self.system.as_ref()
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let act = CommandAct { act: acting.act.clone(), argv: self.argv.clone(), env: self.env.clone() };
        acting.host.command(&act, &acting.job).await.map(StepOutput::text)
    }
}
