//! The resolved plan of a run: a value that can be shown, stored, approved and executed. Making one changes nothing.
//!
//! The digest covers everything that decides what will happen: mode, systems with their chosen backups, and steps.
//! Forecasts and free space are not in it, so that looking again a minute later gives the same digest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fact::{Point, PointFact};
use super::graph;
use super::host::Host;
use super::model::{Effect, Mode, Need, OnFail, RetryRule};
use super::seconds;
use super::step::Action;
use crate::domain::Timestamp;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{BackupId, RunbookName, ScenarioName, StepId, SystemName};
use crate::domain::objective::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

pub const SCHEMA: &str = "lifeboat.plan/1";
/// Steps that may run at once unless the scenario says otherwise.
pub const PARALLEL_DEFAULT: u32 = 8;

/// Which points of several systems belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryLine {
    /// The newest of each; the skew is reported.
    LatestEach,
    /// Nothing newer than the newest instant that every system can reach.
    CommonTime,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub id: StepId,
    pub title: String,
    pub system: Option<SystemName>,
    pub runbook: RunbookName,
    pub needs: Vec<StepId>,
    pub priority: u32,
    pub effect: Effect,
    #[serde(with = "seconds")]
    pub timeout: Duration,
    #[serde(with = "seconds::maybe")]
    pub budget: Option<Duration>,
    pub retry: RetryRule,
    pub on_fail: OnFail,
    pub need: Need,
    pub action: Action,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Action>,
    /// Forecast; `None` where nothing was measured yet.
    #[serde(with = "seconds::maybe")]
    pub expected: Option<Duration>,
}

impl PlannedStep {
    /// The step of a rollback that takes this one back.
    pub fn undo_id(&self) -> Result<StepId> {
        StepId::parse(format!("{}/undo", self.id)).map_err(|e| Error::bug("name undo step").because(e))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedSystem {
    pub name: SystemName,
    pub kind: String,
    pub role: Role,
    pub need: Need,
    #[serde(with = "seconds")]
    pub rto: Duration,
    /// `None`: rebuildable, any loss is accepted and still reported.
    #[serde(with = "seconds::maybe")]
    pub rpo: Option<Duration>,
    /// Level that this run must reach.
    pub level: EvidenceLevel,
    #[serde(flatten)]
    pub found: PointFact,
}

/// Something that will not be done, and why. Never silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub what: String,
    pub reason: String,
}

/// What shall be done, before the world was asked which backups there are.
#[derive(Clone, Debug)]
pub struct Draft {
    pub scenario: Option<ScenarioName>,
    pub title: String,
    pub mode: Mode,
    pub recovery_line: RecoveryLine,
    pub level: EvidenceLevel,
    pub parallel: u32,
    pub inputs: BTreeMap<String, String>,
    pub systems: Vec<PlannedSystem>,
    pub steps: Vec<PlannedStep>,
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: String,
    pub scenario: Option<ScenarioName>,
    pub title: String,
    pub mode: Mode,
    pub recovery_line: RecoveryLine,
    /// The instant that `common_time` chose.
    pub recover_to: Option<Timestamp>,
    pub level: EvidenceLevel,
    pub parallel: u32,
    pub inputs: BTreeMap<String, String>,
    pub systems: Vec<PlannedSystem>,
    /// In an order in which every step comes after what it needs.
    pub steps: Vec<PlannedStep>,
    pub left_out: Vec<LeftOut>,
    /// What makes the run impossible now.
    pub missing: Vec<String>,
    /// What could not be found out.
    pub unknown: Vec<String>,
    pub made_at: Timestamp,
    pub digest: String,
}

impl Plan {
    /// Asks the host which point each system goes to, and orders the steps. Changes nothing.
    ///
    /// Errors: a cycle among the steps (`Config`), or a host that cannot be asked.
    pub async fn resolve(draft: Draft, host: &dyn Host, job: &JobContext) -> Result<Self> {
        let mut systems = draft.systems;
        for system in &mut systems {
            system.found = host.resolve(&system.name, None, job).await?;
        }
        let recover_to = match draft.recovery_line {
            RecoveryLine::LatestEach => None,
            RecoveryLine::CommonTime => common_time(&systems),
        };
        if let Some(until) = recover_to {
            for system in systems.iter_mut().filter(|s| s.held_until() > Some(until)) {
                system.found = host.resolve(&system.name, Some(until), job).await?;
            }
        }
        let mut steps = in_order(draft.steps)?;
        for step in &mut steps {
            step.expected = forecast(step, &systems);
        }
        let mut plan = Self {
            schema: SCHEMA.to_owned(),
            scenario: draft.scenario,
            title: draft.title,
            mode: draft.mode,
            recovery_line: draft.recovery_line,
            recover_to,
            level: draft.level,
            parallel: draft.parallel.max(1),
            inputs: draft.inputs,
            missing: gather(&systems, |f| &f.missing),
            unknown: gather(&systems, |f| &f.unknown),
            systems,
            steps,
            left_out: draft.left_out,
            made_at: job.now(),
            digest: String::new(),
        };
        plan.note_gaps();
        plan.digest = plan.compute_digest()?;
        Ok(plan)
    }

    /// Whether it could be carried out now, as far as is known.
    pub fn could_run(&self) -> bool {
        self.missing.is_empty() && !self.steps.is_empty()
    }

    pub fn step(&self, id: &StepId) -> Option<&PlannedStep> {
        self.steps.iter().find(|s| &s.id == id)
    }

    pub fn point(&self, system: &SystemName) -> Option<&Point> {
        let system = self.systems.iter().find(|s| &s.name == system)?;
        system.found.point.as_ref()
    }

    /// Forecast of the longest way through the steps; `None` when a required restore has no forecast.
    pub fn expected(&self) -> Option<Duration> {
        let mut ends: BTreeMap<&StepId, Duration> = BTreeMap::new();
        for step in &self.steps {
            let begins = step.needs.iter().filter_map(|n| ends.get(n)).max();
            let takes = match (step.expected, &step.action, step.need) {
                (Some(time), _, _) => time,
                (None, Action::Restore(_), Need::Required) => return None,
                (None, _, _) => Duration::ZERO,
            };
            ends.insert(&step.id, begins.copied().unwrap_or_default() + takes);
        }
        ends.into_values().max()
    }

    /// Refuses a plan whose content is no longer what its digest says.
    pub fn check_digest(&self) -> Result<()> {
        let now = self.compute_digest()?;
        if now == self.digest {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "use plan")
            .with("digest", &self.digest)
            .why("its content does not belong to its digest")
            .hint("make a new plan and approve that"))
    }

    fn note_gaps(&mut self) {
        let pointless = self.systems.iter().filter(|s| s.found.point.is_none() && s.found.missing.is_empty());
        let gaps: Vec<String> = pointless.map(|s| format!("{}: no usable backup", s.name)).collect();
        self.missing.extend(gaps);
        let no_forecast = self.systems.iter().filter(|s| s.found.expected.is_none());
        let gaps: Vec<String> = no_forecast
            .map(|s| format!("{}: how long the restore takes (nothing was measured yet)", s.name))
            .collect();
        self.unknown.extend(gaps);
    }

    fn compute_digest(&self) -> Result<String> {
        let steps: Vec<PlannedStep> =
            self.steps.iter().map(|s| PlannedStep { expected: None, ..s.clone() }).collect();
        let digested = Digested {
            schema: &self.schema,
            scenario: self.scenario.as_ref(),
            mode: self.mode,
            level: self.level,
            parallel: self.parallel,
            inputs: &self.inputs,
            points: self.systems.iter().map(chosen).collect(),
            steps,
        };
        let value =
            serde_json::to_value(digested).map_err(|e| Error::bug("write plan as JSON").because(e))?;
        Ok(hex::encode(Sha256::digest(canonical(&value).as_bytes())))
    }
}

impl PlannedSystem {
    fn held_until(&self) -> Option<Timestamp> {
        self.found.point.as_ref().map(Point::holds_until)
    }
}

#[derive(Serialize)]
struct Digested<'a> {
    schema: &'a str,
    scenario: Option<&'a ScenarioName>,
    mode: Mode,
    level: EvidenceLevel,
    parallel: u32,
    inputs: &'a BTreeMap<String, String>,
    points: Vec<Chosen<'a>>,
    steps: Vec<PlannedStep>,
}

#[derive(Serialize)]
struct Chosen<'a> {
    system: &'a SystemName,
    kind: &'a str,
    need: Need,
    chain: Option<&'a Vec<BackupId>>,
}

fn chosen(system: &PlannedSystem) -> Chosen<'_> {
    Chosen {
        system: &system.name,
        kind: &system.kind,
        need: system.need,
        chain: system.found.point.as_ref().map(|p| &p.chain),
    }
}

/// The newest instant that every required system can reach.
fn common_time(systems: &[PlannedSystem]) -> Option<Timestamp> {
    systems.iter().filter_map(PlannedSystem::held_until).min()
}

fn gather(systems: &[PlannedSystem], of: impl Fn(&PointFact) -> &Vec<String>) -> Vec<String> {
    let lines =
        |s: &PlannedSystem| of(&s.found).iter().map(|l| format!("{}: {l}", s.name)).collect::<Vec<_>>();
    systems.iter().flat_map(lines).collect()
}

fn forecast(step: &PlannedStep, systems: &[PlannedSystem]) -> Option<Duration> {
    let Action::Restore(restore) = &step.action else {
        return None;
    };
    systems.iter().find(|s| s.name == restore.system)?.found.expected
}

/// Checks that ids are unique and needs known, and sorts; among free steps the lower priority number goes first.
fn in_order(mut steps: Vec<PlannedStep>) -> Result<Vec<PlannedStep>> {
    steps.sort_by_key(|s| s.priority);
    let mut ids = BTreeSet::new();
    if let Some(twice) = steps.iter().find(|s| !ids.insert(s.id.clone())) {
        return Err(Error::new(ErrorKind::Config, "order the steps")
            .with("step", &twice.id)
            .why("two steps have this id")
            .hint("answer every system with one runbook only"));
    }
    let nodes: Vec<(String, Vec<String>)> =
        steps.iter().map(|s| (s.id.to_string(), s.needs.iter().map(ToString::to_string).collect())).collect();
    let order = graph::order(&nodes).map_err(|cycle| {
        Error::new(ErrorKind::Config, "order the steps")
            .why(format!("they need each other in a circle: {}", cycle.join(" -> ")))
            .hint("remove one of these needs from the scenario or the runbook")
    })?;
    Ok(order.into_iter().filter_map(|n| steps.get(n).cloned()).collect())
}

/// JSON with sorted keys and no space: the same bytes for the same content, whatever the order of insertion.
fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let inner: Vec<String> = sorted
                .into_iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(list) => {
            let inner: Vec<String> = list.iter().map(canonical).collect();
            format!("[{}]", inner.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}
