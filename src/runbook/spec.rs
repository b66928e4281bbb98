//! Reading one step of a runbook: its keys, its defaults, and its exactly one action.

use std::collections::BTreeSet;
use std::time::Duration;

use super::model::{Effect, Mode, Need, OnFail, RetryRule, RetryWhen, StepSpec, read_step_id};
use super::problem::Problems;
use super::step::{self, Action, Scope};
use super::yaml::{At, Fields};

/// Tries after the first that a runbook may ask for.
const RETRIES_MAX: u32 = 100;
const BACKOFF_DEFAULT: Duration = Duration::from_secs(5);

impl StepSpec {
    /// `at` has its inputs put in already.
    pub fn parse(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(problems)?;
        let line = fields.line();
        let id = fields.require("id", problems).and_then(|a| read_step_id(&a, problems));
        let title = fields.take("title").and_then(|a| a.text(problems));
        let needs = fields.take("needs").map(|a| a.texts(problems));
        let modes = read_modes(&mut fields, problems);
        let effects = [
            ("read", Effect::Read),
            ("idempotent", Effect::Idempotent),
            ("resumable", Effect::Resumable),
            ("once", Effect::Once),
        ];
        let effect = fields.take("effect").and_then(|a| a.choice(&effects, problems));
        let timeout = fields.take("timeout").and_then(|a| a.duration(problems));
        let budget = fields.take("budget").and_then(|a| a.duration(problems));
        let retry = read_retry(&mut fields, problems);
        let fates = [
            ("pause", OnFail::Pause),
            ("rollback", OnFail::Rollback),
            ("continue", OnFail::Continue),
            ("ask", OnFail::Ask),
        ];
        let on_fail = fields.take("on_fail").and_then(|a| a.choice(&fates, problems));
        let optional = fields.take("optional").and_then(|a| a.truth(problems));
        let verify = read_verify(&mut fields, scope, problems);
        let undo = fields.take("undo").and_then(|a| read_nested(&a, scope, problems));
        let probe = fields.take("probe").and_then(|a| {
            let probe = read_nested(&a, scope, problems)?;
            only_reading(&a, &probe, problems);
            Some(probe)
        });
        let action = step::read_action(&mut fields, scope, problems);
        fields.finish(problems);
        let (id, action) = (id?, action?);
        Some(Self {
            title: title.unwrap_or_else(|| action.describe()),
            id,
            line,
            needs: needs.unwrap_or_default(),
            modes,
            effect: effect.unwrap_or_else(|| action.effect()),
            timeout: timeout.unwrap_or_else(|| action.timeout()),
            budget,
            retry,
            on_fail: on_fail.unwrap_or(OnFail::Pause),
            need: if optional == Some(true) { Need::Optional } else { Need::Required },
            verify,
            undo,
            probe,
            action,
        })
    }
}

fn read_modes(fields: &mut Fields<'_>, problems: &mut Problems) -> BTreeSet<Mode> {
    let all = [("recover", Mode::Recover), ("drill", Mode::Drill), ("plan", Mode::Plan)];
    match fields.take("modes") {
        Some(at) => {
            let items = at.items(problems);
            items.iter().filter_map(|i| i.choice(&all, problems)).collect()
        }
        None => all.iter().map(|(_, m)| *m).collect(),
    }
}

fn read_retry(fields: &mut Fields<'_>, problems: &mut Problems) -> RetryRule {
    let mut rule = RetryRule { max: 0, backoff: BACKOFF_DEFAULT, when: RetryWhen::Later };
    let Some(mut fields) = fields.take("retry").and_then(|a| a.fields(problems)) else {
        return rule;
    };
    if let Some(max) = fields.require("max", problems).and_then(|a| a.whole(0..=RETRIES_MAX, problems)) {
        rule.max = max;
    }
    if let Some(backoff) = fields.take("backoff").and_then(|a| a.duration(problems)) {
        rule.backoff = backoff;
    }
    let when = [("later", RetryWhen::Later), ("any", RetryWhen::Any)];
    if let Some(when) = fields.take("when").and_then(|a| a.choice(&when, problems)) {
        rule.when = when;
    }
    fields.finish(problems);
    rule
}

/// A mapping that holds exactly one action and nothing else.
pub fn read_nested(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let action = step::read_action(&mut fields, scope, problems);
    fields.finish(problems);
    action
}

fn read_verify(fields: &mut Fields<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Vec<Action> {
    // the same word is an action when it holds a mapping
    if !fields.holds_list("verify") {
        return Vec::new();
    }
    let Some(at) = fields.take("verify") else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for item in at.items(problems) {
        if let Some(check) = read_nested(&item, scope, problems) {
            only_reading(&item, &check, problems);
            checks.push(check);
        }
    }
    checks
}

/// Checks and probes may not change anything. A command is taken at its author's word.
pub fn only_reading(at: &At<'_>, action: &Action, problems: &mut Problems) {
    if action.effect() != Effect::Read && !matches!(action, Action::Command(_)) {
        at.problem(problems, format!("{} changes something and cannot be a check", action.describe()));
    }
}
