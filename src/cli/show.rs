//! `lifeboat show BACKUP`: everything about one backup.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use super::Context;
use super::output::show_time;
use crate::catalog::BackupRecord;
use crate::config::size::show_bytes;
use crate::domain::id::BackupId;
use crate::error::Result;
use crate::operation::chain;

#[derive(Debug, Args)]
pub struct Show {
    backup: BackupId,
}

impl Show {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open()?;
        let record = node.catalog.backup(&self.backup).await?;
        let chain = chain::chain_of(&node, &self.backup).await;
        let links: Vec<String> = match &chain {
            Ok(chain) => chain.iter().map(|r| r.manifest.id.to_string()).collect(),
            Err(error) => vec![format!("BROKEN: {error}")],
        };
        context
            .output
            .show(&serde_json::json!({ "backup": record, "chain": links }), |_| render(&record, &links))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn render(record: &BackupRecord, chain: &[String]) -> String {
    let m = &record.manifest;
    let mut text = format!(
        "{} {} of {} ({} {}, {})\nstate       {}\ntaken       {} to {}\nposition    {} to {}\n",
        m.kind,
        m.id,
        m.system,
        m.engine,
        m.captured.server_version,
        m.captured.method,
        record.state,
        show_time(m.started_at),
        show_time(m.finished_at),
        m.captured.position.start.as_deref().unwrap_or("-"),
        m.captured.position.end,
    );
    let mut line = |name: &str, value: String| {
        let _infallible = writeln!(text, "{name:11} {value}");
    };
    line(
        "watermark",
        m.captured
            .watermark
            .map_or_else(|| "unknown".to_owned(), |w| format!("{} ({:?})", show_time(w.at), w.source)),
    );
    line("size", format!("{} raw, {} stored", show_bytes(m.raw_bytes()), show_bytes(m.stored_bytes())));
    line(
        "fingerprint",
        format!(
            "{} {} in {} items",
            m.captured.fingerprint.total(),
            m.captured.fingerprint.unit,
            m.captured.fingerprint.items.len()
        ),
    );
    line("chain", chain.join(" -> "));
    line(
        "at",
        record.destinations.iter().map(|d| format!("{d}:{}", m.prefix())).collect::<Vec<_>>().join(", "),
    );
    line(
        "proof",
        record.proof.as_ref().map_or_else(
            || "never restored".to_owned(),
            |p| format!("{} {} on {} in run {}", p.level, p.verdict, show_time(p.at), p.run),
        ),
    );
    for note in &m.captured.notes {
        line("note", note.clone());
    }
    for artifact in &m.artifacts {
        line(
            "artifact",
            format!(
                "{} {} in {} segments",
                artifact.name,
                show_bytes(artifact.raw_bytes),
                artifact.segments.len()
            ),
        );
    }
    text
}
