//! The command line: one file per verb. Parses, calls the operations, shows results. Decides nothing about data.
//!
//! Standard output carries results (text or, with `--json`, one JSON document); progress and logs go to standard error.

mod assess;
mod backup;
mod catalog;
mod completions;
mod demo;
mod doctor;
mod drill;
mod init;
mod keys;
mod list;
mod output;
mod progress;
mod recover;
mod report;
mod restore;
mod runbook;
mod runs;
mod serve;
mod show;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::operation::{Node, lease};
use crate::runtime::JobContext;
use crate::system::registry::registry;
use output::{Form, Output};

pub const CONFIG_DEFAULT: &str = "lifeboat.toml";

/// Protects data systems, proves that they come back, recovers them, and tells people.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Args {
    /// The config file.
    #[arg(short, long, global = true, env = "LIFEBOAT_CONFIG", default_value = CONFIG_DEFAULT)]
    config: PathBuf,
    /// One JSON document on standard output, for programs. Shapes: docs/cli.md
    #[arg(long, global = true)]
    json: bool,
    /// Log level on standard error: error, warn, info, debug, trace.
    #[arg(long, global = true, env = "LIFEBOAT_LOG", default_value = "warn")]
    log: String,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  lifeboat demo                              the whole job on throwaway servers
  lifeboat init                              write a commented lifeboat.toml
  lifeboat keys init                         make keys; keep identity.age somewhere else too
  lifeboat backup --all                      back every system up
  lifeboat drill full-disaster               prove in a sandbox that everything comes back
  lifeboat recover full-disaster --dry-run   what a real recovery would do
Exit codes: docs/errors.md";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a commented config file.
    Init(init::Init),
    /// What is missing on this machine, and how to get it.
    Doctor(doctor::Doctor),
    /// The state of every system: what is lost, which scenario fits, what to do next.
    Assess(assess::Assess),
    /// Make, list and check keys.
    Keys(keys::Keys),
    /// Take backups.
    Backup(backup::Backup),
    /// List backups.
    List(list::List),
    /// Show one backup.
    Show(show::Show),
    /// Read stored backups back and compare checksums.
    Verify(verify::Verify),
    /// Restore a backup into a directory, or in place behind a flag.
    Restore(restore::Restore),
    /// Carry a scenario out for real, or show its plan.
    Recover(recover::Recover),
    /// Carry a scenario out in sandboxes and measure it.
    Drill(drill::Drill),
    /// List, show, resume, approve and abort runs.
    Runs(runs::Runs),
    /// Write or show the report of a run.
    Report(report::Report),
    /// Run the daemon: supervised actors, status API, metrics, status page.
    Serve(serve::Serve),
    /// The whole job on throwaway servers with real data.
    Demo(demo::Demo),
    /// Rebuild the catalog from storage.
    Catalog(catalog::Catalog),
    /// List and show runbooks and scenarios.
    Runbook(runbook::Runbook),
    /// Shell completions.
    Completions(completions::Completions),
}

/// What every verb gets.
#[derive(Debug)]
pub struct Context {
    config: PathBuf,
    output: Output,
    /// Cancelled by Ctrl-C and SIGTERM.
    job: JobContext,
}

impl Context {
    /// Reads the config and opens everything, without touching what dead runs left.
    fn open(&self) -> Result<Node> {
        app::open(Config::load(&self.config, &registry())?, self.job.workers())
    }

    /// As [`Self::open`], and settles what dead runs left: for verbs that change something.
    async fn open_swept(&self) -> Result<Node> {
        let node = self.open()?;
        let swept = lease::sweep(&node, &self.job).await?;
        for line in &swept.removed {
            self.output.note(&format!("left by a dead run, now removed: {line}"))?;
        }
        for line in &swept.left {
            self.output.note(&format!("left by a dead run and still there: {line}"))?;
        }
        Ok(node)
    }
}

pub async fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(if args.json { Form::Json } else { Form::Text });
    if let Err(error) = crate::telemetry::log::install(&args.log) {
        return output.fail(&error);
    }
    let job = JobContext::plain();
    let signals = watch_signals(&job);
    let context = Context { config: args.config, output, job };
    let result = run(args.verb, &context).await;
    drop(signals);
    match result {
        Ok(code) => code,
        Err(error) => context.output.fail(&error),
    }
}

/// First signal: cancel and clean up. Second: the person insists, leave at once (the next start cleans up).
fn watch_signals(job: &JobContext) -> crate::runtime::workers::Task<()> {
    let cancelled = job.clone();
    job.workers().spawn("watch signals", async move {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |e: std::io::Error| Error::bug("listen for signals").because(e);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        for round in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if round == 0 {
                tracing::warn!("stopping and cleaning up; a second signal stops at once");
                cancelled.cancel();
            }
        }
        std::process::exit(i32::from(crate::error::ErrorKind::Cancelled.exit_code()));
    })
}

async fn run(verb: Verb, context: &Context) -> Result<ExitCode> {
    match verb {
        Verb::Init(v) => v.run(context),
        Verb::Doctor(v) => v.run(context).await,
        Verb::Assess(v) => v.run(context).await,
        Verb::Keys(v) => v.run(context),
        Verb::Backup(v) => v.run(context).await,
        Verb::List(v) => v.run(context).await,
        Verb::Show(v) => v.run(context).await,
        Verb::Verify(v) => v.run(context).await,
        Verb::Restore(v) => v.run(context).await,
        Verb::Recover(v) => v.run(context).await,
        Verb::Drill(v) => v.run(context).await,
        Verb::Runs(v) => v.run(context).await,
        Verb::Report(v) => v.run(context).await,
        Verb::Serve(v) => v.run(context).await,
        Verb::Demo(v) => v.run(context).await,
        Verb::Catalog(v) => v.run(context).await,
        Verb::Runbook(v) => v.run(context).await,
        Verb::Completions(v) => v.run(context),
    }
}
