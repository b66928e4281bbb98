//! `lifeboat runbook`: list and show runbooks and scenarios.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Context;
use super::output::Table;
use crate::config::Config;
use crate::domain::id::RunbookName;
use crate::error::Result;
use crate::operation::{host, library};
use crate::runbook::problem::as_error;
use crate::runbook::show::runbook_text;
use crate::system::registry::registry;

#[derive(Debug, Args)]
pub struct Runbook {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runbooks and scenarios that are known.
    List,
    /// A runbook as a page that a person can follow by hand.
    Show { name: RunbookName },
    /// Check every runbook and scenario, with the configured systems.
    Check,
}

impl Runbook {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let config = Config::load(&context.config, &registry())?;
        let library = library::load(&config)?;
        if matches!(self.verb, Verb::Check) {
            let problems = library.check_systems(&host::configured_systems(&config));
            if !problems.is_empty() {
                return Err(as_error("use the runbooks and scenarios", &problems));
            }
        }
        match self.verb {
            Verb::List | Verb::Check => {
                let runbooks: BTreeMap<_, _> =
                    library.runbooks.iter().map(|(n, r)| (n.to_string(), r.title.clone())).collect();
                let scenarios: BTreeMap<_, _> =
                    library.scenarios.iter().map(|(n, s)| (n.to_string(), s.title.clone())).collect();
                let warnings: Vec<String> = library.warnings.iter().map(ToString::to_string).collect();
                let value =
                    serde_json::json!({ "runbooks": runbooks, "scenarios": scenarios, "warnings": warnings });
                context.output.show(&value, |_| {
                    let mut table = Table::new(["WHAT", "NAME", "TITLE"]);
                    for (name, title) in &scenarios {
                        table.row(["scenario", name, title]);
                    }
                    for (name, title) in &runbooks {
                        table.row(["runbook", name, title]);
                    }
                    format!("{}{}", table.render(), warnings.join("\n"))
                })?;
            }
            Verb::Show { name } => {
                let runbook = library.runbook(&name)?;
                let text = runbook_text(runbook, &BTreeMap::new());
                context.output.show(&serde_json::json!({ "name": name, "text": text }), |_| text.clone())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
