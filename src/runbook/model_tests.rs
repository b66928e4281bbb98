//! Reading runbooks: what is wrong is named with its line and the way out; what is right is shown to a person.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::input::{Bindings, Bound};
use super::model::{Effect, Mode, Need, OnFail, Runbook};
use super::problem::Problems;
use super::show::runbook_text;
use super::testing::{FakeHost, fact, library, plan_of, system};

const HEAD: &str = "schema: lifeboat.runbook/1\nname: r\ntitle: R\nwhy: because\n";

fn problems(text: &str) -> Vec<String> {
    let mut problems = Problems::of("r.yaml");
    Runbook::parse("r.yaml", text, &mut problems);
    problems.into_list().iter().map(ToString::to_string).collect()
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let text = format!(
        "{HEAD}inputs:\n  system: {{type: system}}\nsteps:\n  - id: a\n    restore: {{}}\n    timeot: 3s\n"
    );
    assert_eq!(problems(&text), ["r.yaml:10: steps[0].timeot: unknown key; did you mean `timeout`?"]);
}

#[test]
fn every_problem_of_a_file_is_reported_at_once() {
    let text = format!(
        "{HEAD}ownr: me
inputs:
  system: {{type: sytem}}
  n: {{type: number, default: many}}
steps:
  - {{id: a/b, notify: {{text: 'hi ${{nobody}}'}}}}
  - {{id: b, needs: [bb], notify: {{text: x}}, gate: {{ask: y}}}}
  - {{id: c, needs: [zz], notify: {{text: x}}, timeout: soon, effect: maybe}}
  - {{id: d}}
"
    );
    let found = problems(&text).join("\n");
    for wanted in [
        "ownr: unknown key",
        "`sytem` is not one of system, text, duration, number",
        "`many` is not a number",
        "no input is named `nobody`",
        "`a/b` is not a step id",
        "this one does gate and notify; split it",
        "no step has the id `zz`",
        "`soon` is not a duration",
        "`maybe` is not one of read, idempotent, resumable, once",
        "says nothing to do; give one of: restore, verify",
    ] {
        assert!(found.contains(wanted), "{wanted} is not in:\n{found}");
    }
}

#[test]
fn a_cyclic_runbook_is_refused_and_the_circle_named() {
    let text = format!(
        "{HEAD}steps:
  - {{id: a, needs: [c], notify: {{text: x}}}}
  - {{id: b, needs: [a], notify: {{text: x}}}}
  - {{id: c, needs: [b], notify: {{text: x}}}}
"
    );
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("a -> c -> b -> a"), "{found:?}");
}

#[test]
fn a_check_that_would_pass_on_anything_or_change_something_is_refused() {
    let text = format!(
        "{HEAD}inputs: {{system: {{type: system}}}}
steps:
  - {{id: a, sql: {{query: select 1}}}}
  - {{id: b, restore: {{}}, verify: [{{backup: {{}}}}]}}
  - {{id: c, http: {{url: 'ftp://x'}}}}
  - {{id: d, wait: {{time: 1s, answering: x}}}}
"
    );
    let found = problems(&text).join("\n");
    assert!(found.contains("it would pass on an empty system"), "{found}");
    assert!(found.contains("cannot be a check"), "{found}");
    assert!(found.contains("is not an address"), "{found}");
    assert!(found.contains("wait for exactly one thing"), "{found}");
}

#[test]
fn two_steps_of_one_id_and_another_schema_are_refused() {
    let text =
        format!("{HEAD}steps:\n  - {{id: a, notify: {{text: x}}}}\n  - {{id: a, notify: {{text: x}}}}\n");
    assert!(problems(&text)[0].contains("two steps have the id `a`"));
    let newer = text.replace("runbook/1", "runbook/2");
    assert!(problems(&newer)[0].contains("write `schema: lifeboat.runbook/1`"));
}

#[test]
fn every_kind_of_step_is_read_with_its_defaults() {
    let text = format!(
        "{HEAD}inputs:
  system: {{type: system, kind: postgres}}
  grace: {{type: duration, default: 30s}}
  least: {{type: number, default: 5}}
steps:
  - {{id: a, restore: {{}}}}
  - {{id: b, verify: {{}}}}
  - {{id: c, service: {{action: stop}}, on_fail: rollback}}
  - {{id: d, command: [prog, '--system=${{system}}'], optional: true}}
  - {{id: e, check: {{name: orders}}, modes: [recover]}}
  - {{id: f, sql: {{query: select 1, min: '${{least}}'}}}}
  - {{id: g, redis: {{query: DBSIZE, expect: 3}}}}
  - {{id: h, http: {{url: 'http://127.0.0.1/', contains: ok}}}}
  - {{id: i, wait: {{until: {{check: {{}}}}, every: 2s}}, timeout: '${{grace}}'}}
  - {{id: j, gate: {{ask: Go on?}}}}
  - {{id: k, notify: {{text: 'about ${{system}}, $${{literal}}'}}}}
  - {{id: l, backup: {{kind: incremental}}, retry: {{max: 3, backoff: 1s, when: any}}}}
"
    );
    let mut problems = Problems::of("r.yaml");
    let runbook = Runbook::parse("r.yaml", &text, &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
    let given = Bindings::from([("system".to_owned(), Bound::System(system("orders")))]);
    let specs = runbook.steps_with(&given, &mut problems);
    assert!(problems.is_empty(), "{problems:#?}");
    let effects: Vec<Effect> = specs.iter().map(|s| s.effect).collect();
    use Effect::{Idempotent, Once, Read, Resumable};
    assert_eq!(
        effects,
        [Resumable, Read, Idempotent, Once, Read, Read, Read, Read, Read, Read, Idempotent, Idempotent]
    );
    assert_eq!(specs[2].on_fail, OnFail::Rollback);
    assert_eq!(specs[3].need, Need::Optional);
    assert_eq!(specs[3].action.describe(), "run `prog --system=orders`");
    assert_eq!(specs[4].modes, BTreeSet::from([Mode::Recover]));
    assert_eq!(specs[8].timeout, Duration::from_secs(30));
    assert!(specs[10].action.describe().contains("about orders, ${literal}"));
    assert_eq!(specs[11].retry.max, 3);
    let page = runbook_text(&runbook, &given);
    for wanted in
        ["### 1. ", "restore `orders`", "Only in a real recovery", "do NOT repeat it", "up to 3 more times"]
    {
        assert!(page.contains(wanted), "{wanted} is not in:\n{page}");
    }
}

#[test]
fn inputs_that_are_missing_unknown_or_of_another_type_are_named() {
    let text = format!(
        "{HEAD}inputs:\n  system: {{type: system}}\n  n: {{type: number}}\nsteps:\n  - {{id: a, restore: {{}}}}\n"
    );
    let mut problems = Problems::of("r.yaml");
    let runbook = Runbook::parse("r.yaml", &text, &mut problems).unwrap();
    assert!(problems.is_empty());
    let given = BTreeMap::from([("n".to_owned(), "x".to_owned()), ("sytem".to_owned(), "o".to_owned())]);
    runbook.bind(&given, &mut problems);
    let found: Vec<String> = problems.into_list().iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("no input `sytem`; did you mean `system`?"), "{found:?}");
}

const STEPS: &str = "steps:
  - {id: stop, service: {action: stop}, modes: [recover]}
  - {id: restore, needs: [stop], restore: {}}
  - {id: verify, needs: [restore], verify: {}}
";

#[tokio::test(start_paused = true)]
async fn a_plan_survives_json_keeps_its_digest_and_shows_what_is_unknown() {
    let host = FakeHost::new(vec![fact("orders", "postgres")]);
    let plan = plan_of(&library(STEPS, &["postgres"]), &host, Mode::Recover).await;
    assert!(plan.could_run());
    let json = serde_json::to_string(&plan).unwrap();
    let back: super::plan::Plan = serde_json::from_str(&json).unwrap();
    assert_eq!(back, plan);
    back.check_digest().unwrap();
    let again = plan_of(&library(STEPS, &["postgres"]), &host, Mode::Recover).await;
    assert_eq!(again.digest, plan.digest, "looking again changes nothing");
    let mut other = plan.clone();
    other.systems[0].found.expected = None;
    other.check_digest().unwrap();
    other.steps[0].timeout = Duration::from_secs(1);
    assert!(other.check_digest().is_err());
    let drill = plan_of(&library(STEPS, &["postgres"]), &host, Mode::Drill).await;
    assert_ne!(drill.digest, plan.digest);
    let text = super::render::plan_text(&plan, super::testing::at("12:00:00"));
    for wanted in [
        "orders (postgres)",
        "5m ago",
        "4.0 MiB",
        "Expected time: 1m 30s",
        "Could run now: yes",
        &plan.digest,
    ] {
        assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_without_a_backup_could_not_run_and_says_why() {
    let mut host = FakeHost::new(vec![fact("orders", "postgres")]);
    host.points.insert("orders".into(), vec![]);
    let plan = plan_of(&library(STEPS, &["postgres"]), &host, Mode::Recover).await;
    assert!(!plan.could_run());
    assert_eq!(plan.missing, ["orders: no backup in reach"]);
    let text = super::render::plan_text(&plan, super::testing::at("12:00:00"));
    assert!(text.contains("Could run now: NO"), "{text}");
}
