//! `lifeboat restore`: one backup into a directory, or in place.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Context;
use super::progress::Bars;
use crate::config::size::show_bytes;
use crate::domain::id::{BackupId, SystemName};
use crate::domain::place::Place;
use crate::domain::restore::{Existing, Restored, Selection};
use crate::error::{Error, ErrorKind, Result};
use crate::operation::restore::{Order, Planned, Safety, plan, restore};
use crate::operation::{Node, chain};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat restore --system orders --to /tmp/orders      newest point, as files
  lifeboat restore 20261121-143007-0000007f --to /tmp/x --only 'public.customers'
  lifeboat restore --system orders --in-place --overwrite")]
pub struct Restore {
    backup: Option<BackupId>,
    /// The newest point of this system.
    #[arg(long, conflicts_with = "backup", required_unless_present = "backup")]
    system: Option<SystemName>,
    /// Restore into this directory.
    #[arg(long, conflicts_with = "in_place", required_unless_present = "in_place")]
    to: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    /// Only names that match: tables `schema.table`, keys, paths. May be given several times.
    #[arg(long)]
    only: Vec<String>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Flags {
    /// Restore into the configured system itself.
    #[arg(long)]
    in_place: bool,
    /// Replace what is at the target.
    #[arg(long)]
    overwrite: bool,
    /// Do not back up what an in-place restore overwrites.
    #[arg(long)]
    no_safety_backup: bool,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct PlanView {
    system: SystemName,
    backup: BackupId,
    actions: Vec<String>,
    bytes: u64,
    free_bytes: Option<u64>,
    missing: Vec<String>,
    unknown: Vec<String>,
}

impl Restore {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = if self.flags.dry_run { context.open()? } else { context.open_swept().await? };
        let order = self.order(&node).await?;
        if self.flags.dry_run {
            let view = view(&order, plan(&node, &order, &context.job).await?);
            context.output.show(&view, render_plan)?;
            let possible = view.missing.is_empty();
            return Ok(if possible {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(ErrorKind::Conflict.exit_code())
            });
        }
        let bars = Bars::new(&node.workers);
        let _bar = bars.watch("restore", &context.job);
        let restored = restore(&node, &order, &context.job).await?;
        context.output.show(&restored, |r| render(r, &order))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn order(&self, node: &Node) -> Result<Order> {
        let backup = match (&self.backup, &self.system) {
            (Some(backup), _) => backup.clone(),
            (None, Some(system)) => {
                node.system(system)?;
                let newest = chain::newest_point(node, system)
                    .await?
                    .and_then(|c| c.last().map(|r| r.manifest.id.clone()));
                newest.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "find a usable backup")
                        .with("system", system)
                        .hint("see `lifeboat list`, or `lifeboat catalog rebuild`")
                })?
            }
            (None, None) => {
                return Err(
                    Error::new(ErrorKind::Config, "restore nothing").hint("name a backup or --system")
                );
            }
        };
        let place = match &self.to {
            Some(path) => {
                let path = std::path::absolute(path)
                    .map_err(|e| Error::new(ErrorKind::Config, "use target").because(e))?;
                Place::Directory { path }
            }
            None => Place::Production,
        };
        Ok(Order {
            run: node.new_run_id(),
            backup,
            place,
            existing: if self.flags.overwrite { Existing::Replace } else { Existing::Refuse },
            safety: if self.flags.no_safety_backup { Safety::Waived } else { Safety::BackupFirst },
            selection: Selection { patterns: self.only.clone() },
        })
    }
}

fn view(order: &Order, planned: Planned) -> PlanView {
    PlanView {
        system: planned.system,
        backup: order.backup.clone(),
        actions: planned.plan.actions,
        bytes: planned.plan.bytes,
        free_bytes: planned.plan.free_bytes,
        missing: planned.plan.missing,
        unknown: planned.plan.unknown,
    }
}

fn render_plan(view: &PlanView) -> String {
    let free = view.free_bytes.map_or_else(|| "UNKNOWN".to_owned(), show_bytes);
    let mut text = format!(
        "would restore {} of {}: {}, free {free}\n",
        view.backup,
        view.system,
        show_bytes(view.bytes)
    );
    let lists = [("do", &view.actions), ("MISSING", &view.missing), ("UNKNOWN", &view.unknown)];
    for (name, lines) in lists {
        for line in lines {
            let _infallible = writeln!(text, "  {name:8} {line}");
        }
    }
    text
}

fn render(restored: &Restored, order: &Order) -> String {
    let mut text = format!(
        "restored {} into {}: {} items, {}\n",
        order.backup,
        order.place.describe(),
        restored.items,
        show_bytes(restored.bytes)
    );
    for phase in &restored.phases {
        let _infallible = writeln!(text, "  {:10} {:.1} s", phase.name, phase.took.as_secs_f64());
    }
    for note in &restored.notes {
        let _infallible = writeln!(text, "  note: {note}");
    }
    text
}
