//! Execution against a scripted world, under a paused clock.

use std::time::Duration;

use super::{Direction, StepStatus};
use crate::catalog::Catalog;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::run::{RunEvent, RunState};
use crate::error::ErrorKind;
use crate::runbook::execute::Execution;
use crate::runbook::host::{Answer, Probed};
use crate::runbook::journal::{Decision, Journal, Person};
use crate::runbook::model::Mode;
use crate::runbook::testing::{Behave, Bench, Death, FakeHost, fact, job, run_id, step};

const SECOND: Duration = Duration::from_secs(1);

fn one() -> FakeHost {
    FakeHost::new(vec![fact("orders", "postgres")])
}

fn status(execution: &Execution, id: &str) -> StepStatus {
    execution.steps.iter().find(|s| s.id == step(id)).unwrap().status
}

async fn run(runbook: &str, host: FakeHost) -> (Bench, Execution) {
    let bench = Bench::new(runbook, Mode::Recover, host).await;
    let execution = bench.start(&job()).await.unwrap();
    (bench, execution)
}

const PLAIN: &str = "steps:
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
    assert_eq!(
        bench.host.effects(),
        ["orders/stop:stop", "orders/restore", "orders/reprotect"]
    );
    let record = bench.catalog.run(&run_id()).await.unwrap();
    assert_eq!(
        (record.state, record.verdict),
        (RunState::Succeeded, Some(Verdict::Pass))
    );
    let restore = execution
        .steps
        .iter()
        .find(|s| s.id == step("orders/restore"))
        .unwrap();
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
    let took = (execution.ended_at.unwrap() - execution.started_at.unwrap())
        .to_std()
        .unwrap();
    assert_eq!(took, 2 * SECOND);

    let facts = (0..6).map(|n| fact(&format!("s{n}"), "files")).collect();
    bench = Bench::new(runbook, Mode::Recover, FakeHost::new(facts)).await;
    bench.plan.parallel = 2;
    let error = bench.start(&job()).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Conflict,
        "a changed plan is refused: {error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_passing_trouble_is_tried_again_and_a_lasting_one_is_not() {
    let flaky = one().on(
        "orders/restore",
        &[Behave::Fail(ErrorKind::Unreachable), Behave::Work(SECOND)],
    );
    let (_, execution) = run(PLAIN, flaky).await;
    assert_eq!(execution.verdict, Verdict::Pass);
    assert_eq!(execution.steps[1].attempts, 2);
    let broken = one().on("orders/restore", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (bench, execution) = run(PLAIN, broken).await;
    assert_eq!(bench.host.world.lock().unwrap().calls["orders/restore"], 1);
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(execution.verdict, Verdict::Fail);
    assert!(
        execution.reason.contains("orders/restore"),
        "{}",
        execution.reason
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_times_out_and_one_that_panics_fails() {
    let runbook = "steps:
  - {id: slow, timeout: 5s, command: [hang], effect: idempotent}
  - {id: boom, command: [boom], effect: idempotent}
";
    let host = one()
        .on("orders/slow", &[Behave::Hang])
        .on("orders/boom", &[Behave::Panic]);
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
    assert!(
        execution.notes[0].contains("budget of 3s"),
        "{:?}",
        execution.notes
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_pauses_after_everything_independent_has_ended_and_resuming_goes_on() {
    let facts = vec![fact("orders", "postgres"), fact("media", "files")];
    let host = FakeHost::new(facts).on(
        "orders/restore",
        &[Behave::Fail(ErrorKind::Corrupt), Behave::Work(SECOND)],
    );
    let (bench, execution) = run(PLAIN, host).await;
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(status(&execution, "media/app"), StepStatus::Succeeded);
    assert_eq!(status(&execution, "orders/verify"), StepStatus::Pending);
    assert_eq!(
        bench.catalog.run(&run_id()).await.unwrap().state,
        RunState::Paused
    );
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
    assert!(
        execution.reason.contains("expected 10, found 9"),
        "{}",
        execution.reason
    );
    let journal = journal(&bench).await;
    let ann = Person::new("ann", "known difference").unwrap();
    journal
        .skip(&bench.plan, &step("orders/verify"), &ann, job().now())
        .await
        .unwrap();
    let resumed = bench.resume(&job()).await.unwrap();
    assert_eq!(resumed.verdict, Verdict::Fail);
    assert_eq!(resumed.state, RunState::Failed);
    let verify = resumed
        .steps
        .iter()
        .find(|s| s.id == step("orders/verify"))
        .unwrap();
    assert_eq!(verify.status, StepStatus::Skipped);
    assert_eq!(verify.decided_by.as_deref(), Some("ann"));
    assert!(verify.error.as_ref().unwrap().contains("rows of t"));
}

async fn journal(bench: &Bench) -> Journal {
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
    assert_eq!(
        execution.verdict,
        Verdict::Inconclusive,
        "an application check alone proves no content"
    );
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

const ROLLBACK: &str = "steps:
  - {id: a, service: {action: stop}, undo: {service: {action: start}}}
  - {id: b, needs: [a], command: [b], undo: {command: [unb]}}
  - {id: c, needs: [b], restore: {}, on_fail: rollback}
";

#[tokio::test(start_paused = true)]
async fn a_rollback_undoes_what_was_done_last_first() {
    let host = one().on("orders/c", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (bench, execution) = run(ROLLBACK, host).await;
    assert_eq!(
        bench.host.effects(),
        [
            "orders/a:stop",
            "orders/b",
            "orders/b/undo",
            "orders/a/undo:start"
        ]
    );
    assert_eq!(
        (execution.state, execution.verdict),
        (RunState::Failed, Verdict::Fail)
    );
    assert_eq!(status(&execution, "orders/a"), StepStatus::Undone);
}

#[tokio::test(start_paused = true)]
async fn a_paused_run_is_rolled_back_or_closed_at_a_persons_word() {
    let broken = || one().on("orders/restore", &[Behave::Fail(ErrorKind::Corrupt)]);
    let (bench, _) = run(PLAIN, broken()).await;
    let back = Direction::Back {
        by: "ann".into(),
        reason: "wrong backup".into(),
    };
    let execution = bench.resume_as(back, &job()).await.unwrap();
    assert_eq!(
        bench.host.effects(),
        ["orders/stop:stop", "orders/stop/undo:start"]
    );
    assert_eq!(execution.verdict, Verdict::Fail);
    let (bench, _) = run(PLAIN, broken()).await;
    let close = Direction::Close {
        by: "ann".into(),
        reason: "done by hand".into(),
    };
    let execution = bench.resume_as(close, &job()).await.unwrap();
    assert_eq!(
        (execution.state, execution.verdict),
        (RunState::Aborted, Verdict::Fail)
    );
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
    journal
        .answer(&bench.plan, &gate, Decision::Approve, &ann, later.now())
        .await
        .unwrap();
    let execution = bench.resume(&later).await.unwrap();
    assert_eq!(execution.verdict, Verdict::Pass);
    let gate = execution.steps.iter().find(|s| s.id == gate).unwrap();
    assert_eq!(gate.decided_by.as_deref(), Some("ann"));
    assert!(
        gate.human_wait >= Duration::from_secs(3590),
        "{:?}",
        gate.human_wait
    );
    assert!(execution.human_wait >= Duration::from_secs(3590));
    assert!(Person::new(" ", "x").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refused_gate_stops_what_is_behind_it() {
    let host = one();
    host.world.lock().unwrap().answer = Some(Answer {
        approved: false,
        by: "ann".into(),
        reason: "not yet".into(),
    });
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
    let approved = bench
        .catalog
        .events()
        .into_iter()
        .any(|e| matches!(e, RunEvent::Gate { approved: true, .. }));
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
    assert!(bench.until_death(Death::Before(6), &job(), false).await.is_none());
    assert_eq!(bench.host.count("orders/cut"), 1);
    let execution = bench.resume(&job()).await.unwrap();
    assert_eq!(execution.state, RunState::Paused);
    assert_eq!(status(&execution, "orders/cut"), StepStatus::Unknown);
    assert!(
        execution.reason.contains("may not be repeated"),
        "{}",
        execution.reason
    );
    assert_eq!(bench.resume(&job()).await.unwrap().state, RunState::Paused);
    assert_eq!(bench.host.count("orders/cut"), 1);
    let ann = Person::new("ann", "it did not happen").unwrap();
    journal(&bench)
        .await
        .answer(
            &bench.plan,
            &step("orders/cut"),
            Decision::Approve,
            &ann,
            job().now(),
        )
        .await
        .unwrap();
    assert_eq!(bench.resume(&job()).await.unwrap().verdict, Verdict::Pass);
    assert_eq!(bench.host.count("orders/cut"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_restore_found_done_is_not_done_again_and_one_found_in_part_is() {
    for (probed, calls) in [(Probed::Done(Box::default()), 1), (Probed::Partial, 2)] {
        let bench = Bench::new(PLAIN, Mode::Recover, one()).await;
        assert!(bench.until_death(Death::Before(4), &job(), false).await.is_none());
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
        .on(
            "orders/restore",
            &[Behave::Fail(ErrorKind::Unreachable), Behave::Work(2 * SECOND)],
        )
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
            assert_eq!(
                (record.state, record.verdict),
                (wanted.state, Some(wanted.verdict))
            );
        }
        return None;
    }
    Some(bench.resume(&job()).await.unwrap())
}

fn nothing_twice(bench: &Bench, once: &[&str], death: &str) {
    for step in once {
        assert!(
            bench.host.count(step) <= 1,
            "{step} was done {} times: {death}",
            bench.host.count(step)
        );
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
            let died = bench.until_death(death, &job(), false).await;
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
        for j in (1..=writes - k + 6).step_by(3) {
            let bench = Bench::new(REFERENCE, Mode::Drill, reference()).await;
            assert!(bench.until_death(Death::After(k), &job(), false).await.is_none());
            if bench.until_death(Death::Before(j), &job(), true).await.is_none()
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
            assert!(bench.until_death(death, &job(), false).await.is_none());
            if let Some(resumed) = to_the_end(&bench, &wanted).await {
                assert_eq!(essence(&resumed), essence(&wanted), "{death:?}");
            }
            nothing_twice(&bench, &["orders/b"], &format!("{death:?}"));
            assert_eq!(
                bench.host.effects().last().unwrap(),
                "orders/a/undo:start",
                "{death:?}"
            );
        }
    }
}
