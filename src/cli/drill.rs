//! `lifeboat drill`: a scenario in sandboxes, measured, torn down.

use std::process::ExitCode;

use clap::Args;

use super::Context;
use super::recover::{Common, Live, finish, show_plan};
use crate::domain::id::ScenarioName;
use crate::error::Result;
use crate::operation::recover::{Order, plan, start};
use crate::operation::restore::Safety;
use crate::runbook::model::Mode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat drill full-disaster
  lifeboat drill database-failure --only orders --json")]
pub struct Drill {
    scenario: ScenarioName,
    #[command(flatten)]
    common: Common,
    /// Show the plan; change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Drill {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = if self.dry_run { context.open()? } else { context.open_swept().await? };
        let order = Order {
            run: node.new_run_id(),
            scenario: self.scenario,
            mode: Mode::Drill,
            only: self.common.only(),
            inputs: self.common.inputs(),
            fault_at: None,
            reason: "drill".to_owned(),
            safety: Safety::Waived,
            digest: None,
        };
        if self.dry_run {
            return show_plan(&plan(&node, &order, &context.job).await?, context);
        }
        let live = Live::new(&node, context);
        let outcome = start(&node, &order, Some(live.observer()), &context.job).await?;
        drop(live);
        finish(&outcome, context)
    }
}
