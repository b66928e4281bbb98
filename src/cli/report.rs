//! `lifeboat report RUN`: the report of a recovery or drill, written again from the catalog.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Context;
use crate::domain::id::RunId;
use crate::error::Result;
use crate::evidence::report::write;
use crate::operation::recover::report_of;

#[derive(Debug, Args)]
pub struct Report {
    run: RunId,
    /// Directory to write HTML and JSON into. Default: {state_dir}/reports.
    #[arg(long)]
    to: Option<PathBuf>,
}

impl Report {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open()?;
        let report = report_of(&node, &self.run).await?;
        let files = write(&report, &self.to.unwrap_or_else(|| node.reports_dir()))?;
        context.output.show(&report, |r| {
            let shown: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            format!("{} {}: {}\n{}", r.run, r.title, r.verdict, shown.join("\n"))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
