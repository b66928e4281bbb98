//! A scenario applied to the configured systems: one graph of steps, and everything that is left out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::library::Library;
use super::model::{Answer, RpoAim, Scenario, Target};
use crate::domain::id::{StepId, SystemName};
use crate::error::{Error, ErrorKind, Result};
use crate::runbook::fact::{PointFact, SystemFact};
use crate::runbook::instance::{Instance, Onto, instantiate};
use crate::runbook::model::{Mode, Need, Runbook};
use crate::runbook::plan::{Draft, LeftOut, PlannedSystem};
use crate::runbook::problem::{Problems, as_error};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    pub mode: Mode,
    /// Only these systems; empty means all that the scenario answers for.
    pub only: BTreeSet<SystemName>,
    /// For inputs of the runbooks, where a runbook has one of that name. Stronger than the scenario's `with`.
    pub inputs: BTreeMap<String, String>,
}

struct Applied<'a> {
    answer: &'a Answer,
    system: &'a SystemFact,
    instance: Instance,
}

/// Errors: `Config` when an answer names a system that is not configured or inputs are wrong; `NotFound` when the
/// scenario matches no configured system.
pub fn expand(library: &Library, scenario: &Scenario, systems: &[SystemFact], ask: &Ask) -> Result<Draft> {
    let mut problems = Problems::of(&scenario.file);
    let mut left_out = Vec::new();
    let mut applied = Vec::new();
    check_only(ask, systems)?;
    check_inputs(library, scenario, ask)?;
    for answer in &scenario.answers {
        let runbook = library.runbook(&answer.runbook)?;
        let matched = matching(answer, systems, ask, &mut left_out, &mut problems);
        for system in matched {
            let instance = apply(runbook, answer, system, ask, &mut problems);
            applied.push(Applied { answer, system, instance });
        }
    }
    let problems = problems.into_list();
    if !problems.is_empty() {
        return Err(as_error("apply the scenario", &problems));
    }
    if applied.is_empty() {
        return Err(matches_nothing(scenario, systems));
    }
    left_out.extend(uncovered(scenario, systems, &applied, ask));
    link_answers(&mut applied);
    Ok(draft(scenario, ask, applied, left_out))
}

/// Which configured systems an answer is for. Says what it does not find.
fn matching<'s>(
    answer: &Answer,
    systems: &'s [SystemFact],
    ask: &Ask,
    left_out: &mut Vec<LeftOut>,
    problems: &mut Problems,
) -> Vec<&'s SystemFact> {
    let all: Vec<&SystemFact> = systems
        .iter()
        .filter(|s| match &answer.of {
            Target::Kind(kind) => &s.kind == kind,
            Target::System(name) => &s.name == name,
        })
        .collect();
    if all.is_empty() {
        match &answer.of {
            Target::Kind(kind) => left_out.push(LeftOut {
                what: answer.of.describe(),
                reason: format!("no system of kind {kind} is configured"),
            }),
            Target::System(name) => {
                let names: Vec<&str> = systems.iter().map(|s| s.name.as_str()).collect();
                problems.add(
                    Some(answer.line),
                    "answers.for.system",
                    format!("no system is named `{name}`; configured are: {}", names.join(", ")),
                );
            }
        }
    }
    let wanted = |s: &&SystemFact| ask.only.is_empty() || ask.only.contains(&s.name);
    for other in all.iter().filter(|s| !wanted(s)) {
        left_out.push(LeftOut { what: format!("system {}", other.name), reason: "not asked for".to_owned() });
    }
    all.into_iter().filter(wanted).collect()
}

fn apply(
    runbook: &Runbook,
    answer: &Answer,
    system: &SystemFact,
    ask: &Ask,
    problems: &mut Problems,
) -> Instance {
    let mut given = answer.with.clone();
    let own = ask.inputs.iter().filter(|(name, _)| runbook.inputs.contains_key(*name));
    given.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    if let Some((input, kind)) = runbook.system_input() {
        given.insert(input.to_owned(), system.name.to_string());
        if kind.is_some_and(|k| k != system.kind) {
            problems.add(
                Some(answer.line),
                "answers.runbook",
                format!("`{}` is not for {}, a system of kind {}", runbook.name, system.name, system.kind),
            );
        }
    }
    let bindings = runbook.bind(&given, problems);
    let onto = Onto { system, mode: ask.mode, priority: answer.priority, need: answer.need };
    instantiate(runbook, &bindings, &onto, problems)
}

/// `after`: the first steps of an answer need the last required steps of the answers before it.
fn link_answers(applied: &mut [Applied<'_>]) {
    let lasts: Vec<(String, String, Vec<StepId>)> = applied
        .iter()
        .map(|a| (a.answer.id.clone(), a.system.kind.clone(), last_required(&a.instance)))
        .collect();
    for later in applied.iter_mut() {
        let own: BTreeSet<StepId> = later.instance.steps.iter().map(|s| s.id.clone()).collect();
        let before: Vec<StepId> = lasts
            .iter()
            .filter(|(id, kind, _)| later.answer.after.iter().any(|a| a == id || a == kind))
            .flat_map(|(_, _, steps)| steps.clone())
            .filter(|id| !own.contains(id))
            .collect();
        for step in later.instance.steps.iter_mut().filter(|s| s.needs.is_empty()) {
            step.needs.extend(before.iter().cloned());
        }
    }
}

/// Required steps that no other required step of the instance needs.
fn last_required(instance: &Instance) -> Vec<StepId> {
    let required: Vec<_> = instance.steps.iter().filter(|s| s.need == Need::Required).collect();
    let needed: BTreeSet<&StepId> = required.iter().flat_map(|s| &s.needs).collect();
    required.iter().filter(|s| !needed.contains(&s.id)).map(|s| s.id.clone()).collect()
}

fn draft(scenario: &Scenario, ask: &Ask, applied: Vec<Applied<'_>>, mut left_out: Vec<LeftOut>) -> Draft {
    let mut planned: BTreeMap<&SystemName, PlannedSystem> = BTreeMap::new();
    let mut order: Vec<&SystemName> = Vec::new();
    let mut steps = Vec::new();
    for a in applied {
        if !planned.contains_key(&a.system.name) {
            order.push(&a.system.name);
        }
        let system = planned
            .entry(&a.system.name)
            .or_insert_with(|| planned_system(scenario, a.system, a.answer.need));
        // required by one answer is required
        if a.answer.need == Need::Required {
            system.need = Need::Required;
        }
        steps.extend(a.instance.steps);
        left_out.extend(a.instance.left_out);
    }
    let systems = order.into_iter().filter_map(|name| planned.remove(name)).collect();
    Draft {
        scenario: Some(scenario.name.clone()),
        title: scenario.title.clone(),
        mode: ask.mode,
        recovery_line: scenario.recovery_line,
        level: scenario.objectives.level,
        parallel: scenario.parallel,
        inputs: ask.inputs.clone(),
        systems,
        steps,
        left_out,
    }
}

fn planned_system(scenario: &Scenario, system: &SystemFact, need: Need) -> PlannedSystem {
    let aims = &scenario.objectives;
    PlannedSystem {
        name: system.name.clone(),
        kind: system.kind.clone(),
        role: system.role,
        need,
        rto: aims.rto.unwrap_or(system.objectives.rto),
        rpo: match aims.rpo {
            RpoAim::PerSystem => system.objectives.rpo,
            RpoAim::Any => None,
            RpoAim::Within(time) => Some(time),
        },
        level: aims.level,
        found: PointFact::default(),
    }
}

/// Configured systems of the scenario's kinds that no answer covers: never silent.
fn uncovered(
    scenario: &Scenario,
    systems: &[SystemFact],
    applied: &[Applied<'_>],
    ask: &Ask,
) -> Vec<LeftOut> {
    let covered: BTreeSet<&SystemName> = applied.iter().map(|a| &a.system.name).collect();
    systems
        .iter()
        .filter(|s| !covered.contains(&s.name) && (ask.only.is_empty() || ask.only.contains(&s.name)))
        .map(|s| LeftOut {
            what: format!("system {} ({})", s.name, s.kind),
            reason: format!("the scenario {} has no answer for it", scenario.name),
        })
        .collect()
}

fn check_only(ask: &Ask, systems: &[SystemFact]) -> Result<()> {
    let unknown = ask.only.iter().find(|n| !systems.iter().any(|s| &s.name == *n));
    match unknown {
        None => Ok(()),
        Some(name) => {
            let names: Vec<&str> = systems.iter().map(|s| s.name.as_str()).collect();
            Err(Error::new(ErrorKind::NotFound, "find system")
                .with("system", name)
                .hint(format!("configured are: {}", names.join(", "))))
        }
    }
}

/// An input that no runbook of the scenario has would be ignored in silence.
fn check_inputs(library: &Library, scenario: &Scenario, ask: &Ask) -> Result<()> {
    let known: BTreeSet<&str> = scenario
        .answers
        .iter()
        .filter_map(|a| library.runbooks.get(&a.runbook))
        .flat_map(|r| r.inputs.keys().map(String::as_str))
        .collect();
    match ask.inputs.keys().find(|n| !known.contains(n.as_str())) {
        None => Ok(()),
        Some(name) => {
            let names: Vec<&str> = known.into_iter().collect();
            Err(Error::new(ErrorKind::Config, "use input")
                .with("input", name)
                .hint(format!("inputs of the scenario's runbooks: {}", names.join(", "))))
        }
    }
}

fn matches_nothing(scenario: &Scenario, systems: &[SystemFact]) -> Error {
    let wanted: Vec<String> = scenario.answers.iter().map(|a| a.of.describe()).collect();
    let have: Vec<String> = systems.iter().map(|s| format!("{} ({})", s.name, s.kind)).collect();
    Error::new(ErrorKind::NotFound, "apply the scenario")
        .with("scenario", &scenario.name)
        .why(format!("it answers for {}, and none of these is configured or asked for", wanted.join(", ")))
        .hint(if have.is_empty() {
            "add systems to the config".to_owned()
        } else {
            format!("configured are: {}", have.join(", "))
        })
}
