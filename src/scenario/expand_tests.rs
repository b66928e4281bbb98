//! Scenarios applied to configured systems.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::expand::{Ask, expand};
use super::library::Library;
use crate::domain::id::ScenarioName;
use crate::error::{Error, ErrorKind};
use crate::runbook::fact::SystemFact;
use crate::runbook::graph;
use crate::runbook::model::{Mode, Need};
use crate::runbook::plan::{Draft, Plan};
use crate::runbook::testing::{FakeHost, at, fact, job, system};

const RUNBOOK: &str = "schema: lifeboat.runbook/1
name: r
title: R
why: because
inputs:
  system: {type: system}
  tone: {type: text, default: calm}
steps:
  - {id: stop, service: {action: stop}, modes: [recover]}
  - {id: restore, needs: [stop], restore: {}}
  - {id: start, needs: [restore], service: {action: start}, modes: [recover]}
  - {id: verify, needs: [start], verify: {}}
  - {id: app, needs: [verify], check: {}}
  - {id: tell, needs: [app], optional: true, notify: {text: '${tone}'}}
";

fn library(answers: &str) -> Library {
    let scenario = format!("schema: lifeboat.scenario/1\nname: s\ntitle: S\nwhy: because\n{answers}");
    let (library, problems) =
        Library::read(vec![("r.yaml".into(), RUNBOOK.into())], vec![("s.yaml".into(), scenario)]);
    assert!(problems.is_empty(), "{problems:#?}");
    library
}

fn ask(mode: Mode) -> Ask {
    Ask { mode, only: BTreeSet::new(), inputs: BTreeMap::new() }
}

fn apply(library: &Library, facts: &[SystemFact], ask: &Ask) -> Result<Draft, Error> {
    let scenario = library.scenario(&ScenarioName::parse("s").unwrap())?;
    expand(library, scenario, facts, ask)
}

fn needs(draft: &Draft, id: &str) -> Vec<String> {
    let step = draft.steps.iter().find(|s| s.id.as_str() == id).unwrap();
    step.needs.iter().map(ToString::to_string).collect()
}

const BY_KIND: &str = "answers:\n  - {runbook: r, for: {kind: postgres}}\n";

#[test]
fn steps_without_a_configured_action_are_left_out_and_their_order_is_kept() {
    let library = library(BY_KIND);
    let mut bare = fact("orders", "postgres");
    bare.service_actions.clear();
    bare.checks.clear();
    let draft = apply(&library, &[bare], &ask(Mode::Recover)).unwrap();
    assert_eq!(needs(&draft, "orders/verify"), ["orders/restore"]);
    assert_eq!(needs(&draft, "orders/tell"), ["orders/verify"]);
    let left: Vec<&str> = draft.left_out.iter().map(|l| l.reason.as_str()).collect();
    assert_eq!(
        left,
        [
            "no service stop is configured for orders",
            "no service start is configured for orders",
            "no application check is configured for orders",
        ]
    );
    let drill = apply(&library, &[fact("orders", "postgres")], &ask(Mode::Drill)).unwrap();
    assert_eq!(drill.left_out[0].reason, "not part of a drill");
    assert_eq!(needs(&drill, "orders/restore"), [] as [&str; 0]);
}

#[test]
fn a_scenario_that_matches_nothing_says_what_there_is() {
    let library = library(BY_KIND);
    let error = apply(&library, &[fact("cart", "redis")], &ask(Mode::Recover)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("systems of kind postgres"), "{error}");
    assert_eq!(error.advice(), Some("configured are: cart (redis)"));
}

#[test]
fn a_scenario_for_a_system_that_is_not_configured_is_refused() {
    let library = library("answers:\n  - {runbook: r, for: {system: orders}}\n");
    let error = apply(&library, &[fact("cart", "redis")], &ask(Mode::Recover)).unwrap_err();
    assert!(error.to_string().contains("no system is named `orders`; configured are: cart"), "{error}");
}

#[test]
fn only_what_is_asked_for_is_planned_and_the_rest_is_listed() {
    let library = library(BY_KIND);
    let facts = [fact("a", "postgres"), fact("b", "postgres")];
    let mut ask = ask(Mode::Recover);
    ask.only.insert(system("b"));
    ask.inputs.insert("tone".into(), "loud".into());
    let draft = apply(&library, &facts, &ask).unwrap();
    assert_eq!(draft.systems.len(), 1);
    assert_eq!(draft.left_out[0].what, "system a");
    let tell = draft.steps.iter().find(|s| s.id.as_str() == "b/tell").unwrap();
    assert!(tell.action.describe().contains("loud"));
    ask.inputs.insert("toon".into(), "x".into());
    assert_eq!(apply(&library, &facts, &ask).unwrap_err().kind(), ErrorKind::Config);
    ask.inputs.clear();
    ask.only.insert(system("c"));
    assert_eq!(apply(&library, &facts, &ask).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_optional_answer_makes_its_system_optional() {
    let library = library(
        "answers:
  - {runbook: r, for: {kind: postgres}}
  - {id: cache, runbook: r, for: {kind: redis}, optional: true, after: [postgres], priority: 1}
",
    );
    let facts = [fact("orders", "postgres"), fact("cart", "redis")];
    let draft = apply(&library, &facts, &ask(Mode::Recover)).unwrap();
    assert_eq!(draft.systems[1].need, Need::Optional);
    assert_eq!(needs(&draft, "cart/stop"), ["orders/app"]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_wait_for_each_other_are_refused_with_the_circle() {
    let library = library(
        "answers:
  - {runbook: r, for: {kind: postgres}, after: [redis]}
  - {id: cache, runbook: r, for: {kind: redis}, after: [postgres]}
",
    );
    let facts = vec![fact("orders", "postgres"), fact("cart", "redis")];
    let draft = apply(&library, &facts, &ask(Mode::Recover)).unwrap();
    let error = Plan::resolve(draft, &FakeHost::new(facts), &job()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("in a circle"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_common_time_takes_nothing_newer_than_what_every_system_can_reach() {
    let library =
        library("recovery_line: {policy: common_time}\nanswers:\n  - {runbook: r, for: {kind: postgres}}\n");
    let facts = vec![fact("a", "postgres"), fact("b", "postgres")];
    let draft = apply(&library, &facts, &ask(Mode::Recover)).unwrap();
    let mut host = FakeHost::new(facts);
    host.points.insert("a".into(), vec![at("11:30:00"), at("11:59:00")]);
    host.points.insert("b".into(), vec![at("11:40:00")]);
    let plan = Plan::resolve(draft, &host, &job()).await.unwrap();
    assert_eq!(plan.recover_to, Some(at("11:40:00")));
    assert_eq!(plan.point(&system("a")).unwrap().holds_until(), at("11:30:00"));
    assert_eq!(plan.point(&system("b")).unwrap().holds_until(), at("11:40:00"));
}

proptest! {
    #[test]
    fn whatever_is_left_out_the_order_of_the_rest_is_kept(
        start in any::<bool>(), stop in any::<bool>(), checks in any::<bool>(), drill in any::<bool>(),
    ) {
        let library = library(BY_KIND);
        let mut orders = fact("orders", "postgres");
        orders.service_actions.retain(|a| match a {
            crate::runbook::fact::ServiceAction::Start => start,
            crate::runbook::fact::ServiceAction::Stop => stop,
            crate::runbook::fact::ServiceAction::Status => false,
        });
        if !checks { orders.checks.clear(); }
        let mode = if drill { Mode::Drill } else { Mode::Recover };
        let draft = apply(&library, &[orders], &ask(mode)).unwrap();
        prop_assert_eq!(draft.steps.len() + draft.left_out.len(), 6);
        let nodes: Vec<(String, Vec<String>)> = draft.steps.iter()
            .map(|s| (s.id.to_string(), s.needs.iter().map(ToString::to_string).collect()))
            .collect();
        prop_assert_eq!(graph::order(&nodes).unwrap(), (0..nodes.len()).collect::<Vec<_>>());
        // one chain: every step but the first needs exactly the one before
        for pair in draft.steps.windows(2) {
            prop_assert_eq!(&pair[1].needs, &vec![pair[0].id.clone()]);
        }
    }
}
