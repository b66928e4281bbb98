//! Carrying a scenario out: planning, executing, measuring, proving, reporting; for real or as a drill.
//!
//! A recovery survives its process: the run keeps its resolved plan, and [`resume`] goes on from the journal. A drill does
//! not, because its sandboxes die with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::Proof;
use crate::domain::Timestamp;
use crate::domain::backup::BackupState;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{RunId, ScenarioName, SystemName};
use crate::domain::run::{RunKind, RunRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::evidence::report::{self, Report};
use crate::operation::forecast::Measured;
use crate::operation::host::NodeHost;
use crate::operation::restore::Safety;
use crate::operation::{FIRST_EPOCH, Node, library};
use crate::runbook::execute::{Direction, ExecuteRequest, Execution, execute};
use crate::runbook::host::{Conclusion, Host, Observation};
use crate::runbook::model::Mode;
use crate::runbook::plan::Plan;
use crate::runtime::{JobContext, process};
use crate::scenario::expand::{Ask, expand};
use crate::scenario::measure::{Events, Known, Measurement, Moment, measure};

/// A scenario that was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    pub run: RunId,
    pub scenario: ScenarioName,
    pub mode: Mode,
    pub only: BTreeSet<SystemName>,
    pub inputs: BTreeMap<String, String>,
    /// When the disaster struck. `None`: a drill takes the moment of acceptance, a recovery declares it then.
    pub fault_at: Option<Timestamp>,
    pub reason: String,
    pub safety: Safety,
    /// Insist on exactly this plan.
    pub digest: Option<String>,
}

/// What a recover or drill run keeps in its record. Enough to go on after a crash.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Detail {
    plan: Plan,
    events: Events,
    reason: String,
    safety: bool,
    #[serde(default)]
    measurement: Option<Measurement>,
    #[serde(default)]
    execution: Option<Execution>,
    /// For forecasts.
    #[serde(default)]
    measured: Vec<Measured>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub execution: Execution,
    pub measurement: Measurement,
    pub report: Report,
    /// Where the report was written: HTML, then JSON.
    pub files: Vec<PathBuf>,
}

type Observe = Arc<dyn Fn(&Observation) + Send + Sync>;

/// Resolves the plan of a scenario. Changes nothing.
pub async fn plan(node: &Node, order: &Order, job: &JobContext) -> Result<Plan> {
    let library = library::load(&node.config)?;
    let scenario = library.scenario(&order.scenario)?;
    let host = NodeHost::new(node.clone(), order.run.clone(), order.mode, order.safety, job.now());
    let problems = library.check_systems(&host.systems());
    if !problems.is_empty() {
        return Err(crate::runbook::problem::as_error("use the runbooks and scenarios", &problems));
    }
    let ask = Ask { mode: order.mode, only: order.only.clone(), inputs: order.inputs.clone() };
    let draft = expand(&library, scenario, &host.systems(), &ask)?;
    Plan::resolve(draft, &host, job).await
}

/// Plans and carries out. A failed step is not an error: it is in the outcome, with the verdict.
pub async fn start(
    node: &Node,
    order: &Order,
    observe: Option<Observe>,
    job: &JobContext,
) -> Result<Outcome> {
    let accepted = job.now();
    let plan = plan(node, order, job).await?;
    if let Some(wanted) = order.digest.as_ref().filter(|d| **d != plan.digest) {
        return Err(Error::new(ErrorKind::Conflict, "carry out the approved plan")
            .with("approved", wanted)
            .with("now", &plan.digest)
            .hint("something changed since: look at `lifeboat recover --dry-run` again"));
    }
    if !plan.could_run() {
        return Err(Error::new(ErrorKind::Conflict, "carry out the scenario")
            .with("scenario", &order.scenario)
            .why(plan.missing.join("; "))
            .hint("`--dry-run` shows the whole plan with what is missing"));
    }
    let events = match (order.fault_at, order.mode) {
        (Some(at), _) => {
            Events { fault: Moment { at, known: Known::Observed }, declared: Some(accepted), accepted }
        }
        (None, Mode::Recover) => Events {
            fault: Moment { at: accepted, known: Known::Declared },
            declared: Some(accepted),
            accepted,
        },
        (None, Mode::Drill | Mode::Plan) => Events::simulated(accepted),
    };
    let detail = Detail {
        plan,
        events,
        reason: order.reason.clone(),
        safety: order.safety == Safety::BackupFirst,
        measurement: None,
        execution: None,
        measured: Vec::new(),
    };
    let kind = if order.mode == Mode::Drill { RunKind::Drill } else { RunKind::Recover };
    node.open_run(&order.run, kind, None, Some(order.scenario.to_string()), to_json(&detail)?).await?;
    carry_out(node, &order.run, FIRST_EPOCH, detail, Direction::Forward, observe, job).await
}

/// Goes on with a recovery that was interrupted or is paused. `Conflict` when it has ended or somebody else carries it.
pub async fn resume(
    node: &Node,
    run: &RunId,
    direction: Direction,
    observe: Option<Observe>,
    job: &JobContext,
) -> Result<Outcome> {
    let record = node.catalog.run(run).await?;
    resumable(&record)?;
    let detail: Detail = from_json(&record)?;
    let epoch = node.catalog.adopt_run(run, record.epoch, &process::own_identity()).await?;
    carry_out(node, run, epoch, detail, direction, observe, job).await
}

fn resumable(record: &RunRecord) -> Result<()> {
    let refuse = |why: &str, hint: &str| {
        Err(Error::new(ErrorKind::Conflict, "resume run")
            .with("run", &record.id)
            .with("state", record.state)
            .why(why)
            .hint(hint))
    };
    if record.kind != RunKind::Recover {
        return refuse("only recoveries can be resumed", "start it again");
    }
    if record.state.is_final() {
        return refuse("it has ended", "see `lifeboat runs show`");
    }
    if record.state == crate::domain::run::RunState::Running
        && process::liveness(&record.owner) != process::Liveness::Gone
    {
        return refuse("another process carries it", "wait for it, or stop that process first");
    }
    Ok(())
}

async fn carry_out(
    node: &Node,
    run: &RunId,
    epoch: u32,
    detail: Detail,
    direction: Direction,
    observe: Option<Observe>,
    job: &JobContext,
) -> Result<Outcome> {
    let plan = detail.plan.clone();
    let (mode, events) = (plan.mode, detail.events);
    let safety = if detail.safety { Safety::BackupFirst } else { Safety::Waived };
    let concluding = detail.clone();
    let mut host = NodeHost::new(node.clone(), run.clone(), mode, safety, events.fault.at)
        .concluding(move |execution| conclude(&concluding, execution));
    if let Some(observe) = observe {
        host = host.observed(move |o| observe(o));
    }
    let host = Arc::new(host);
    let request = ExecuteRequest { run: run.clone(), epoch, plan: plan.clone(), direction };
    let mut executed = execute(request.clone(), host.clone(), node.catalog.clone(), job).await;
    if mode == Mode::Drill && executed.as_ref().is_ok_and(|e| !e.state.is_final()) {
        // nobody answers a drill, and its sandboxes go now: what was seen is what there is
        let direction = Direction::Close {
            by: "lifeboat".to_owned(),
            reason: "a drill does not wait for people".to_owned(),
        };
        let closing = ExecuteRequest { direction, ..request };
        executed = execute(closing, host.clone(), node.catalog.clone(), &node.cleanup_job()).await;
    }
    let cleaned = host.clean_up().await;
    let execution = executed?;
    cleaned?;
    if execution.state.is_final() {
        let systems: Vec<SystemName> = plan.systems.iter().map(|s| s.name.clone()).collect();
        host.forget_markers(&systems);
    }
    let measurement = measure(&plan, &execution, &events);
    record_proofs(node, run, &plan, &execution, &measurement).await?;
    let report = Report::new(run, &plan, &events, &execution, &measurement, &detail.reason);
    let files = write_report(node, &report)?;
    Ok(Outcome { execution, measurement, report, files })
}

fn conclude(detail: &Detail, execution: &Execution) -> Conclusion {
    let measurement = measure(&detail.plan, execution, &detail.events);
    let measured = measurement
        .systems
        .iter()
        .filter_map(|s| {
            let restore = execution
                .steps
                .iter()
                .find(|step| step.system.as_ref() == Some(&s.name) && step.output.restored.is_some())?;
            Some(Measured {
                system: s.name.clone(),
                bytes: s.restored_bytes?,
                seconds: restore.took?.as_secs_f64(),
            })
        })
        .collect();
    let (verdict, level) = (Some(measurement.verdict), measurement.level);
    let detail = Detail {
        measurement: Some(measurement),
        execution: Some(execution.clone()),
        measured,
        ..detail.clone()
    };
    Conclusion { verdict, level, detail: serde_json::to_value(&detail).ok() }
}

/// Books what was proven about each recovery point, and what spoke against it.
async fn record_proofs(
    node: &Node,
    run: &RunId,
    plan: &Plan,
    execution: &Execution,
    measurement: &Measurement,
) -> Result<()> {
    let now = node.clock.now();
    for system in &execution.systems {
        let Some(point) = plan.point(&system.name) else {
            continue;
        };
        let measured = measurement.systems.iter().find(|m| m.name == system.name);
        let (Some(level), Some(measured)) = (system.level, measured) else {
            continue;
        };
        let proof = Proof { at: now, run: run.clone(), level, verdict: measured.verdict };
        node.catalog.record_proof(&point.backup, &proof).await?;
        let red = system.verification.failures().any(|c| c.level <= EvidenceLevel::E4);
        if red {
            node.catalog.set_backup_state(&point.backup, BackupState::Suspect, now).await?;
        } else if level >= EvidenceLevel::E4 && system.verdict != Verdict::Fail {
            node.catalog.set_backup_state(&point.backup, BackupState::Proven, now).await?;
        }
    }
    Ok(())
}

/// The report of a run that has ended or is under way.
pub async fn report_of(node: &Node, run: &RunId) -> Result<Report> {
    let record = node.catalog.run(run).await?;
    if !matches!(record.kind, RunKind::Recover | RunKind::Drill) {
        return Err(Error::new(ErrorKind::NotFound, "find a report")
            .with("run", run)
            .why("only recoveries and drills have one"));
    }
    let detail: Detail = from_json(&record)?;
    let (Some(execution), Some(measurement)) = (&detail.execution, &detail.measurement) else {
        return Err(Error::new(ErrorKind::NotFound, "find a report")
            .with("run", run)
            .with("state", record.state)
            .hint("it has none before it has ended: `lifeboat runs resume`"));
    };
    Ok(Report::new(run, &detail.plan, &detail.events, execution, measurement, &detail.reason))
}

pub fn write_report(node: &Node, report: &Report) -> Result<Vec<PathBuf>> {
    report::write(report, &node.reports_dir())
}

/// The plan that a run carries.
pub async fn plan_of(node: &Node, run: &RunId) -> Result<Plan> {
    let record = node.catalog.run(run).await?;
    from_json(&record).map(|d: Detail| d.plan)
}

fn to_json(detail: &Detail) -> Result<serde_json::Value> {
    serde_json::to_value(detail).map_err(|e| Error::bug("write the detail of a run").because(e))
}

fn from_json(record: &RunRecord) -> Result<Detail> {
    serde_json::from_value(record.detail.clone()).map_err(|e| {
        Error::new(ErrorKind::Corrupt, "read the plan of a run").with("run", &record.id).because(e)
    })
}
