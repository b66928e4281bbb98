//! One runbook applied to one system: which steps are planned, which are left out, and why. Pure.
//!
//! A step that is left out counts as done: what needed it needs what it needed.

use std::collections::{BTreeMap, BTreeSet};

use super::fact::SystemFact;
use super::input::Bindings;
use super::model::{Mode, Need, Runbook, StepSpec};
use super::plan::{LeftOut, PlannedStep};
use super::problem::Problems;
use super::step::Action;
use crate::domain::id::StepId;

/// Where a runbook is applied.
#[derive(Clone, Copy, Debug)]
pub struct Onto<'a> {
    pub system: &'a SystemFact,
    pub mode: Mode,
    /// Lower goes first when more steps are ready than may run at once.
    pub priority: u32,
    /// `Optional` makes every step optional.
    pub need: Need,
}

#[derive(Clone, Debug, Default)]
pub struct Instance {
    pub steps: Vec<PlannedStep>,
    pub left_out: Vec<LeftOut>,
}

/// `bindings` hold every input, the system among them.
pub fn instantiate(
    runbook: &Runbook,
    bindings: &Bindings,
    onto: &Onto<'_>,
    problems: &mut Problems,
) -> Instance {
    let specs = runbook.instantiate(bindings, problems);
    let mut instance = Instance::default();
    let mut out: BTreeMap<&str, &[String]> = BTreeMap::new();
    for spec in &specs {
        if let Some(reason) = reason_to_leave_out(spec, onto) {
            out.insert(&spec.id, &spec.needs);
            instance.left_out.push(LeftOut { what: format!("{}/{}", onto.system.name, spec.id), reason });
        }
    }
    for spec in specs.iter().filter(|s| !out.contains_key(s.id.as_str())) {
        let needs = effective_needs(&spec.needs, &out);
        match planned(runbook, spec, &needs, onto) {
            Ok(step) => instance.steps.push(step),
            Err(message) => problems.add(Some(spec.line), format!("steps.{}", spec.id), message),
        }
    }
    instance
}

fn reason_to_leave_out(spec: &StepSpec, onto: &Onto<'_>) -> Option<String> {
    if !spec.modes.contains(&onto.mode) {
        return Some(format!("not part of a {}", onto.mode));
    }
    unconfigured(&spec.action, onto.system)
}

/// Why `action` cannot be done with what is configured for the system.
fn unconfigured(action: &Action, system: &SystemFact) -> Option<String> {
    match action {
        Action::Service(s) if !system.service_actions.contains(&s.action) => {
            Some(format!("no service {} is configured for {}", s.action, system.name))
        }
        Action::Check(c) => match &c.name {
            Some(name) if !system.checks.contains(name) => {
                Some(format!("no application check `{name}` is configured for {}", system.name))
            }
            None if system.checks.is_empty() => {
                Some(format!("no application check is configured for {}", system.name))
            }
            Some(_) | None => None,
        },
        Action::Restore(_)
        | Action::Verify(_)
        | Action::Service(_)
        | Action::Command(_)
        | Action::Query(_)
        | Action::Http(_)
        | Action::Wait(_)
        | Action::Gate(_)
        | Action::Notify(_)
        | Action::Backup(_) => None,
    }
}

/// Follows left-out steps to the planned ones behind them.
fn effective_needs(needs: &[String], out: &BTreeMap<&str, &[String]>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut pending: Vec<&String> = needs.iter().collect();
    while let Some(need) = pending.pop() {
        match out.get(need.as_str()) {
            Some(behind) if seen.insert(need) => pending.extend(behind.iter()),
            Some(_) => {}
            None => {
                found.insert(need.clone());
            }
        }
    }
    found
}

fn planned(
    runbook: &Runbook,
    spec: &StepSpec,
    needs: &BTreeSet<String>,
    onto: &Onto<'_>,
) -> Result<PlannedStep, String> {
    let name = &onto.system.name;
    let id = |step: &str| StepId::parse(format!("{name}/{step}")).map_err(|e| e.to_string());
    let configured = |a: &&Action| unconfigured(a, onto.system).is_none();
    Ok(PlannedStep {
        id: id(&spec.id)?,
        title: spec.title.clone(),
        system: Some(name.clone()),
        runbook: runbook.name.clone(),
        needs: needs.iter().map(|n| id(n)).collect::<Result<_, _>>()?,
        priority: onto.priority,
        effect: spec.effect,
        timeout: spec.timeout,
        budget: spec.budget,
        retry: spec.retry,
        on_fail: spec.on_fail,
        need: match onto.need {
            Need::Required => spec.need,
            Need::Optional => Need::Optional,
        },
        action: spec.action.clone(),
        verify: spec.verify.iter().filter(configured).cloned().collect(),
        undo: spec.undo.as_ref().filter(configured).cloned(),
        probe: spec.probe.clone(),
        expected: None,
    })
}
