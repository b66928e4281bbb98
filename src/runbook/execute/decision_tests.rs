//! What people decide: rollbacks, closing, gates, and steps that nobody can tell about.

use std::time::Duration;

use super::tests::{PLAIN, journal, one, run, status};
use super::{Direction, StepStatus};
use crate::domain::evidence::Verdict;
use crate::domain::run::{RunEvent, RunState};
use crate::error::ErrorKind;
use crate::runbook::host::Answer;
use crate::runbook::journal::{Decision, Person};
use crate::runbook::model::Mode;
use crate::runbook::testing::{Behave, Bench, Death, FakeHost, Launch, fact, job, step};

pub(super) const ROLLBACK: &str = "steps:
  - {id: a, service: {action: stop}, undo: {service: {action: start}}}
  - {id: b, needs: [a], command: [b], undo: {command: [unb]}}
  - {id: c, needs: [b], restore: {}, on_fail: rollback}
";

#[tokio::test(start_paused = true)]
async fn a_rollback_undoes_what_was_done_last_first() {
    let host = one().on("orders/c", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (bench, execution) = run(ROLLBACK, host).await;
    assert_eq!(bench.host.effects(), ["orders/a:stop", "orders/b", "orders/b/undo", "orders/a/undo:start"]);
    assert_eq!((execution.state, execution.verdict), (RunState::Failed, Verdict::Fail));
    assert_eq!(status(&execution, "orders/a"), StepStatus::Undone);
}

#[tokio::test(start_paused = true)]
async fn a_paused_run_is_rolled_back_or_closed_at_a_persons_word() {
    let broken = || one().on("orders/restore", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (bench, _) = run(PLAIN, broken()).await;
    let back = Direction::Back { by: "ann".into(), reason: "wrong backup".into() };
    let execution = bench.resume_as(back, &job()).await.unwrap();
    assert_eq!(bench.host.effects(), ["orders/stop:stop", "orders/stop/undo:start"]);
    assert_eq!(execution.verdict, Verdict::Fail);
    let (bench, _) = run(PLAIN, broken()).await;
    let close = Direction::Close { by: "ann".into(), reason: "done by hand".into() };
    let execution = bench.resume_as(close, &job()).await.unwrap();
    assert_eq!((execution.state, execution.verdict), (RunState::Aborted, Verdict::Fail));
}

const GATED: &str = "steps:
  - {id: restore, restore: {}}
  - {id: verify, needs: [restore], verify: {}}
  - {id: go, needs: [verify], gate: {ask: Switch traffic?, drill: approve}}
  - {id: cut, needs: [go], command: [cut], probe: {command: [did, orders/cut]}}
";

#[tokio::test(start_paused = true)]
async fn a_gate_waits_for_a_person_and_the_wait_is_booked_as_theirs() {
    let (bench, execution) = run(GATED, one()).await;
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(status(&execution, "orders/go"), StepStatus::Waiting);
    // an hour of nobody answering opens nothing: the clock of a resumed process goes on from there
    let later = job();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(bench.resume(&later).await.unwrap().state, RunState::Paused);
    let ann = Person::new("ann", "looks right").unwrap();
    let gate = step("orders/go");
    let journal = journal(&bench).await;
    journal.answer(&bench.plan, &gate, Decision::Approve, &ann, later.now()).await.unwrap();
    let execution = bench.resume(&later).await.unwrap();
    assert_eq!(execution.verdict, Verdict::Pass);
    let gate = execution.steps.iter().find(|s| s.id == gate).unwrap();
    assert_eq!(gate.decided_by.as_deref(), Some("ann"));
    assert!(gate.human_wait >= Duration::from_secs(3590), "{:?}", gate.human_wait);
    assert!(execution.human_wait >= Duration::from_secs(3590));
    assert!(Person::new(" ", "x").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refused_gate_stops_what_is_behind_it() {
    let host = one();
    host.world.lock().unwrap().answer =
        Some(Answer { approved: false, by: "ann".into(), reason: "not yet".into() });
    let (bench, execution) = run(GATED, host).await;
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(status(&execution, "orders/go"), StepStatus::Failed);
    assert_eq!(bench.host.count("orders/cut"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drill_passes_a_gate_only_where_the_runbook_says_so() {
    let bench = Bench::new(GATED, Mode::Drill, one()).await;
    let execution = bench.start(&job()).await.unwrap();
    assert_eq!(execution.verdict, Verdict::Pass);
    let approved =
        bench.catalog.events().into_iter().any(|e| matches!(e, RunEvent::Gate { approved: true, .. }));
    assert!(approved);
    let strict = GATED.replace(", drill: approve", "");
    let bench = Bench::new(&strict, Mode::Drill, one()).await;
    assert_eq!(bench.start(&job()).await.unwrap().state, RunState::Paused);
}

#[tokio::test(start_paused = true)]
async fn a_once_step_that_nobody_can_tell_about_waits_for_a_person() {
    let runbook = "steps:
  - {id: restore, restore: {}}
  - {id: verify, needs: [restore], verify: {}}
  - {id: cut, needs: [verify], command: [cut]}
";
    let bench = Bench::new(runbook, Mode::Recover, one()).await;
    // record 6 is the outcome of `cut`
    assert!(bench.until_death(Death::Before(6), &job(), Launch::Start).await.is_none());
    assert_eq!(bench.host.count("orders/cut"), 1);
    let execution = bench.resume(&job()).await.unwrap();
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(status(&execution, "orders/cut"), StepStatus::Unknown);
    assert!(execution.reason.contains("may not be repeated"), "{}", execution.reason);
    assert_eq!(bench.resume(&job()).await.unwrap().state, RunState::Paused);
    assert_eq!(bench.host.count("orders/cut"), 1);
    let ann = Person::new("ann", "it did not happen").unwrap();
    journal(&bench)
        .await
        .answer(&bench.plan, &step("orders/cut"), Decision::Approve, &ann, job().now())
        .await
        .unwrap();
    assert_eq!(bench.resume(&job()).await.unwrap().verdict, Verdict::Pass);
    assert_eq!(bench.host.count("orders/cut"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_given_while_others_work_is_heard_and_the_other_gate_still_waits() {
    let facts = vec![fact("orders", "postgres"), fact("media", "files")];
    let host = FakeHost::new(facts).on("media/restore", &[Behave::Work(Duration::from_secs(10))]);
    let bench = Bench::new(GATED, Mode::Recover, host).await;
    let clock = job();
    let journal = journal(&bench).await;
    let (ended, ()) = tokio::join!(bench.start(&clock), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let ann = Person::new("ann", "go").unwrap();
        let gate = step("orders/go");
        let answered = journal.answer(&bench.plan, &gate, Decision::Approve, &ann, clock.now());
        answered.await.unwrap();
    });
    let execution = ended.unwrap();
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(bench.host.count("orders/cut"), 1);
    let waiting: Vec<&str> = execution.waiting.iter().map(|w| w.step.as_str()).collect();
    assert_eq!(waiting, ["media/go"]);
    assert!(execution.reason.contains("media/go waits for a decision"), "{}", execution.reason);
}
