//! The kill sweep: the process dies before and after every record of a reference run, and every resume ends alike.

use super::decision_tests::ROLLBACK;
use super::tests::{SECOND, one};
use super::{Execution, StepStatus};
use crate::catalog::Catalog;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::run::RunState;
use crate::error::ErrorKind;
use crate::runbook::model::Mode;
use crate::runbook::testing::{Behave, Bench, Death, FakeHost, Launch, fact, job, run_id};

const REFERENCE: &str = "steps:
  - {id: fence, command: [fence], probe: {command: [did, '${system}/fence']}}
  - {id: stop, service: {action: stop}}
  - {id: restore, needs: [fence, stop], restore: {}, retry: {max: 2, backoff: 1s}}
  - {id: start, needs: [restore], service: {action: start}, verify: [{check: {}}]}
  - {id: verify, needs: [start], verify: {}}
  - {id: app, needs: [verify], check: {}, retry: {max: 2, backoff: 1s, when: any}}
  - {id: tell, needs: [app], optional: true, notify: {text: back}, retry: {max: 1, backoff: 1s}}
  - {id: go, needs: [app], gate: {ask: 'Switch?', drill: approve}}
  - {id: cut, needs: [go], command: [cut], budget: 500ms, probe: {command: [did, '${system}/cut']}}
";

fn reference() -> FakeHost {
    FakeHost::new(vec![fact("orders", "postgres"), fact("media", "files")])
        .on("orders/restore", &[Behave::Fail(ErrorKind::Unreachable), Behave::Work(2 * SECOND)])
        .on("media/app", &[Behave::Red, Behave::Work(SECOND)])
        .on("media/tell", &[Behave::Fail(ErrorKind::Unreachable)])
}

/// What must be the same however often the process dies.
fn essence(execution: &Execution) -> (RunState, Verdict, Option<EvidenceLevel>, Vec<StepStatus>) {
    let steps = execution.steps.iter().map(|s| s.status).collect();
    (execution.state, execution.verdict, execution.level, steps)
}

async fn undisturbed(runbook: &str, mode: Mode, host: FakeHost) -> (Execution, usize) {
    let bench = Bench::new(runbook, mode, host).await;
    let execution = bench.start(&job()).await.unwrap();
    (execution, bench.catalog.writes())
}

/// Goes on until the run is final; a run that ended in the catalog before the process died needs no resume.
async fn to_the_end(bench: &Bench, wanted: &Execution) -> Option<Execution> {
    let record = bench.catalog.run(&run_id()).await.unwrap();
    if record.state.is_final() || (record.state == RunState::Paused && wanted.state == RunState::Paused) {
        if record.state.is_final() {
            assert_eq!((record.state, record.verdict), (wanted.state, Some(wanted.verdict)));
        }
        return None;
    }
    Some(bench.resume(&job()).await.unwrap())
}

fn nothing_twice(bench: &Bench, once: &[&str], death: &str) {
    for step in once {
        assert!(bench.host.count(step) <= 1, "{step} was done {} times: {death}", bench.host.count(step));
    }
}

const ONCE: [&str; 4] = ["orders/fence", "media/fence", "orders/cut", "media/cut"];

#[tokio::test(start_paused = true)]
async fn killed_before_and_after_every_journal_record_a_resume_ends_in_the_same_verdict() {
    let (wanted, writes) = undisturbed(REFERENCE, Mode::Drill, reference()).await;
    assert_eq!(wanted.verdict, Verdict::Degraded, "{wanted:#?}");
    assert!(writes > 40, "{writes}");
    for k in 1..=writes {
        for death in [Death::Before(k), Death::After(k)] {
            let bench = Bench::new(REFERENCE, Mode::Drill, reference()).await;
            let died = bench.until_death(death, &job(), Launch::Start).await;
            assert!(died.is_none(), "{death:?} was not met");
            nothing_twice(&bench, &ONCE, &format!("{death:?}"));
            if let Some(resumed) = to_the_end(&bench, &wanted).await {
                assert_eq!(essence(&resumed), essence(&wanted), "{death:?}");
            }
            nothing_twice(&bench, &ONCE, &format!("{death:?}"));
            for step in ONCE {
                assert_eq!(bench.host.count(step), 1, "{step} {death:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_again_while_it_resumes_it_still_ends_in_the_same_verdict() {
    let (wanted, writes) = undisturbed(REFERENCE, Mode::Drill, reference()).await;
    for k in 1..writes {
        for j in (1..=writes - k + 6).step_by(5) {
            let bench = Bench::new(REFERENCE, Mode::Drill, reference()).await;
            assert!(bench.until_death(Death::After(k), &job(), Launch::Start).await.is_none());
            if bench.until_death(Death::Before(j), &job(), Launch::Resume).await.is_none()
                && let Some(resumed) = to_the_end(&bench, &wanted).await
            {
                assert_eq!(essence(&resumed), essence(&wanted), "{k} {j}");
            }
            nothing_twice(&bench, &ONCE, &format!("{k} {j}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_during_a_rollback_everything_is_undone_once() {
    let rollback = ROLLBACK
        .replace("command: [b]", "command: [b], probe: {command: [did, orders/b]}")
        .replace("undo: {command: [unb]}", "undo: {service: {action: start}}");
    let host = || one().on("orders/c", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (wanted, writes) = undisturbed(&rollback, Mode::Recover, host()).await;
    for k in 1..=writes {
        for death in [Death::Before(k), Death::After(k)] {
            let bench = Bench::new(&rollback, Mode::Recover, host()).await;
            assert!(bench.until_death(death, &job(), Launch::Start).await.is_none());
            if let Some(resumed) = to_the_end(&bench, &wanted).await {
                assert_eq!(essence(&resumed), essence(&wanted), "{death:?}");
            }
            nothing_twice(&bench, &["orders/b"], &format!("{death:?}"));
            assert_eq!(bench.host.effects().last().unwrap(), "orders/a/undo:start", "{death:?}");
        }
    }
}
