//! `lifeboat doctor`: what is missing on this machine for what the config asks, and how to get it.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;
use crate::runtime::process::find_program;
use crate::system::HealthState;

#[derive(Debug, Args)]
pub struct Doctor {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    Good,
    /// Something is less than it could be.
    Warn,
    /// Something the config asks for cannot work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    subject: String,
    grade: Grade,
    found: String,
    way_out: Option<String>,
}

impl Finding {
    fn new(subject: impl Into<String>, grade: Grade, found: impl Into<String>) -> Self {
        Self { subject: subject.into(), grade, found: found.into(), way_out: None }
    }

    fn of_error(subject: impl Into<String>, error: &Error) -> Self {
        Self {
            way_out: error.advice().map(str::to_owned),
            ..Self::new(subject, Grade::Bad, error.to_string())
        }
    }
}

impl Doctor {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open()?;
        let mut findings = keys(&node);
        findings.push(setpriv());
        findings.extend(destinations(&node, context).await);
        findings.extend(systems(&node, context).await);
        findings.extend(leases(&node).await?);
        context.output.show(&serde_json::json!({ "findings": findings }), |_| render(&findings))?;
        let bad = findings.iter().any(|f| f.grade == Grade::Bad);
        Ok(if bad { ExitCode::from(ErrorKind::Unsupported.exit_code()) } else { ExitCode::SUCCESS })
    }
}

fn keys(node: &Node) -> Vec<Finding> {
    let one = |subject: &str, result: Result<()>| match result {
        Ok(()) => Finding::new(subject, Grade::Good, "readable"),
        Err(error) => Finding::of_error(subject, &error),
    };
    let mut all = vec![
        one("keys: recipients", node.recipients().map(drop)),
        one("keys: signing key", node.signing_key().map(drop)),
        one("keys: trusted signers", node.trusted().map(drop)),
    ];
    all.push(match node.identities() {
        Ok(_) => Finding::new("keys: identity", Grade::Good, "readable: this machine can restore"),
        Err(error) => Finding { grade: Grade::Warn, ..Finding::of_error("keys: identity", &error) },
    });
    all
}

fn setpriv() -> Finding {
    match find_program("setpriv", &[]) {
        Some(path) => Finding::new("program setpriv", Grade::Good, path.display().to_string()),
        None => Finding {
            way_out: Some("apt-get install util-linux".to_owned()),
            ..Finding::new("program setpriv", Grade::Warn, "missing: helpers may outlive a killed lifeboat")
        },
    }
}

async fn destinations(node: &Node, context: &Context) -> Vec<Finding> {
    let mut all = Vec::new();
    for (name, storage) in &node.storages {
        let subject = format!("destination {name}");
        let listed =
            context.job.run("list destination", storage.list("lifeboat-doctor/", &context.job)).await;
        let free = storage.free_bytes(&context.job).await.ok().flatten();
        all.push(match listed {
            Ok(_) => {
                let free = free
                    .map_or_else(String::new, |b| format!(", {} free", crate::config::size::show_bytes(b)));
                Finding::new(subject, Grade::Good, format!("{}{free}", storage.location()))
            }
            Err(error) => Finding::of_error(subject, &error),
        });
    }
    all
}

async fn systems(node: &Node, context: &Context) -> Vec<Finding> {
    let mut all = Vec::new();
    for (name, system) in &node.systems {
        let subject = format!("system {name}");
        match system.probe(&context.job).await {
            Ok(health) => {
                let grade = match health.state {
                    HealthState::Healthy => Grade::Good,
                    HealthState::Degraded => Grade::Warn,
                    HealthState::Down => Grade::Bad,
                };
                all.push(Finding::new(&subject, grade, health.summary));
                all.extend(health.findings.into_iter().map(|f| Finding::new(&subject, Grade::Warn, f)));
            }
            Err(error) => all.push(Finding::of_error(&subject, &error)),
        }
        if let Some(sandboxing) = system.sandboxing()
            && let Err(error) = sandboxing.programs()
        {
            all.push(Finding {
                grade: Grade::Warn,
                ..Finding::of_error(format!("{subject}: sandbox"), &error)
            });
        }
    }
    all
}

async fn leases(node: &Node) -> Result<Vec<Finding>> {
    let held = node.catalog.leases().await?;
    Ok(held
        .iter()
        .map(|h| {
            let known = node.systems.contains_key(&h.lease.system);
            let grade = if known { Grade::Good } else { Grade::Warn };
            let text =
                format!("{} {} held on {} since {}", h.lease.kind, h.lease.name, h.lease.system, h.since);
            let way_out = (!known)
                .then(|| format!("the system is no longer configured: drop {} on its server", h.lease.name));
            Finding { way_out, ..Finding::new("lease", grade, text) }
        })
        .collect())
}

fn render(findings: &[Finding]) -> String {
    let mut table = Table::new(["", "WHAT", "FOUND", "WAY OUT"]);
    for f in findings {
        let mark = match f.grade {
            Grade::Good => "ok",
            Grade::Warn => "!",
            Grade::Bad => "X",
        };
        table.row([
            mark.to_owned(),
            f.subject.clone(),
            f.found.clone(),
            f.way_out.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}
