//! What a step can do. One file per action: how it is read, described and carried out.
//!
//! Adding one: a file here, a variant of [`Action`], one line in [`ACTIONS`] and one in [`Action::step`].

mod backup;
mod check;
mod command;
mod gate;
mod http;
mod notify;
mod query;
mod restore;
mod service;
mod verify;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use backup::Backup;
pub use check::AppCheck;
pub use command::Command;
pub use gate::{DrillAnswer, Gate};
pub use http::Http;
pub use notify::Notify;
pub use query::{Query, QueryLanguage};
pub use restore::Restore;
pub use service::Service;
pub use verify::Verify;
pub use wait::Wait;

use super::fact::Point;
use super::host::{Act, Host};
use super::model::Effect;
use super::output::StepOutput;
use super::problem::Problems;
use super::yaml::{At, Fields};
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Restore(Restore),
    Verify(Verify),
    Service(Service),
    Command(Command),
    Check(AppCheck),
    Query(Query),
    Http(Http),
    Wait(Wait),
    Gate(Gate),
    Notify(Notify),
    Backup(Backup),
}

type Read = fn(&At<'_>, &Scope<'_>, &mut Problems) -> Option<Action>;

/// Every action key of a step. One line each.
const ACTIONS: [(&str, Read); 12] = [
    ("restore", restore::read),
    ("verify", verify::read),
    ("service", service::read),
    ("command", command::read),
    ("check", check::read),
    ("sql", query::read_sql),
    ("redis", query::read_redis),
    ("http", http::read),
    ("wait", wait::read),
    ("gate", gate::read),
    ("notify", notify::read),
    ("backup", backup::read),
];

/// What an action is read against.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Stands in where an action names no system: the value of the runbook's one system input.
    pub system: Option<&'a SystemName>,
}

/// What an action is carried out with.
#[derive(Clone, Debug)]
pub struct Acting {
    pub host: Arc<dyn Host>,
    pub act: Act,
    /// The planned recovery point of the step's system.
    pub point: Option<Point>,
    pub job: JobContext,
}

impl Acting {
    pub fn point(&self) -> Result<&Point> {
        self.point.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find the planned recovery point")
                .with("step", &self.act.step)
                .hint("make a new plan: this one holds no backup for the system")
        })
    }
}

/// One action. `run` gives what was seen; red checks are part of that, not an error.
#[async_trait]
pub trait Step: Send + Sync {
    /// One line, as an instruction to a person.
    fn describe(&self) -> String;
    /// Unless the runbook says otherwise.
    fn effect(&self) -> Effect;
    /// Hard limit unless the runbook says otherwise.
    fn timeout(&self) -> Duration;
    /// The system it works on.
    fn system(&self) -> Option<&SystemName>;
    async fn run(&self, acting: &Acting) -> Result<StepOutput>;
}

impl Action {
    fn step(&self) -> &dyn Step {
        match self {
            Self::Restore(s) => s,
            Self::Verify(s) => s,
            Self::Service(s) => s,
            Self::Command(s) => s,
            Self::Check(s) => s,
            Self::Query(s) => s,
            Self::Http(s) => s,
            Self::Wait(s) => s,
            Self::Gate(s) => s,
            Self::Notify(s) => s,
            Self::Backup(s) => s,
        }
    }

    pub fn describe(&self) -> String {
        self.step().describe()
    }

    pub fn effect(&self) -> Effect {
        self.step().effect()
    }

    pub fn timeout(&self) -> Duration {
        self.step().timeout()
    }

    pub fn system(&self) -> Option<&SystemName> {
        self.step().system()
    }

    pub async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        self.step().run(acting).await
    }

    /// Whether its result says something about the recovered copy.
    pub fn is_evidence(&self) -> bool {
        match self {
            Self::Verify(_) | Self::Check(_) | Self::Query(_) | Self::Http(_) => true,
            Self::Restore(_)
            | Self::Service(_)
            | Self::Command(_)
            | Self::Wait(_)
            | Self::Gate(_)
            | Self::Notify(_)
            | Self::Backup(_) => false,
        }
    }

    /// Changes the recovered system itself, so that something must look at it afterwards.
    pub fn changes_the_system(&self) -> bool {
        match self {
            Self::Restore(_) | Self::Service(_) => true,
            Self::Command(_) | Self::Http(_) => self.effect() != Effect::Read,
            Self::Verify(_)
            | Self::Check(_)
            | Self::Query(_)
            | Self::Wait(_)
            | Self::Gate(_)
            | Self::Notify(_)
            | Self::Backup(_) => false,
        }
    }
}

/// Takes exactly one action out of a step's keys.
pub fn read_action(fields: &mut Fields<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let names = || ACTIONS.map(|(n, _)| n).join(", ");
    let offered: Vec<&(&'static str, Read)> = ACTIONS.iter().filter(|(n, _)| fields.offers(n)).collect();
    let mut actions = Vec::new();
    for (name, read) in &offered {
        if let Some(at) = fields.take(name) {
            actions.push(read(&at, scope, problems));
        }
    }
    for (name, _) in &ACTIONS {
        fields.know(name);
    }
    let line = Some(fields.line());
    match offered.as_slice() {
        [_] => actions.into_iter().next().flatten(),
        [] => {
            problems.add(
                line,
                fields.path_of("action"),
                format!("says nothing to do; give one of: {}", names()),
            );
            None
        }
        [_, ..] => {
            let given: Vec<&str> = offered.iter().map(|(n, _)| *n).collect();
            let message = format!("a step does one thing, this one does {}; split it", given.join(" and "));
            problems.add(line, fields.path_of("action"), message);
            None
        }
    }
}

/// `system:` where given, the runbook's own otherwise.
fn read_system(fields: &mut Fields<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<SystemName> {
    match (fields.take("system"), scope.system) {
        (Some(at), _) => at.parse(problems),
        (None, Some(system)) => Some(system.clone()),
        (None, None) => {
            problems.add(
                Some(fields.line()),
                fields.path_of("system"),
                "is missing, and the runbook has not exactly one input of type system to take its place",
            );
            None
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
