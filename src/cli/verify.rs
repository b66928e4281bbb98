//! `lifeboat verify`: reads stored backups back.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::Table;
use super::progress::Bars;
use crate::catalog::BackupQuery;
use crate::domain::id::{BackupId, SystemName};
use crate::domain::verification::Verification;
use crate::error::{ErrorKind, Result};
use crate::operation::verify::{Depth, verify_backup};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat verify 20261121-143007-0000007f
  lifeboat verify --all --deep       decrypt and decompress everything too (needs the secret key)")]
pub struct Verify {
    backups: Vec<BackupId>,
    #[arg(long)]
    all: bool,
    /// Only backups of this system.
    #[arg(long)]
    system: Option<SystemName>,
    #[command(flatten)]
    depth: Deep,
}

#[derive(Debug, Args)]
struct Deep {
    /// Also decrypt and decompress, to nothing.
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, Serialize)]
struct Verified {
    backup: BackupId,
    green: bool,
    verification: Verification,
}

impl Verify {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open()?;
        let backups = if self.backups.is_empty() || self.all {
            let query =
                BackupQuery { system: self.system.clone(), limit: if self.all { None } else { Some(1) } };
            node.catalog.backups(&query).await?.into_iter().map(|r| r.manifest.id).collect()
        } else {
            self.backups.clone()
        };
        let depth = if self.depth.deep { Depth::Decoded } else { Depth::Stored };
        let bars = Bars::new(&node.workers);
        let mut all = Vec::new();
        for backup in backups {
            let job = context.job.fresh_child();
            let _bar = bars.watch(backup.as_str(), &job);
            let verification = verify_backup(&node, &backup, depth, &job).await?;
            all.push(Verified { green: !verification.is_red(), backup, verification });
        }
        context.output.show(&serde_json::json!({ "verified": all }), |_| render(&all))?;
        let red = all.iter().any(|v| !v.green);
        Ok(if red { ExitCode::from(ErrorKind::Corrupt.exit_code()) } else { ExitCode::SUCCESS })
    }
}

fn render(all: &[Verified]) -> String {
    if all.is_empty() {
        return "no backups to verify".to_owned();
    }
    let mut table = Table::new(["BACKUP", "RESULT", "CHECKS", "FINDINGS"]);
    for v in all {
        let findings: Vec<String> = v
            .verification
            .failures()
            .map(|c| format!("{}: expected {}, found {}", c.name, c.expected, c.actual))
            .collect();
        let result = if v.green { "green" } else { "RED" };
        table.row([
            v.backup.to_string(),
            result.to_owned(),
            v.verification.checks.len().to_string(),
            findings.join("; "),
        ]);
    }
    table.render()
}
