//! `lifeboat recover`: a scenario for real, or its plan.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;

use super::Context;
use super::output::{Table, show_seconds, show_time};
use super::progress::{Bar, Bars};
use crate::domain::Timestamp;
use crate::domain::evidence::Verdict;
use crate::domain::id::{ScenarioName, StepId, SystemName};
use crate::domain::run::RunState;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;
use crate::operation::recover::{Order, Outcome, plan, start};
use crate::operation::restore::Safety;
use crate::runbook::host::Observation;
use crate::runbook::model::Mode;
use crate::runbook::plan::Plan;
use crate::runbook::render::plan_text;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat recover full-disaster --dry-run
  lifeboat recover database-failure --in-place --reason 'disk of db1 died' --fault-at 2026-11-21T02:55:00Z")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Recover {
    scenario: ScenarioName,
    #[command(flatten)]
    common: Common,
    /// Show the plan; change nothing. The exit code says whether it could run.
    #[arg(long)]
    dry_run: bool,
    /// Yes, into the configured systems themselves.
    #[arg(long)]
    in_place: bool,
    #[command(flatten)]
    safety: SafetyFlag,
    /// When the disaster struck; RTO and RPO count from here. Default: now.
    #[arg(long)]
    fault_at: Option<Timestamp>,
    /// Why; goes into the report.
    #[arg(long)]
    reason: Option<String>,
    /// Carry out exactly the plan with this digest, or nothing.
    #[arg(long)]
    plan: Option<String>,
}

#[derive(Debug, Args)]
struct SafetyFlag {
    /// Do not back up what will be overwritten.
    #[arg(long)]
    no_safety_backup: bool,
}

#[derive(Debug, Args)]
pub struct Common {
    /// Only these systems.
    #[arg(long)]
    only: Vec<SystemName>,
    /// Value for an input of the runbooks: name=value.
    #[arg(long = "input", value_parser = key_value)]
    inputs: Vec<(String, String)>,
}

fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    text.split_once('=')
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .ok_or_else(|| "write name=value".to_owned())
}

impl Common {
    pub fn only(&self) -> BTreeSet<SystemName> {
        self.only.iter().cloned().collect()
    }

    pub fn inputs(&self) -> BTreeMap<String, String> {
        self.inputs.iter().cloned().collect()
    }
}

impl Recover {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = if self.dry_run { context.open()? } else { context.open_swept().await? };
        let order = self.order(&node)?;
        if self.dry_run {
            let plan = plan(&node, &order, &context.job).await?;
            return show_plan(&plan, context);
        }
        let live = Live::new(&node, context);
        let outcome = start(&node, &order, Some(live.observer()), &context.job).await?;
        drop(live);
        finish(&outcome, context)
    }

    fn order(&self, node: &Node) -> Result<Order> {
        if !self.dry_run && !self.in_place {
            return Err(Error::new(ErrorKind::Config, "recover into production without being told to")
                .hint("look with --dry-run, prove with `lifeboat drill`, then say --in-place and --reason"));
        }
        let reason = match (&self.reason, self.dry_run) {
            (Some(reason), _) if !reason.trim().is_empty() => reason.clone(),
            (_, true) => String::new(),
            _ => {
                return Err(Error::new(ErrorKind::Config, "recover without a reason")
                    .hint("say --reason '...'; it goes into the report"));
            }
        };
        Ok(Order {
            run: node.new_run_id(),
            scenario: self.scenario.clone(),
            mode: Mode::Recover,
            only: self.common.only(),
            inputs: self.common.inputs(),
            fault_at: self.fault_at,
            reason,
            safety: if self.safety.no_safety_backup { Safety::Waived } else { Safety::BackupFirst },
            digest: self.plan.clone(),
        })
    }
}

pub fn show_plan(plan: &Plan, context: &Context) -> Result<ExitCode> {
    let now = context.job.now();
    let value = serde_json::json!({ "could_run": plan.could_run(), "plan": plan });
    context.output.show(&value, |_| plan_text(plan, now))?;
    Ok(if plan.could_run() { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Conflict.exit_code()) })
}

/// Shows the result and gives the exit code: 0 only for PASS.
pub fn finish(outcome: &Outcome, context: &Context) -> Result<ExitCode> {
    let value = serde_json::json!({
        "run": outcome.execution.run, "state": outcome.execution.state, "verdict": outcome.measurement.verdict,
        "level": outcome.measurement.level, "measurement": outcome.measurement, "waiting": outcome.execution.waiting,
        "report": outcome.files,
    });
    context.output.show(&value, |_| render(outcome))?;
    Ok(match (outcome.execution.state, outcome.measurement.verdict) {
        (RunState::Succeeded, Verdict::Pass) => ExitCode::SUCCESS,
        (RunState::Interrupted, _) => ExitCode::from(ErrorKind::Cancelled.exit_code()),
        // a drill that was stopped is not resumed but closed at once
        (RunState::Aborted, _) if context.job.token().is_cancelled() => {
            ExitCode::from(ErrorKind::Cancelled.exit_code())
        }
        _ => ExitCode::from(ErrorKind::Unproven.exit_code()),
    })
}

/// The table of a finished recovery or drill.
pub fn table(outcome: &Outcome) -> String {
    let mut table = Table::new([
        "SYSTEM", "KIND", "RTO", "TARGET", "RPO", "TARGET", "COMPARED", "LOST", "EVIDENCE", "VERDICT",
    ]);
    let seconds = |d: Option<std::time::Duration>, none: &str| {
        d.map_or_else(|| none.to_owned(), |d| show_seconds(d.as_secs_f64()))
    };
    for s in &outcome.measurement.systems {
        table.row([
            s.name.to_string(),
            s.kind.clone(),
            seconds(s.rto.achieved, "unknown"),
            seconds(s.rto.target, "-"),
            seconds(s.rpo.achieved, "unknown"),
            seconds(s.rpo.target, "any"),
            format!("{} {}", s.compared, s.unit),
            s.lost.map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
            s.level.map_or_else(|| "none".to_owned(), |l| l.to_string()),
            s.verdict.to_string(),
        ]);
    }
    table.render()
}

fn render(outcome: &Outcome) -> String {
    let e = &outcome.execution;
    let mut text = table(outcome);
    for step in e.steps.iter().filter(|s| s.error.is_some()) {
        text.push_str(&format!(
            "\n{} {:?}: {}",
            step.id,
            step.status,
            step.error.as_deref().unwrap_or_default()
        ));
        if let Some(hint) = &step.hint {
            text.push_str(&format!("\n  try: {hint}"));
        }
    }
    for waiting in &e.waiting {
        text.push_str(&format!("\nwaiting {}: {}", waiting.step, waiting.why));
    }
    if !e.state.is_final() {
        text.push_str(&format!(
            "\nthe run is {}: lifeboat runs show {}, then lifeboat runs resume {}",
            e.state, e.run, e.run
        ));
    }
    let ended = e.ended_at.map(show_time).unwrap_or_default();
    let level = outcome
        .measurement
        .level
        .map_or_else(|| "no evidence".to_owned(), |l| format!("{l}: {}", l.meaning()));
    text.push_str(&format!(
        "\nVERDICT {}  ({level})  run {} {} {ended}",
        outcome.measurement.verdict, e.run, e.state
    ));
    for file in &outcome.files {
        text.push_str(&format!("\nreport  {}", file.display()));
    }
    text
}

/// Progress bars of the steps under way.
#[derive(Debug)]
pub struct Live {
    bars: Bars,
    running: Arc<Mutex<BTreeMap<StepId, Bar>>>,
}

impl Live {
    pub fn new(node: &Node, _context: &Context) -> Self {
        Self { bars: Bars::new(&node.workers), running: Arc::default() }
    }

    pub fn observer(&self) -> Arc<dyn Fn(&Observation) + Send + Sync> {
        let (bars, running) = (self.bars.clone(), self.running.clone());
        Arc::new(move |observation| {
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            match observation {
                Observation::StepStarted { step, progress, .. } => {
                    running.insert(step.clone(), bars.watch_progress(step.as_str(), progress.clone()));
                }
                Observation::StepEnded { step, status } => {
                    running.remove(step);
                    bars.line(&format!("  {:30} {}", step.as_str(), format!("{status:?}").to_lowercase()));
                }
            }
        })
    }
}
