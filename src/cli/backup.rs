//! `lifeboat backup`: takes backups of one, several or all systems, side by side.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Context;
use super::output::{Table, show_seconds};
use super::progress::Bars;
use crate::catalog::BackupRecord;
use crate::config::VerifyAfterBackup;
use crate::config::size::show_bytes;
use crate::domain::backup::BackupKind;
use crate::domain::id::{DestinationName, SystemName};
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Node, backup};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat backup orders                      full backup of one system
  lifeboat backup --all --kind incremental    what changed since the last one, everywhere
  lifeboat backup orders --no-verify          do not read the stored bytes back (the point stays STORED)")]
pub struct Backup {
    systems: Vec<SystemName>,
    /// Every configured system.
    #[arg(long, conflicts_with = "systems")]
    all: bool,
    #[arg(long, value_enum, default_value_t = Kind::Full)]
    kind: Kind,
    /// Where to, instead of the system's own destination.
    #[arg(long)]
    destination: Option<DestinationName>,
    #[command(flatten)]
    verify: Verify,
}

#[derive(Debug, Args)]
struct Verify {
    /// Do not read stored segments back.
    #[arg(long)]
    no_verify: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    Full,
    Incremental,
    Differential,
}

impl From<Kind> for BackupKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Full => Self::Full,
            Kind::Incremental => Self::Incremental,
            Kind::Differential => Self::Differential,
        }
    }
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Taken {
    system: SystemName,
    backup: Option<String>,
    kind: Option<BackupKind>,
    state: Option<&'static str>,
    raw_bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    items: u64,
    unit: String,
    notes: Vec<String>,
    error: Option<String>,
    hint: Option<String>,
}

impl Backup {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open_swept().await?;
        let systems = self.chosen(&node)?;
        let bars = Bars::new(&node.workers);
        let work = systems.iter().map(|system| self.one(&node, system, &bars, context));
        let results = futures_util::future::join_all(work).await;
        let mut first_error: Option<ErrorKind> = None;
        let taken: Vec<Taken> = systems
            .iter()
            .zip(results)
            .map(|(system, result)| match result {
                Ok(record) => done(&record),
                Err(error) => {
                    first_error.get_or_insert(error.kind());
                    failed(system, &error)
                }
            })
            .collect();
        context.output.show(&serde_json::json!({ "backups": taken }), |_| render(&taken))?;
        Ok(first_error.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(kind.exit_code())))
    }

    fn chosen(&self, node: &Node) -> Result<Vec<SystemName>> {
        if self.all {
            return Ok(node.systems.keys().cloned().collect());
        }
        if self.systems.is_empty() {
            return Err(Error::new(ErrorKind::Config, "back up nothing").hint("name a system, or say --all"));
        }
        self.systems.iter().map(|name| node.system(name).map(|_| name.clone())).collect()
    }

    async fn one(
        &self,
        node: &Node,
        system: &SystemName,
        bars: &Bars,
        context: &Context,
    ) -> Result<BackupRecord> {
        let job = context.job.fresh_child();
        let _bar = bars.watch(system.as_str(), &job);
        let verify = if self.verify.no_verify {
            VerifyAfterBackup::No
        } else {
            node.config.pipeline.verify_after_backup
        };
        let order = backup::Order {
            run: node.new_run_id(),
            system: system.clone(),
            kind: self.kind.into(),
            tier: None,
            destination: self.destination.clone(),
            verify,
            reason: "asked for on the command line".to_owned(),
        };
        backup::take(node, &order, &job).await
    }
}

fn done(record: &BackupRecord) -> Taken {
    let m = &record.manifest;
    Taken {
        system: m.system.clone(),
        backup: Some(m.id.to_string()),
        kind: Some(m.kind),
        state: Some(record.state.as_str()),
        raw_bytes: m.raw_bytes(),
        stored_bytes: m.stored_bytes(),
        seconds: (m.finished_at - m.started_at).as_seconds_f64(),
        items: m.captured.fingerprint.total(),
        unit: m.captured.fingerprint.unit.clone(),
        notes: m.captured.notes.clone(),
        error: None,
        hint: None,
    }
}

fn failed(system: &SystemName, error: &Error) -> Taken {
    Taken {
        system: system.clone(),
        backup: None,
        kind: None,
        state: None,
        raw_bytes: 0,
        stored_bytes: 0,
        seconds: 0.0,
        items: 0,
        unit: String::new(),
        notes: Vec::new(),
        error: Some(error.to_string()),
        hint: error.advice().map(str::to_owned),
    }
}

fn render(taken: &[Taken]) -> String {
    let mut table = Table::new(["SYSTEM", "BACKUP", "KIND", "STATE", "RAW", "STORED", "TOOK", "FINGERPRINT"]);
    for t in taken.iter().filter(|t| t.error.is_none()) {
        table.row([
            t.system.to_string(),
            t.backup.clone().unwrap_or_default(),
            t.kind.map(|k| k.to_string()).unwrap_or_default(),
            t.state.unwrap_or_default().to_owned(),
            show_bytes(t.raw_bytes),
            show_bytes(t.stored_bytes),
            show_seconds(t.seconds),
            format!("{} {}", t.items, t.unit),
        ]);
    }
    let mut text = if taken.iter().any(|t| t.error.is_none()) { table.render() } else { String::new() };
    for t in taken {
        for note in &t.notes {
            text.push_str(&format!("  {}: {note}\n", t.system));
        }
        if let Some(error) = &t.error {
            text.push_str(&format!("FAILED {}: {error}\n", t.system));
        }
        if let Some(hint) = &t.hint {
            text.push_str(&format!("  try: {hint}\n"));
        }
    }
    text
}
