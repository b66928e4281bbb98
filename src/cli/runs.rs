//! `lifeboat runs`: list, show, resume, approve, skip, abort.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Context;
use super::output::{Table, show_time};
use super::recover::{Live, finish};
use crate::domain::id::{RunId, StepId};
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;
use crate::operation::recover::{plan_of, resume};
use crate::runbook::execute::Direction;
use crate::runbook::journal::{Decision, Journal, Person};
use crate::runtime::process::own_identity;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat runs resume 20261121-143007-0000007f
  lifeboat runs skip 20261121-143007-0000007f --step orders/app-check --by ann --reason 'checked by hand'")]
pub struct Runs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List {
        #[arg(long, default_value_t = 30)]
        limit: u32,
    },
    /// One run with its journal.
    Show { run: RunId },
    /// Go on with an interrupted or paused recovery.
    Resume { run: RunId },
    /// Answer a gate with yes.
    Approve(Deed),
    /// Answer a gate with no.
    Refuse(Deed),
    /// Let a step pass that failed or was not done. Lowers the verdict.
    Skip(Deed),
    /// End a paused or interrupted run where it is.
    Abort(Word),
    /// Undo what a paused run did, in reverse.
    Rollback(Word),
}

#[derive(Debug, Args)]
struct Deed {
    run: RunId,
    #[arg(long)]
    step: StepId,
    #[arg(long)]
    by: String,
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
struct Word {
    run: RunId,
    #[arg(long)]
    by: String,
    #[arg(long)]
    reason: String,
}

impl Runs {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        match self.verb.unwrap_or(Verb::List { limit: 30 }) {
            Verb::List { limit } => list(context, limit).await,
            Verb::Show { run } => show(context, &run).await,
            Verb::Resume { run } => go_on(context, &run, Direction::Forward).await,
            Verb::Abort(w) => go_on(context, &w.run, Direction::Close { by: w.by, reason: w.reason }).await,
            Verb::Rollback(w) => go_on(context, &w.run, Direction::Back { by: w.by, reason: w.reason }).await,
            Verb::Approve(d) => decide(context, &d, Some(Decision::Approve)).await,
            Verb::Refuse(d) => decide(context, &d, Some(Decision::Refuse)).await,
            Verb::Skip(d) => decide(context, &d, None).await,
        }
    }
}

async fn list(context: &Context, limit: u32) -> Result<ExitCode> {
    let runs = context.open()?.catalog.runs(limit).await?;
    let lines: Vec<_> = runs.iter().map(line).collect();
    context.output.show(&serde_json::json!({ "runs": lines }), |_| render(&runs))?;
    Ok(ExitCode::SUCCESS)
}

fn line(r: &RunRecord) -> serde_json::Value {
    serde_json::json!({
        "id": r.id, "kind": r.kind, "system": r.system, "subject": r.subject, "state": r.state, "started_at": r.started_at,
        "finished_at": r.finished_at, "verdict": r.verdict, "level": r.level, "error": r.error, "epoch": r.epoch,
    })
}

fn render(runs: &[RunRecord]) -> String {
    let mut table = Table::new(["RUN", "KIND", "WHAT", "STATE", "STARTED", "VERDICT", "ERROR"]);
    for r in runs {
        let system = r.system.as_ref().map(ToString::to_string).unwrap_or_default();
        let what = format!("{system} {}", r.subject.as_deref().unwrap_or_default());
        table.row([
            r.id.to_string(),
            r.kind.as_str().to_owned(),
            what.trim().to_owned(),
            r.state.to_string(),
            show_time(r.started_at),
            r.verdict.map_or_else(|| "-".to_owned(), |v| v.to_string()),
            r.error.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

async fn show(context: &Context, run: &RunId) -> Result<ExitCode> {
    let node = context.open()?;
    let record = node.catalog.run(run).await?;
    let journal = node.catalog.journal(run).await?;
    context.output.show(
        &serde_json::json!({ "run": line(&record), "detail": record.detail, "journal": journal }),
        |_| {
            let mut text = render(std::slice::from_ref(&record));
            for r in &journal {
                let event = serde_json::to_string(&r.event).unwrap_or_default();
                let shown: String = event.chars().take(160).collect();
                text.push_str(&format!("\n{:>4} {} epoch {} {shown}", r.seq, show_time(r.at), r.epoch));
            }
            text
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn go_on(context: &Context, run: &RunId, direction: Direction) -> Result<ExitCode> {
    let node = context.open_swept().await?;
    let live = Live::new(&node, context);
    let outcome = resume(&node, run, direction, Some(live.observer()), &context.job).await?;
    drop(live);
    finish(&outcome, context)
}

/// Writes a decision into the journal of a run that waits; `runs resume` then goes on.
async fn decide(context: &Context, deed: &Deed, decision: Option<Decision>) -> Result<ExitCode> {
    let node = context.open_swept().await?;
    let journal = waiting(&node, &deed.run).await?;
    let plan = plan_of(&node, &deed.run).await?;
    let person = Person::new(&deed.by, &deed.reason)?;
    let now = node.clock.now();
    match decision {
        Some(decision) => journal.answer(&plan, &deed.step, decision, &person, now).await?,
        None => journal.skip(&plan, &deed.step, &person, now).await?,
    }
    let value = serde_json::json!({ "run": deed.run, "step": deed.step, "recorded": true });
    context.output.show(&value, |_| format!("recorded; go on with: lifeboat runs resume {}", deed.run))?;
    Ok(ExitCode::SUCCESS)
}

async fn waiting(node: &Node, run: &RunId) -> Result<Journal> {
    let record = node.catalog.run(run).await?;
    let may_decide =
        record.kind == RunKind::Recover && matches!(record.state, RunState::Paused | RunState::Interrupted);
    if !may_decide {
        return Err(Error::new(ErrorKind::Conflict, "decide about a run that does not wait")
            .with("run", run)
            .with("state", record.state)
            .hint(format!(
                "only a paused or interrupted recovery waits for people; this process is {}",
                own_identity().pid
            )));
    }
    Ok(Journal { catalog: node.catalog.clone(), run: run.clone(), epoch: record.epoch })
}
