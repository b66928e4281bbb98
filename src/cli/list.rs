//! `lifeboat list`: the backups that the catalog knows.

use std::process::ExitCode;

use super::Context;
use super::output::{Table, show_time};
use crate::catalog::BackupQuery;
use crate::config::size::show_bytes;
use crate::domain::id::{DestinationName, SystemName};
use crate::error::Result;
use crate::operation::view::{BackupLine, backups};
use clap::Args;

#[derive(Debug, Args)]
pub struct List {
    system: Option<SystemName>,
    /// Newest first, at most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

impl List {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open()?;
        if let Some(system) = &self.system {
            node.system(system)?;
        }
        let query = BackupQuery { system: self.system, limit: Some(self.limit) };
        let lines = backups(&node, &query).await?;
        context.output.show(&serde_json::json!({ "backups": lines }), |_| render(&lines))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn render(lines: &[BackupLine]) -> String {
    if lines.is_empty() {
        return "no backups; take one with `lifeboat backup --all`, or find stored ones with `lifeboat catalog rebuild`".to_owned();
    }
    let mut table =
        Table::new(["BACKUP", "SYSTEM", "KIND", "STATE", "TAKEN", "RAW", "STORED", "WHERE", "PROVEN"]);
    for l in lines {
        let places: Vec<&str> = l.destinations.iter().map(DestinationName::as_str).collect();
        table.row([
            l.id.to_string(),
            l.system.to_string(),
            l.kind.to_string(),
            l.state.to_string(),
            show_time(l.started_at),
            show_bytes(l.raw_bytes),
            show_bytes(l.stored_bytes),
            places.join(","),
            l.proven.map_or_else(|| "-".to_owned(), |p| p.to_string()),
        ]);
    }
    table.render()
}
