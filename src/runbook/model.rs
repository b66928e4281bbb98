//! A runbook: a readable, executable procedure with typed inputs. Schema `lifeboat.runbook/1`.
//!
//! A runbook that could be loaded has no unknown keys, no unknown step references and no cycle. Its steps are kept as
//! they were written, because inputs are put in before a step is read: so any value of a step can be an input.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::graph;
use super::input::{Bindings, Bound, Input, InputType, samples, substitute};
use super::problem::{Problems, nearest};
use super::seconds;
use super::step::Action;
use super::yaml::{self, At, Fields, Node};
use crate::domain::id::{RunbookName, StepId};

pub const SCHEMA: &str = "lifeboat.runbook/1";

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// For real.
    Recover,
    /// In a sandbox.
    Drill,
    /// Only looked at; nothing is carried out.
    Plan,
}

/// Whether an act may be repeated, from the safest to the least safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Changes nothing.
    Read,
    /// Doing it again gives the same.
    Idempotent,
    /// A new attempt continues or replaces what a dead one left.
    Resumable,
    /// Never repeated without proof that it did not happen, or a person's word.
    Once,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// Everything independent goes on to its end, then the run waits for a person.
    Pause,
    /// What was done is undone, last first.
    Rollback,
    /// The run goes on and can at best be DEGRADED.
    Continue,
    /// A person is asked at once; without one this is `pause`.
    Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryWhen {
    /// Only when the error says that trying later can help.
    Later,
    /// Also after failures and red checks; for things that need a moment to settle.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRule {
    /// Tries after the first.
    pub max: u32,
    #[serde(with = "seconds")]
    pub backoff: Duration,
    pub when: RetryWhen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    Required,
    /// Its failure makes the run DEGRADED and stops nothing.
    Optional,
}

/// One step with its inputs put in.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSpec {
    pub id: String,
    pub line: u64,
    pub title: String,
    pub needs: Vec<String>,
    pub modes: BTreeSet<Mode>,
    pub effect: Effect,
    pub timeout: Duration,
    pub budget: Option<Duration>,
    pub retry: RetryRule,
    pub on_fail: OnFail,
    pub need: Need,
    pub verify: Vec<Action>,
    pub undo: Option<Action>,
    /// How a resume finds out whether the act took place: passing means that it did.
    pub probe: Option<Action>,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub struct Runbook {
    pub file: String,
    pub name: RunbookName,
    pub title: String,
    pub why: String,
    pub inputs: BTreeMap<String, Input>,
    steps: Vec<Node>,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Idempotent => "idempotent",
            Self::Resumable => "resumable",
            Self::Once => "once",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recover => "recover",
            Self::Drill => "drill",
            Self::Plan => "plan",
        })
    }
}

impl Runbook {
    /// Reads one file. All problems go to `problems`; a runbook with any must not be used.
    pub fn parse(file: &str, text: &str, problems: &mut Problems) -> Option<Self> {
        let node = yaml::parse(text, problems)?;
        let root = At { path: String::new(), node: &node };
        let mut fields = root.fields(problems)?;
        read_schema(&mut fields, SCHEMA, problems);
        let name = fields.require("name", problems).and_then(|a| a.parse(problems));
        let title = fields.require("title", problems).and_then(|a| a.text(problems));
        let why = fields.require("why", problems).and_then(|a| a.text(problems));
        let inputs = fields.take("inputs").map(|a| read_inputs(&a, problems));
        let steps = fields.require("steps", problems).map(|a| a.items(problems));
        fields.finish(problems);
        let runbook = Self {
            file: file.to_owned(),
            name: name?,
            title: title?,
            why: why?,
            inputs: inputs.unwrap_or_default(),
            steps: steps?.into_iter().map(|a| a.node.clone()).collect(),
        };
        runbook.instantiate(&samples(&runbook.inputs), problems);
        Some(runbook)
    }

    /// The one input of type system, when there is exactly one.
    pub fn system_input(&self) -> Option<(&str, Option<&str>)> {
        let mut found = self.inputs.iter().filter_map(|(name, input)| match &input.of {
            InputType::System { kind } => Some((name.as_str(), kind.as_deref())),
            InputType::Text | InputType::Duration | InputType::Number => None,
        });
        match (found.next(), found.next()) {
            (Some(one), None) => Some(one),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// The steps with `given` and the defaults put in, as the runbook is shown before its inputs are known.
    pub fn steps_with(&self, given: &Bindings, problems: &mut Problems) -> Vec<StepSpec> {
        let mut bindings = samples(&self.inputs);
        bindings.extend(given.clone());
        self.instantiate(&bindings, problems)
    }

    /// Given values and defaults together. Missing and unknown inputs are problems.
    pub fn bind(&self, given: &BTreeMap<String, String>, problems: &mut Problems) -> Bindings {
        for name in given.keys().filter(|n| !self.inputs.contains_key(*n)) {
            let hint = nearest(name, self.inputs.keys().map(String::as_str))
                .map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
            problems.add(None, "inputs", format!("runbook {} has no input `{name}`{hint}", self.name));
        }
        let mut bindings = Bindings::new();
        for (name, input) in &self.inputs {
            let bound = match (given.get(name), &input.default) {
                (Some(text), _) => input.of.read(text),
                (None, Some(default)) => Ok(default.clone()),
                (None, None) => Err(format!("needs a value: {}", input.of.describe())),
            };
            match bound {
                Ok(bound) => {
                    bindings.insert(name.clone(), bound);
                }
                Err(message) => problems.add(None, format!("inputs.{name}"), message),
            }
        }
        bindings
    }

    /// Puts `bindings` in and reads every step.
    pub fn instantiate(&self, bindings: &Bindings, problems: &mut Problems) -> Vec<StepSpec> {
        let system = self.system_input().and_then(|(name, _)| match bindings.get(name) {
            Some(Bound::System(system)) => Some(system.clone()),
            Some(Bound::Text(_) | Bound::Duration(_) | Bound::Number(_)) | None => None,
        });
        let mut specs = Vec::new();
        for (n, step) in self.steps.iter().enumerate() {
            let path = format!("steps[{n}]");
            let node = substitute(&At { path: path.clone(), node: step }, bindings, problems);
            let scope = super::step::Scope { system: system.as_ref() };
            specs.extend(StepSpec::parse(&At { path, node: &node }, &scope, problems));
        }
        check_references(&specs, problems);
        specs
    }
}

/// Reads `schema` and refuses any other.
pub fn read_schema(fields: &mut Fields<'_>, wanted: &str, problems: &mut Problems) {
    let Some(at) = fields.require("schema", problems) else {
        return;
    };
    if let Some(given) = at.text(problems)
        && given != wanted
    {
        at.problem(problems, format!("`{given}` is not known here; write `schema: {wanted}`"));
    }
}

fn read_inputs(at: &At<'_>, problems: &mut Problems) -> BTreeMap<String, Input> {
    let Some(mut fields) = at.fields(problems) else {
        return BTreeMap::new();
    };
    let mut inputs = BTreeMap::new();
    for (name, at) in fields.entries() {
        if let Some(input) = Input::parse(&at, problems) {
            inputs.insert(name.to_owned(), input);
        }
    }
    inputs
}

/// Every `needs` names a step, ids are unique, and there is no cycle.
fn check_references(specs: &[StepSpec], problems: &mut Problems) {
    let ids: BTreeSet<&str> = specs.iter().map(|s| s.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    for spec in specs {
        if !seen.insert(&spec.id) {
            problems.add(Some(spec.line), "steps", format!("two steps have the id `{}`", spec.id));
        }
        for need in spec.needs.iter().filter(|n| !ids.contains(n.as_str())) {
            let hint = nearest(need, ids.iter().copied())
                .map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
            problems.add(
                Some(spec.line),
                format!("steps.{}.needs", spec.id),
                format!("no step has the id `{need}`{hint}"),
            );
        }
    }
    let nodes: Vec<(String, Vec<String>)> = specs.iter().map(|s| (s.id.clone(), s.needs.clone())).collect();
    if let Err(cycle) = graph::order(&nodes) {
        problems.add(
            None,
            "steps",
            format!(
                "the steps need each other in a circle: {}; remove one of these needs",
                cycle.join(" -> ")
            ),
        );
    }
}

/// Ids of steps become parts of [`StepId`]s and must leave room for the `/undo` that a rollback adds.
pub fn read_step_id(at: &At<'_>, problems: &mut Problems) -> Option<String> {
    let text = at.text(problems)?;
    if StepId::parse(text.clone()).is_err() || text.contains('/') {
        at.problem(problems, format!("`{text}` is not a step id: use letters, digits, . _ and -"));
        return None;
    }
    Some(text)
}
