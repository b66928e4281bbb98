//! Execution against a scripted world, under a paused clock.

use std::time::Duration;

use super::StepStatus;
use crate::catalog::Catalog;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::run::RunState;
use crate::error::ErrorKind;
use crate::runbook::execute::Execution;
use crate::runbook::host::Probed;
use crate::runbook::journal::{Journal, Person};
use crate::runbook::model::Mode;
use crate::runbook::testing::{Behave, Bench, Death, FakeHost, Launch, fact, job, run_id, step};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn one() -> FakeHost {
    FakeHost::new(vec![fact("orders", "postgres")])
}

pub(super) fn status(execution: &Execution, id: &str) -> StepStatus {
    execution.steps.iter().find(|s| s.id == step(id)).unwrap().status
}

pub(super) async fn run(runbook: &str, host: FakeHost) -> (Bench, Execution) {
    let bench = Bench::new(runbook, Mode::Recover, host).await;
    let execution = bench.start(&job()).await.unwrap();
    (bench, execution)
}

pub(super) const PLAIN: &str = "steps:
  - {id: stop, service: {action: stop}, undo: {service: {action: start}}}
  - {id: restore, needs: [stop], restore: {}, retry: {max: 1, backoff: 1s}}
  - {id: verify, needs: [restore], verify: {}}
  - {id: app, needs: [verify], check: {}}
  - {id: reprotect, needs: [app], optional: true, backup: {}}
";

#[tokio::test(start_paused = true)]
async fn a_plain_recovery_passes_with_content_and_application_checks() {
    let (bench, execution) = run(PLAIN, one()).await;
    assert_eq!(execution.verdict, Verdict::Pass, "{execution:#?}");
    assert_eq!(execution.level, Some(EvidenceLevel::E6));
    assert_eq!(execution.state, RunState::Succeeded);
    assert_eq!(bench.host.effects(), ["orders/stop:stop", "orders/restore", "orders/reprotect"]);
    let record = bench.catalog.run(&run_id()).await.unwrap();
    assert_eq!((record.state, record.verdict), (RunState::Succeeded, Some(Verdict::Pass)));
    let restore = execution.steps.iter().find(|s| s.id == step("orders/restore")).unwrap();
    assert_eq!(restore.took, Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn independent_steps_run_together_and_never_more_than_allowed() {
    let facts = (0..6).map(|n| fact(&format!("s{n}"), "files")).collect();
    let runbook = "steps:\n  - {id: restore, restore: {}}\n  - {id: verify, needs: [restore], verify: {}}\n";
    let mut bench = Bench::new(runbook, Mode::Recover, FakeHost::new(facts)).await;
    let execution = bench.start(&job()).await.unwrap();
    assert_eq!(execution.verdict, Verdict::Pass);
    assert_eq!(bench.host.world.lock().unwrap().inside_most, 6);
    let took = (execution.ended_at.unwrap() - execution.started_at.unwrap()).to_std().unwrap();
    assert_eq!(took, 2 * SECOND);

    let facts = (0..6).map(|n| fact(&format!("s{n}"), "files")).collect();
    bench = Bench::new(runbook, Mode::Recover, FakeHost::new(facts)).await;
    bench.plan.parallel = 2;
    let error = bench.start(&job()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "a changed plan is refused: {error}");
}

#[tokio::test(start_paused = true)]
async fn a_passing_trouble_is_tried_again_and_a_lasting_one_is_not() {
    let flaky = one().on("orders/restore", &[Behave::Fail(ErrorKind::Unreachable), Behave::Work(SECOND)]);
    let (_, execution) = run(PLAIN, flaky).await;
    assert_eq!(execution.verdict, Verdict::Pass);
    assert_eq!(execution.steps[1].attempts, 2);
    let broken = one().on("orders/restore", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (bench, execution) = run(PLAIN, broken).await;
    assert_eq!(bench.host.world.lock().unwrap().calls["orders/restore"], 1);
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(execution.verdict, Verdict::Fail);
    assert!(execution.reason.contains("orders/restore"), "{}", execution.reason);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_times_out_and_one_that_panics_fails() {
    let runbook = "steps:
  - {id: slow, timeout: 5s, command: [hang], effect: idempotent}
  - {id: boom, command: [boom], effect: idempotent}
";
    let host = one().on("orders/slow", &[Behave::Hang]).on("orders/boom", &[Behave::Panic]);
    let (_, execution) = run(runbook, host).await;
    assert_eq!(status(&execution, "orders/slow"), StepStatus::TimedOut);
    assert_eq!(status(&execution, "orders/boom"), StepStatus::Failed);
    assert_eq!(execution.state, RunState::Paused);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_noted_and_stops_nothing() {
    let runbook = "steps:
  - {id: restore, restore: {}, budget: 3s}
  - {id: verify, needs: [restore], verify: {}}
";
    let host = one().on("orders/restore", &[Behave::Work(10 * SECOND)]);
    let (_, execution) = run(runbook, host).await;
    assert_eq!(execution.verdict, Verdict::Pass);
    assert_eq!(execution.notes.len(), 1);
    assert!(execution.notes[0].contains("budget of 3s"), "{:?}", execution.notes);
}

#[tokio::test(start_paused = true)]
async fn a_failure_pauses_after_everything_independent_has_ended_and_resuming_goes_on() {
    let facts = vec![fact("orders", "postgres"), fact("media", "files")];
    let host =
        FakeHost::new(facts).on("orders/restore", &[Behave::Fail(ErrorKind::Corrupt), Behave::Work(SECOND)]);
    let (bench, execution) = run(PLAIN, host).await;
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(status(&execution, "media/app"), StepStatus::Succeeded);
    assert_eq!(status(&execution, "orders/verify"), StepStatus::Pending);
    assert_eq!(bench.catalog.run(&run_id()).await.unwrap().state, RunState::Paused);
    let resumed = bench.resume(&job()).await.unwrap();
    assert_eq!(resumed.verdict, Verdict::Pass, "{resumed:#?}");
    assert_eq!(bench.host.count("orders/stop:stop"), 1);
    assert_eq!(bench.host.count("media/restore"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_optional_failure_degrades_and_red_content_fails_whatever_is_skipped() {
    let host = one().on("orders/reprotect", &[Behave::Fail(ErrorKind::Exhausted)]);
    let (_, execution) = run(PLAIN, host).await;
    assert_eq!(execution.verdict, Verdict::Degraded);
    assert_eq!(execution.state, RunState::Succeeded);

    let host = one().on("orders/verify", &[Behave::Red]);
    let (bench, execution) = run(PLAIN, host).await;
    assert_eq!(execution.state, RunState::Paused);
    assert!(execution.reason.contains("expected 10, found 9"), "{}", execution.reason);
    let journal = journal(&bench).await;
    let ann = Person::new("ann", "known difference").unwrap();
    journal.skip(&bench.plan, &step("orders/verify"), &ann, job().now()).await.unwrap();
    let resumed = bench.resume(&job()).await.unwrap();
    assert_eq!(resumed.verdict, Verdict::Fail);
    assert_eq!(resumed.state, RunState::Failed);
    let verify = resumed.steps.iter().find(|s| s.id == step("orders/verify")).unwrap();
    assert_eq!(verify.status, StepStatus::Skipped);
    assert_eq!(verify.decided_by.as_deref(), Some("ann"));
    assert!(verify.error.as_ref().unwrap().contains("rows of t"));
}

pub(super) async fn journal(bench: &Bench) -> Journal {
    Journal {
        catalog: bench.catalog.clone(),
        run: run_id(),
        epoch: bench.catalog.run(&run_id()).await.unwrap().epoch,
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_without_a_content_check_is_a_pass() {
    let (_, execution) = run("steps:\n  - {id: restore, restore: {}}\n", one()).await;
    assert_eq!(execution.verdict, Verdict::Inconclusive);
    assert_eq!(execution.state, RunState::Failed);
    let only_app = "steps:\n  - {id: restore, restore: {}}\n  - {id: app, needs: [restore], check: {}}\n";
    let (_, execution) = run(only_app, one()).await;
    assert_eq!(execution.verdict, Verdict::Inconclusive, "an application check alone proves no content");
    assert_eq!(execution.level, None);
}

#[tokio::test(start_paused = true)]
async fn a_step_is_not_done_before_its_own_check_says_so() {
    let runbook = "steps:
  - {id: restore, restore: {}, verify: [{check: {}}]}
  - {id: verify, needs: [restore], verify: {}}
";
    let host = one().on("orders/restore", &[Behave::Work(SECOND), Behave::Red]);
    let (_, execution) = run(runbook, host).await;
    assert_eq!(status(&execution, "orders/restore"), StepStatus::Failed);
    assert_eq!(execution.verdict, Verdict::Fail);
}

#[tokio::test(start_paused = true)]
async fn a_restore_found_done_is_not_done_again_and_one_found_in_part_is() {
    for (probed, calls) in [(Probed::Done(Box::default()), 1), (Probed::Partial, 2)] {
        let bench = Bench::new(PLAIN, Mode::Recover, one()).await;
        assert!(bench.until_death(Death::Before(4), &job(), Launch::Start).await.is_none());
        bench.host.world.lock().unwrap().probe = Some(probed);
        assert_eq!(bench.resume(&job()).await.unwrap().verdict, Verdict::Pass);
        assert_eq!(bench.host.world.lock().unwrap().calls["orders/restore"], calls);
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_on_request_leaves_a_run_that_can_be_resumed() {
    let host = one().on("orders/restore", &[Behave::Work(100 * SECOND)]);
    let bench = Bench::new(PLAIN, Mode::Recover, host).await;
    let stopped = job();
    let (ended, ()) = tokio::join!(bench.start(&stopped), async {
        tokio::time::sleep(5 * SECOND).await;
        stopped.cancel();
    });
    let execution = ended.unwrap();
    assert_eq!(execution.state, RunState::Interrupted);
    assert_eq!(status(&execution, "orders/restore"), StepStatus::Unknown);
    assert_eq!(bench.host.count("orders/restore"), 0);
    assert_eq!(bench.resume(&job()).await.unwrap().verdict, Verdict::Pass);
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_was_overtaken_stops_and_writes_nothing() {
    let host = one().on("orders/restore", &[Behave::Work(100 * SECOND)]);
    let bench = Bench::new(PLAIN, Mode::Recover, host).await;
    let job = job();
    let (first, second) = tokio::join!(bench.start(&job), async {
        tokio::time::sleep(5 * SECOND).await;
        bench.resume(&job).await
    });
    let error = first.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(second.unwrap().verdict, Verdict::Pass);
}
