//! `lifeboat demo`: the whole job on throwaway servers, told step by step.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::Context;
use super::output::{Table, show_seconds};
use super::progress::Bars;
use super::recover::Live;
use crate::config::size::show_bytes;
use crate::demo::estate::Estate;
use crate::demo::writer::{Writers, newest};
use crate::demo::{DemoResult, SystemResult, fill, strike};
use crate::domain::Timestamp;
use crate::domain::backup::BackupKind;
use crate::domain::evidence::Verdict;
use crate::domain::id::ScenarioName;
use crate::error::{Error, ErrorKind, Result};
use crate::evidence::report;
use crate::operation::recover::{Order, Outcome, plan, start};
use crate::operation::restore::Safety;
use crate::operation::{Node, backup};
use crate::runbook::model::Mode;
use crate::runbook::render::plan_text;
use crate::runtime::JobContext;

#[derive(Debug, Args)]
pub struct Demo {
    /// Where the report goes.
    #[arg(long, default_value = "lifeboat-demo")]
    report: PathBuf,
}

/// Tells the story on standard output, unless that is for a program.
struct Story<'a> {
    context: &'a Context,
    job: JobContext,
    bars: Bars,
}

impl Demo {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let estate = Estate::prepare(&context.job)?;
        let story = Story { context, job: context.job.clone(), bars: Bars::new(context.job.workers()) };
        let told = story.tell(&estate, &self.report).await;
        let cleanup = JobContext::plain();
        let left_out = estate.left_out.clone();
        let cleaned = estate.destroy(&cleanup).await;
        let mut result = told?;
        cleaned?;
        result.left_out = left_out;
        context.output.show(&result, render)?;
        let passed =
            result.verdict == Verdict::Pass && result.systems.iter().all(|s| s.verdict == Verdict::Pass);
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Unproven.exit_code()) })
    }
}

fn render(result: &DemoResult) -> String {
    let mut table = Table::new([
        "SYSTEM",
        "KIND",
        "RTO",
        "TARGET",
        "RPO",
        "TARGET",
        "COMPARED",
        "WRITES LOST",
        "EVIDENCE",
        "VERDICT",
    ]);
    let seconds = |s: Option<f64>| s.map_or_else(|| "unknown".to_owned(), show_seconds);
    for s in &result.systems {
        table.row([
            s.name.to_string(),
            s.kind.clone(),
            seconds(s.rto.achieved_seconds),
            seconds(s.rto.target_seconds),
            seconds(s.rpo.achieved_seconds),
            seconds(s.rpo.target_seconds),
            format!("{} {}", s.compared, s.unit),
            s.lost.map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
            s.evidence_level.map_or_else(|| "none".to_owned(), |l| l.to_string()),
            s.verdict.to_string(),
        ]);
    }
    let mut text = format!("\n{}\nVERDICT {}\n", table.render(), result.verdict);
    for line in &result.left_out {
        text.push_str(&format!("left out: {line}\n"));
    }
    for file in &result.report {
        text.push_str(&format!("report: {}\n", file.display()));
    }
    text
}

impl Story<'_> {
    fn say(&self, line: &str) -> Result<()> {
        self.context.output.text(line)
    }

    fn say_all(&self, lines: &[String]) -> Result<()> {
        lines.iter().try_for_each(|line| self.say(&format!("   {line}")))
    }

    async fn tell(&self, estate: &Estate, report_dir: &Path) -> Result<DemoResult> {
        self.say("1. Production: throwaway servers on loopback, filled with real data")?;
        let node = estate.open(&self.job)?;
        estate.start(&node, &self.job).await?;
        self.say_all(&fill::fill(estate, &self.job).await?)?;
        let writers = Writers::start(estate, &node, &self.job).await?;
        self.say("   an application keeps writing to all of them")?;
        self.say(
            "\n2. Protect: full backups, then incremental ones, compressed, encrypted, signed, read back",
        )?;
        self.back_up(&node, BackupKind::Full).await?;
        self.back_up(&node, BackupKind::Incremental).await?;
        self.say("\n3. Prove: drill the full disaster in sandboxes")?;
        let drill = self.drill(&node).await?;
        self.back_up(&node, BackupKind::Incremental).await?;
        self.say("\n4. Disaster strikes")?;
        let acknowledged = writers.stop().await?;
        let fault_at = self.job.now();
        self.say_all(&strike::strike(estate, &self.job).await?)?;
        self.say("\n5. Recover: the plan first (recover full-disaster --dry-run)\n")?;
        let outcome = self.recover(&node, fault_at).await?;
        let mut lost = std::collections::BTreeMap::new();
        for (system, last) in &acknowledged {
            let there = newest(estate, system, &self.job).await;
            lost.insert(system.clone(), there.ok().map(|n| last.saturating_sub(n)));
        }
        Ok(DemoResult {
            verdict: outcome.measurement.verdict,
            drill_verdict: Some(drill),
            systems: SystemResult::all(&outcome, |name| lost.get(name).copied().flatten()),
            left_out: Vec::new(),
            report: report::write(&outcome.report, &absolute(report_dir)?)?,
        })
    }

    async fn back_up(&self, node: &Node, kind: BackupKind) -> Result<()> {
        let one = |system: &crate::domain::id::SystemName| {
            let (system, job) = (system.clone(), self.job.fresh_child());
            async move {
                let _bar = self.bars.watch(system.as_str(), &job);
                let order = backup::Order {
                    run: node.new_run_id(),
                    system,
                    kind,
                    tier: None,
                    destination: None,
                    verify: node.config.pipeline.verify_after_backup,
                    reason: "demo".to_owned(),
                };
                backup::take(node, &order, &job).await
            }
        };
        let taken = futures_util::future::try_join_all(node.systems.keys().map(one)).await?;
        for record in taken {
            let m = &record.manifest;
            self.say(&format!(
                "   {:10} {:11} {:>9} raw {:>9} stored  {:>7}  {} {}  {}",
                m.system.as_str(),
                m.kind.as_str(),
                show_bytes(m.raw_bytes()),
                show_bytes(m.stored_bytes()),
                show_seconds((m.finished_at - m.started_at).as_seconds_f64()),
                m.captured.fingerprint.total(),
                m.captured.fingerprint.unit,
                record.state,
            ))?;
        }
        Ok(())
    }

    fn order(&self, node: &Node, mode: Mode, fault_at: Option<Timestamp>) -> Result<Order> {
        let scenario =
            ScenarioName::parse("full-disaster").map_err(|e| Error::bug("name the scenario").because(e))?;
        Ok(Order {
            run: node.new_run_id(),
            scenario,
            mode,
            only: std::collections::BTreeSet::new(),
            inputs: std::collections::BTreeMap::new(),
            fault_at,
            reason: "demo".to_owned(),
            safety: Safety::BackupFirst,
            digest: None,
        })
    }

    async fn drill(&self, node: &Node) -> Result<Verdict> {
        let outcome = self.carry_out(node, &self.order(node, Mode::Drill, None)?).await?;
        for s in &outcome.measurement.systems {
            let took = s.rto.achieved.map_or_else(|| "unknown".to_owned(), |d| show_seconds(d.as_secs_f64()));
            let level = s.level.map_or_else(|| "none".to_owned(), |l| l.to_string());
            self.say(&format!(
                "   {:10} restored and checked in {took}: {} {} compared, {level}, {}",
                s.name.as_str(),
                s.compared,
                s.unit,
                s.verdict
            ))?;
        }
        Ok(outcome.measurement.verdict)
    }

    async fn recover(&self, node: &Node, fault_at: Timestamp) -> Result<Outcome> {
        let order = self.order(node, Mode::Recover, Some(fault_at))?;
        let plan = plan(node, &order, &self.job).await?;
        self.say(&plan_text(&plan, self.job.now()))?;
        self.say("   and now for real")?;
        self.carry_out(node, &order).await
    }

    async fn carry_out(&self, node: &Node, order: &Order) -> Result<Outcome> {
        let live = Live::new(node, self.context);
        let observer: Arc<_> = live.observer();
        let outcome = start(node, order, Some(observer), &self.job).await?;
        drop(live);
        for step in outcome.execution.steps.iter().filter(|s| s.error.is_some()) {
            self.say(&format!(
                "   {} {:?}: {}",
                step.id,
                step.status,
                step.error.as_deref().unwrap_or_default()
            ))?;
        }
        Ok(outcome)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| Error::new(ErrorKind::Config, "use the directory for the report").because(e))
}
