//! The library: everything that is wrong, in all files, at once; and the files that are shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::expand::{Ask, expand};
use super::library::Library;
use crate::domain::id::{RunbookName, ScenarioName, StepId};
use crate::error::ErrorKind;
use crate::runbook::fact::SystemFact;
use crate::runbook::input::Bindings;
use crate::runbook::model::Mode;
use crate::runbook::show::runbook_text;
use crate::runbook::testing::fact;

fn shipped() -> Library {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Library::load(&root.join("runbooks"), &root.join("scenarios")).unwrap()
}

fn name(text: &str) -> ScenarioName {
    ScenarioName::parse(text).unwrap()
}

const RUNBOOK: &str = "schema: lifeboat.runbook/1
name: restore-postgres
title: R
why: because
inputs:
  system: {type: system, kind: postgres}
  tone: {type: text}
steps:
  - {id: restore, restore: {}}
";

fn problems(runbook: &str, scenario: &str) -> String {
    let (_, problems) =
        Library::read(vec![("r.yaml".into(), runbook.into())], vec![("s.yaml".into(), scenario.into())]);
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn everything_wrong_in_every_file_is_reported_at_once() {
    let runbook = RUNBOOK.replace("restore: {}", "restore: {sistem: x}");
    let scenario = "schema: lifeboat.scenario/1
name: s
title: S
why: because
recovery_line: {policy: barrier}
objectives: {level: E2}
answers:
  - {runbook: restore-postgre, for: {kind: postgres}}
  - {runbook: restore-postgres, for: {kind: redis}, with: {tune: x}, after: [nothing]}
  - {runbook: restore-postgres, for: {kind: redis}, with: {tone: x}}
";
    let found = problems(&runbook, scenario);
    for wanted in [
        "r.yaml:9: steps[0].restore.sistem: unknown key; did you mean `system`?",
        "the policy `barrier` is not supported yet",
        "`E2` is not one of E4, E5, E6, E7",
        "s.yaml:8: answers[0].runbook: there is no runbook `restore-postgre`; did you mean `restore-postgres`?",
        "is for postgres, not for redis",
        "has no input `tune`",
        "needs `tone`: text",
        "`nothing` is neither a kind that is answered here nor the id of an answer",
        "answers for systems of kind redis twice",
    ] {
        assert!(found.contains(wanted), "{wanted} is not in:\n{found}");
    }
}

#[test]
fn loading_gives_one_error_with_every_file_and_a_second_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), RUNBOOK).unwrap();
    std::fs::write(dir.path().join("b.yaml"), RUNBOOK).unwrap();
    std::fs::write(dir.path().join("c.yml"), "name: [").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "not read").unwrap();
    let error = Library::load(dir.path(), &dir.path().join("absent")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(text.contains("b.yaml: name: `restore-postgres` is the name of"), "{text}");
    assert!(text.contains("c.yml:") && text.contains("not valid YAML"), "{text}");
}

#[test]
fn a_system_that_is_not_configured_is_named_with_the_nearest_one() {
    let scenario = "schema: lifeboat.scenario/1
name: s
title: S
why: because
answers:
  - {runbook: restore-postgres, for: {system: order}, with: {tone: calm}}
";
    let runbook = RUNBOOK.replace("restore: {}", "restore: {system: elsewhere}");
    let (library, problems) =
        Library::read(vec![("r.yaml".into(), runbook)], vec![("s.yaml".into(), scenario.into())]);
    assert!(problems.is_empty(), "{problems:?}");
    let found = library.check_systems(&[fact("orders", "postgres")]);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "s.yaml:6: answers[0].for.system: no system is named `order`; did you mean `orders`?",
            "r.yaml:9: steps.restore: no system is named `elsewhere`; configured are: orders",
        ]
    );
}

#[test]
fn a_restore_that_nothing_looks_at_is_a_warning() {
    let (library, _) = Library::read(vec![("r.yaml".into(), RUNBOOK.into())], vec![]);
    let warnings: Vec<String> = library.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("nothing looks at the result"));
    assert!(warnings[1].contains("can never be PASS"));
}

#[test]
fn the_shipped_library_is_whole_and_without_warnings() {
    let library = shipped();
    assert!(library.warnings.is_empty(), "{:#?}", library.warnings);
    for wanted in ["database-failure", "redis-failure", "sqlite-damaged", "files-lost", "full-disaster"] {
        library.scenario(&name(wanted)).unwrap();
    }
    for runbook in library.runbooks.values() {
        let page = runbook_text(runbook, &Bindings::new());
        assert!(page.contains("## Steps") && !page.contains("${"), "{page}");
    }
    let error = library.scenario(&name("full-disastre")).unwrap_err();
    assert_eq!(error.advice(), Some("did you mean `full-disaster`?"));
    assert!(library.runbook(&RunbookName::parse("restore-postgres").unwrap()).is_ok());
}

#[test]
fn the_scenario_that_fits_a_loss_is_the_most_specific_one() {
    let library = shipped();
    let (orders, media) = (fact("orders", "postgres"), fact("media", "files"));
    let fitting = |lost: &[&SystemFact]| library.fitting(lost)[0].name.to_string();
    assert_eq!(fitting(&[&orders]), "database-failure");
    assert_eq!(fitting(&[&media]), "files-lost");
    assert_eq!(fitting(&[&orders, &media]), "full-disaster");
}

#[test]
fn the_full_disaster_orders_what_is_configured_and_lists_the_rest() {
    let library = shipped();
    let facts = [
        fact("orders", "postgres"),
        fact("cart", "redis"),
        fact("notes", "sqlite"),
        fact("vectors", "lancedb"),
    ];
    let ask = Ask { mode: Mode::Recover, only: BTreeSet::new(), inputs: BTreeMap::new() };
    let scenario = library.scenario(&name("full-disaster")).unwrap();
    let draft = expand(&library, scenario, &facts, &ask).unwrap();
    let needs = |id: &str| -> Vec<&str> {
        let step = draft.steps.iter().find(|s| s.id.as_str() == id).unwrap();
        step.needs.iter().map(StepId::as_str).collect()
    };
    assert_eq!(needs("cart/start"), ["orders/app-check"], "the cache comes after the database");
    assert!(needs("notes/stop").is_empty(), "SQLite depends on no server");
    let left: Vec<String> = draft.left_out.iter().map(|l| format!("{}: {}", l.what, l.reason)).collect();
    for wanted in [
        "systems of kind mongodb: no system of kind mongodb is configured",
        "systems of kind kafka: no system of kind kafka is configured",
        "systems of kind files: no system of kind files is configured",
        "system vectors (lancedb): the scenario full-disaster has no answer for it",
    ] {
        assert!(left.iter().any(|l| l == wanted), "{wanted} is not in {left:#?}");
    }
}
