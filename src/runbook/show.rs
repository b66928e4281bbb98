//! A runbook as a page that a person can follow by hand, without lifeboat carrying it out.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::graph;
use super::input::{Bindings, Bound, InputType};
use super::model::{Effect, Mode, Need, OnFail, Runbook, StepSpec};
use super::problem::Problems;
use super::render::span;

/// Markdown-like text. `given` puts real names in; an input without a value is shown by its name.
pub fn runbook_text(runbook: &Runbook, given: &Bindings) -> String {
    let mut problems = Problems::of(&runbook.file);
    let specs = runbook.steps_with(given, &mut problems);
    let mut text = String::new();
    // writing to a String does not fail
    if write_page(&mut text, runbook, given, &specs).is_err() {
        text.push_str("(the runbook could not be written out)\n");
    }
    text
}

fn write_page(to: &mut String, runbook: &Runbook, given: &Bindings, specs: &[StepSpec]) -> std::fmt::Result {
    writeln!(to, "# {}\n", runbook.title)?;
    writeln!(to, "Runbook `{}`, from {}\n", runbook.name, runbook.file)?;
    writeln!(to, "{}\n", runbook.why.trim())?;
    if !runbook.inputs.is_empty() {
        writeln!(to, "## Before you begin\n")?;
        for (name, input) in &runbook.inputs {
            let value = shown_value(given.get(name), input.default.as_ref(), &input.of);
            let why = input.why.as_ref().map_or_else(String::new, |w| format!(" {w}"));
            writeln!(to, "- `{name}`: {value}.{why}")?;
        }
        writeln!(to)?;
    }
    writeln!(to, "## Steps\n")?;
    let nodes: Vec<(String, Vec<String>)> = specs.iter().map(|s| (s.id.clone(), s.needs.clone())).collect();
    let order = graph::order(&nodes).unwrap_or_else(|_| (0..specs.len()).collect());
    let numbers: BTreeMap<&str, usize> =
        order.iter().enumerate().map(|(place, &n)| (specs[n].id.as_str(), place + 1)).collect();
    for (place, &n) in order.iter().enumerate() {
        write_step(to, place + 1, &specs[n], &numbers)?;
    }
    writeln!(
        to,
        "If a step fails, stop and find out why before going on: what was already restored stays where it is."
    )
}

fn shown_value(given: Option<&Bound>, default: Option<&Bound>, of: &InputType) -> String {
    match (given, default) {
        (Some(value), _) => value.to_string(),
        (None, Some(value)) => format!("{value} unless you choose otherwise ({})", of.describe()),
        (None, None) => format!("{}, to be chosen", of.describe()),
    }
}

fn write_step(
    to: &mut String,
    number: usize,
    spec: &StepSpec,
    numbers: &BTreeMap<&str, usize>,
) -> std::fmt::Result {
    writeln!(to, "### {number}. {}\n", spec.title)?;
    let action = spec.action.describe();
    if action != spec.title {
        writeln!(to, "- Do: {action}.")?;
    }
    let after: Vec<String> =
        spec.needs.iter().filter_map(|n| numbers.get(n.as_str())).map(|n| format!("step {n}")).collect();
    if !after.is_empty() {
        writeln!(to, "- Only after {}.", after.join(" and "))?;
    }
    if let Some(only) = only_in(spec) {
        writeln!(to, "- Only in a {only}.")?;
    }
    if spec.need == Need::Optional {
        writeln!(to, "- Optional: if it fails, go on and write it down.")?;
    }
    for check in &spec.verify {
        writeln!(to, "- Then see that it worked: {}.", check.describe())?;
    }
    writeln!(to, "- Give up after {}; {}.", span(spec.timeout), repeating(spec))?;
    if let Some(budget) = spec.budget {
        writeln!(to, "- Should be done within {}.", span(budget))?;
    }
    match spec.on_fail {
        OnFail::Rollback => writeln!(to, "- If it fails: undo the steps before, last one first.")?,
        OnFail::Continue => writeln!(to, "- If it fails: go on and write it down.")?,
        OnFail::Ask => writeln!(to, "- If it fails: ask whether to go on without it.")?,
        OnFail::Pause => {}
    }
    if let Some(undo) = &spec.undo {
        writeln!(to, "- To undo: {}.", undo.describe())?;
    }
    writeln!(to, "- Step id: `{}`\n", spec.id)
}

fn only_in(spec: &StepSpec) -> Option<&'static str> {
    let (recover, drill) = (spec.modes.contains(&Mode::Recover), spec.modes.contains(&Mode::Drill));
    match (recover, drill) {
        (true, false) => Some("real recovery"),
        (false, true) => Some("drill"),
        (false, false) => Some("walk-through"),
        (true, true) => None,
    }
}

fn repeating(spec: &StepSpec) -> String {
    let rule = match spec.effect {
        Effect::Read => "it changes nothing, so it may be repeated",
        Effect::Idempotent => "it may be repeated safely",
        Effect::Resumable => "it may be started again; what a broken attempt left is replaced",
        Effect::Once => "do NOT repeat it before you know that it did not happen",
    };
    match spec.retry.max {
        0 => rule.to_owned(),
        n => format!("{rule} (up to {n} more times, {} apart)", span(spec.retry.backoff)),
    }
}
