//! A scenario: a disaster, its objectives, its recovery line, and the runbooks that answer it. Schema
//! `lifeboat.scenario/1`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{RunbookName, ScenarioName, SystemName};
use crate::runbook::model::{Need, read_schema};
use crate::runbook::plan::{PARALLEL_DEFAULT, RecoveryLine};
use crate::runbook::problem::Problems;
use crate::runbook::yaml::{self, At, Fields};

pub const SCHEMA: &str = "lifeboat.scenario/1";
const PARALLEL_MAX: u32 = 64;
const PRIORITY_MAX: u32 = 1000;
const PRIORITY_DEFAULT: u32 = 100;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub file: String,
    pub name: ScenarioName,
    pub title: String,
    pub why: String,
    /// Kinds of system whose loss this scenario is about.
    pub kinds: BTreeSet<String>,
    pub objectives: Aims,
    pub recovery_line: RecoveryLine,
    pub parallel: u32,
    pub answers: Vec<Answer>,
}

/// Objectives of a scenario; what it does not say comes from the systems' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aims {
    pub level: EvidenceLevel,
    pub rto: Option<Duration>,
    pub rpo: RpoAim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpoAim {
    /// Each system's own objective.
    PerSystem,
    /// Any loss is accepted, and still reported.
    Any,
    Within(Duration),
}

/// One runbook for the systems of one kind, or for one system.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub line: u64,
    /// The runbook's name unless given.
    pub id: String,
    pub runbook: RunbookName,
    pub of: Target,
    /// Lower goes first when more steps are ready than may run at once.
    pub priority: u32,
    /// Kinds or ids of answers whose required steps must be done first.
    pub after: Vec<String>,
    pub need: Need,
    /// Inputs of the runbook besides the system.
    pub with: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Kind(String),
    System(SystemName),
}

impl Target {
    pub fn describe(&self) -> String {
        match self {
            Self::Kind(kind) => format!("systems of kind {kind}"),
            Self::System(name) => format!("system {name}"),
        }
    }
}

impl Scenario {
    /// Reads one file. All problems go to `problems`; a scenario with any must not be used.
    pub fn parse(file: &str, text: &str, problems: &mut Problems) -> Option<Self> {
        let node = yaml::parse(text, problems)?;
        let root = At { path: String::new(), node: &node };
        let mut fields = root.fields(problems)?;
        read_schema(&mut fields, SCHEMA, problems);
        let name = fields.require("name", problems).and_then(|a| a.parse(problems));
        let title = fields.require("title", problems).and_then(|a| a.text(problems));
        let why = fields.require("why", problems).and_then(|a| a.text(problems));
        let kinds = fields.take("match").and_then(|a| read_match(&a, problems));
        let objectives = read_aims(&mut fields, problems);
        let recovery_line = read_line(&mut fields, problems);
        let parallel = fields.take("parallel").and_then(|a| a.whole(1..=PARALLEL_MAX, problems));
        let answers: Vec<Answer> = match fields.require("answers", problems) {
            Some(at) => {
                let items = at.items(problems);
                items.iter().filter_map(|i| Answer::parse(i, problems)).collect()
            }
            None => Vec::new(),
        };
        fields.finish(problems);
        check_answers(&answers, problems);
        let answered = answers.iter().filter_map(|a| match &a.of {
            Target::Kind(kind) => Some(kind.clone()),
            Target::System(_) => None,
        });
        Some(Self {
            file: file.to_owned(),
            name: name?,
            title: title?,
            why: why?,
            kinds: kinds.unwrap_or_else(|| answered.collect()),
            objectives,
            recovery_line,
            parallel: parallel.unwrap_or(PARALLEL_DEFAULT),
            answers,
        })
    }
}

impl Answer {
    fn parse(at: &At<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(problems)?;
        let line = fields.line();
        let runbook: Option<RunbookName> =
            fields.require("runbook", problems).and_then(|a| a.parse(problems));
        let id = fields.take("id").and_then(|a| a.text(problems));
        let of = fields.require("for", problems).and_then(|a| read_target(&a, problems));
        let priority = fields.take("priority").and_then(|a| a.whole(0..=PRIORITY_MAX, problems));
        let after = fields.take("after").map(|a| a.texts(problems));
        let optional = fields.take("optional").and_then(|a| a.truth(problems));
        let mut with = BTreeMap::new();
        if let Some(mut given) = fields.take("with").and_then(|a| a.fields(problems)) {
            for (name, value) in given.entries() {
                with.extend(value.text(problems).map(|v| (name.to_owned(), v)));
            }
        }
        fields.finish(problems);
        let runbook = runbook?;
        Some(Self {
            line,
            id: id.unwrap_or_else(|| runbook.to_string()),
            runbook,
            of: of?,
            priority: priority.unwrap_or(PRIORITY_DEFAULT),
            after: after.unwrap_or_default(),
            need: if optional == Some(true) { Need::Optional } else { Need::Required },
            with,
        })
    }
}

fn read_match(at: &At<'_>, problems: &mut Problems) -> Option<BTreeSet<String>> {
    let mut fields = at.fields(problems)?;
    let kinds = fields.require("kinds", problems).map(|a| a.texts(problems).into_iter().collect());
    fields.finish(problems);
    kinds
}

fn read_target(at: &At<'_>, problems: &mut Problems) -> Option<Target> {
    let mut fields = at.fields(problems)?;
    let kind = fields.take("kind").and_then(|a| a.text(problems));
    let system = fields.take("system").and_then(|a| a.parse(problems));
    fields.finish(problems);
    match (kind, system) {
        (Some(kind), None) => Some(Target::Kind(kind)),
        (None, Some(system)) => Some(Target::System(system)),
        (Some(_), Some(_)) | (None, None) => {
            at.problem(problems, "write either `kind: KIND` or `system: NAME`");
            None
        }
    }
}

fn read_aims(fields: &mut Fields<'_>, problems: &mut Problems) -> Aims {
    let mut aims = Aims { level: EvidenceLevel::E4, rto: None, rpo: RpoAim::PerSystem };
    let Some(mut fields) = fields.take("objectives").and_then(|a| a.fields(problems)) else {
        return aims;
    };
    // a level without a content check could never be a PASS: it is not offered
    let levels = [
        ("E4", EvidenceLevel::E4),
        ("E5", EvidenceLevel::E5),
        ("E6", EvidenceLevel::E6),
        ("E7", EvidenceLevel::E7),
    ];
    if let Some(level) = fields.take("level").and_then(|a| a.choice(&levels, problems)) {
        aims.level = level;
    }
    aims.rto = fields.take("rto").and_then(|a| a.duration(problems));
    if let Some(at) = fields.take("rpo") {
        aims.rpo = match at.text(problems).as_deref() {
            Some("any") => RpoAim::Any,
            Some(_) => at.duration(problems).map_or(RpoAim::PerSystem, RpoAim::Within),
            None => RpoAim::PerSystem,
        };
    }
    fields.finish(problems);
    aims
}

fn read_line(fields: &mut Fields<'_>, problems: &mut Problems) -> RecoveryLine {
    let mut line = RecoveryLine::LatestEach;
    let Some(mut fields) = fields.take("recovery_line").and_then(|a| a.fields(problems)) else {
        return line;
    };
    if let Some(at) = fields.require("policy", problems) {
        match at.text(problems).as_deref() {
            Some("latest_each") => line = RecoveryLine::LatestEach,
            Some("common_time") => line = RecoveryLine::CommonTime,
            Some(policy @ ("barrier" | "anchor")) => at.problem(
                problems,
                format!("the policy `{policy}` is not supported yet; use latest_each or common_time"),
            ),
            Some(other) => at.problem(
                problems,
                format!("`{other}` is not a recovery line policy; use latest_each or common_time"),
            ),
            None => {}
        }
    }
    fields.finish(problems);
    line
}

/// Ids are unique, and `after` names a kind that is answered or an answer.
fn check_answers(answers: &[Answer], problems: &mut Problems) {
    let mut ids = BTreeSet::new();
    for (n, answer) in answers.iter().enumerate() {
        let id_given_twice = !ids.insert(&answer.id);
        let same_target = answers[..n].iter().any(|a| a.id == answer.id && a.of == answer.of);
        if id_given_twice && same_target {
            problems.add(
                Some(answer.line),
                format!("answers[{n}]"),
                format!("`{}` answers for {} twice", answer.runbook, answer.of.describe()),
            );
        }
        for name in &answer.after {
            let known =
                answers.iter().any(|a| &a.id == name || matches!(&a.of, Target::Kind(kind) if kind == name));
            if !known {
                problems.add(
                    Some(answer.line),
                    format!("answers[{n}].after"),
                    format!("`{name}` is neither a kind that is answered here nor the id of an answer"),
                );
            }
        }
    }
}
