//! The report of a recovery or drill, as JSON and as one self-contained HTML file. Every field is derived; none is set by hand.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{RunId, ScenarioName};
use crate::error::{Error, IoContext, Result};
use crate::runbook::execute::{Execution, StepReport};
use crate::runbook::model::Mode;
use crate::runbook::plan::{LeftOut, Plan};
use crate::scenario::measure::{Events, Measurement};

const PAGE: &str = include_str!("report.html");
pub const SCHEMA: &str = "lifeboat.report/1";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub run: RunId,
    pub scenario: Option<ScenarioName>,
    pub title: String,
    pub mode: Mode,
    pub verdict: Verdict,
    pub level: Option<EvidenceLevel>,
    pub level_required: EvidenceLevel,
    pub reason: String,
    pub lifeboat_version: String,
    pub plan_digest: String,
    pub events: Events,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub measurement: Measurement,
    pub systems: Vec<SystemEvidence>,
    pub steps: Vec<StepReport>,
    pub left_out: Vec<LeftOut>,
    pub notes: Vec<String>,
}

/// What was seen of one system, check by check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemEvidence {
    pub name: crate::domain::id::SystemName,
    pub backup: Option<crate::domain::id::BackupId>,
    pub checks: Vec<crate::domain::verification::Check>,
}

impl Report {
    pub fn new(
        run: &RunId,
        plan: &Plan,
        events: &Events,
        execution: &Execution,
        measurement: &Measurement,
        reason: &str,
    ) -> Self {
        let system = |s: &crate::runbook::execute::SystemReport| SystemEvidence {
            name: s.name.clone(),
            backup: plan.point(&s.name).map(|p| p.backup.clone()),
            checks: s.verification.checks.clone(),
        };
        Self {
            schema: SCHEMA.to_owned(),
            run: run.clone(),
            scenario: plan.scenario.clone(),
            title: plan.title.clone(),
            mode: plan.mode,
            verdict: measurement.verdict,
            level: measurement.level,
            level_required: plan.level,
            reason: reason.to_owned(),
            lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
            plan_digest: plan.digest.clone(),
            events: *events,
            started_at: execution.started_at,
            ended_at: execution.ended_at,
            measurement: measurement.clone(),
            systems: execution.systems.iter().map(system).collect(),
            steps: execution.steps.clone(),
            left_out: plan.left_out.clone(),
            notes: execution.notes.clone(),
        }
    }
}

/// Self-contained: no script, no request anywhere.
pub fn html(report: &Report) -> Result<String> {
    let broken = |e: minijinja::Error| Error::bug("render report").because(e);
    let mut environment = Environment::new();
    environment.add_filter("secs", seconds);
    environment.add_filter("when", when);
    environment.add_template("report.html", PAGE).map_err(broken)?;
    let page = environment.get_template("report.html").map_err(broken)?;
    let meaning = report.level.map(EvidenceLevel::meaning);
    page.render(context! { r => Value::from(Serde(report)), meaning }).map_err(broken)
}

fn seconds(value: Option<f64>) -> String {
    match value {
        None => "unknown".to_owned(),
        Some(s) if s < 120.0 => format!("{s:.1} s"),
        Some(s) if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        Some(s) => format!("{:.1} h", s / 3_600.0),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the template engine hands values over")]
fn when(value: Option<String>) -> String {
    let parsed = value.as_deref().and_then(|v| v.parse::<Timestamp>().ok());
    parsed.map_or_else(|| "-".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S%.3fZ").to_string())
}

/// Writes `{run}.html` and `{run}.json` into `dir`.
pub fn write(report: &Report, dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).or_io("make directory", dir)?;
    let json =
        serde_json::to_string_pretty(report).map_err(|e| Error::bug("write report as json").because(e))?;
    let mut written = Vec::new();
    for (suffix, text) in [("html", html(report)?), ("json", json)] {
        let path = dir.join(format!("{}.{suffix}", report.run));
        let aside = path.with_extension(format!("{suffix}.writing"));
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .or_io("write report", &aside)?;
        file.write_all(text.as_bytes()).or_io("write report", &aside)?;
        std::fs::rename(&aside, &path).or_io("write report", &path)?;
        written.push(path);
    }
    Ok(written)
}
