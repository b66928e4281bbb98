//! Figures from a run in a world with a known clock: one second per act, faults and watermarks at known instants.

use std::time::Duration;

use super::measure::{Events, Known, Measurement, Met, Moment, measure};
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::StepId;
use crate::runbook::host::Answer;
use crate::runbook::model::Mode;
use crate::runbook::testing::{Behave, Bench, FakeHost, at, fact, job, step};

const RUNBOOK: &str = "steps:
  - {id: go, gate: {ask: Begin?, drill: approve}}
  - {id: restore, needs: [go], restore: {}}
  - {id: verify, needs: [restore], verify: {}}
  - {id: app, needs: [verify], check: {}}
  - {id: reprotect, needs: [app], optional: true, backup: {}}
";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn two() -> FakeHost {
    let facts = vec![fact("orders", "postgres"), fact("cart", "redis")];
    let mut host = FakeHost::new(facts).on("orders/restore", &[Behave::Work(seconds(60))]);
    host.points.insert("orders".into(), vec![at("11:50:00")]);
    host.points.insert("cart".into(), vec![at("11:40:00")]);
    host
}

fn fault(text: &str) -> Events {
    Events {
        fault: Moment { at: at(text), known: Known::Observed },
        declared: Some(at("11:59:30")),
        accepted: at("12:00:00"),
    }
}

async fn measured(host: FakeHost, events: Events) -> Measurement {
    let bench = Bench::new(RUNBOOK, Mode::Drill, host).await;
    let execution = bench.start(&job()).await.unwrap();
    measure(&bench.plan, &execution, &events)
}

#[tokio::test(start_paused = true)]
async fn the_clock_runs_from_the_fault_to_the_last_check_and_rpo_is_read_from_the_data() {
    let m = measured(two(), fault("11:59:00")).await;
    assert_eq!(m.verdict, Verdict::Pass, "{m:#?}");
    assert_eq!(m.level, Some(EvidenceLevel::E6));
    // one minute before acceptance, a minute of restoring, a second each for verify and check
    let orders = &m.systems[0];
    assert_eq!(orders.rto.achieved, Some(seconds(60 + 60 + 2)));
    assert_eq!(orders.rpo.achieved, Some(seconds(9 * 60)));
    assert_eq!((orders.rpo.met, orders.compared, orders.lost), (Met::Yes, 10, Some(2)));
    let cart = &m.systems[1];
    assert_eq!(cart.rto.achieved, Some(seconds(60 + 3)));
    assert_eq!((cart.rpo.achieved, cart.rpo.met), (Some(seconds(19 * 60)), Met::NoObjective));
    assert_eq!(m.rta_business, Some(seconds(122)));
    assert_eq!(m.rta_declared, Some(seconds(92)));
    assert_eq!(m.rta_machine, Some(seconds(62)));
    assert_eq!(m.rpo_worst, Some(seconds(19 * 60)));
    assert_eq!(m.skew, Some(seconds(10 * 60)));
    assert_eq!(m.time_to_reprotected, Some(seconds(1)));
    let path: Vec<&str> = m.critical_path.iter().map(StepId::as_str).collect();
    assert_eq!(path, ["orders/go", "orders/restore", "orders/verify", "orders/app"]);
    assert!((m.slack_seconds[&step("cart/app")] - 59.0).abs() < 0.01, "{:?}", m.slack_seconds);
}

#[tokio::test(start_paused = true)]
async fn a_missed_objective_fails_and_takes_the_level_of_application_checks_away() {
    let m = measured(two(), fault("09:30:00")).await;
    let orders = &m.systems[0];
    assert_eq!((orders.rto.met, orders.rpo.met), (Met::No, Met::Yes));
    assert_eq!((orders.verdict, orders.level), (Verdict::Fail, Some(EvidenceLevel::E4)));
    assert!(orders.remarks[0].contains("later than the fault"), "{:?}", orders.remarks);
    assert_eq!(m.verdict, Verdict::Fail);
    let mut host = two();
    host.points.insert("orders".into(), vec![at("11:00:00")]);
    let m = measured(host, fault("11:59:00")).await;
    assert_eq!((m.systems[0].rpo.met, m.verdict), (Met::No, Verdict::Fail));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_verified_has_no_rto() {
    let host = two().on("cart/verify", &[Behave::Red]);
    let m = measured(host, fault("11:59:00")).await;
    assert_eq!(m.systems[1].rto.achieved, None);
    assert_eq!(m.service_at, None);
    assert_eq!(m.verdict, Verdict::Fail);
    assert!(m.critical_path.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drill_without_a_fault_begins_when_it_was_accepted() {
    let m = measured(two(), Events::simulated(at("12:00:00"))).await;
    assert_eq!(m.fault.known, Known::Simulated);
    assert_eq!(m.rta_business, m.rta_machine);
    let text = serde_json::to_value(&m).unwrap();
    assert_eq!(text["systems"][0]["rto"]["achieved_seconds"], 62.0);
    assert_eq!(text["systems"][0]["rto"]["target_seconds"], 7200.0);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_people_is_in_the_business_figure_and_not_in_the_machines() {
    let bench = Bench::new(RUNBOOK, Mode::Recover, two()).await;
    let clock = job();
    assert!(bench.start(&clock).await.unwrap().waiting.len() == 2);
    tokio::time::sleep(seconds(600)).await;
    bench.host.world.lock().unwrap().answer =
        Some(Answer { approved: true, by: "ann".into(), reason: "go".into() });
    let execution = bench.resume(&clock).await.unwrap();
    let m = measure(&bench.plan, &execution, &Events::simulated(at("12:00:00")));
    assert_eq!(m.rta_business, Some(seconds(662)));
    assert_eq!(m.rta_machine, Some(seconds(62)));
    assert_eq!(m.human_wait, seconds(600));
}
