//! All runbooks and scenarios of two directories, read together. Reports every problem of every file at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::model::{Answer, Scenario, Target};
use crate::domain::id::{RunbookName, ScenarioName};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runbook::fact::SystemFact;
use crate::runbook::input::{InputType, samples};
use crate::runbook::model::{Effect, Runbook, StepSpec};
use crate::runbook::problem::{Problem, Problems, as_error, nearest};
use crate::runbook::step::Action;
use crate::runbook::yaml::FILE_BYTES_MAX;

#[derive(Clone, Debug, Default)]
pub struct Library {
    pub runbooks: BTreeMap<RunbookName, Runbook>,
    pub scenarios: BTreeMap<ScenarioName, Scenario>,
    /// What is allowed and still looks wrong.
    pub warnings: Vec<Problem>,
}

impl Library {
    /// Reads every `.yaml` and `.yml` file of the two directories; one that is not there counts as empty. Blocking.
    ///
    /// Errors: `Config` with all problems of all files.
    pub fn load(runbooks: &Path, scenarios: &Path) -> Result<Self> {
        let (library, problems) = Self::read(files_of(runbooks)?, files_of(scenarios)?);
        if problems.is_empty() {
            Ok(library)
        } else {
            Err(as_error("use the runbooks and scenarios", &problems))
        }
    }

    /// The same from `(file name, text)`; gives what could be read and everything that is wrong.
    pub fn read(runbooks: Vec<(String, String)>, scenarios: Vec<(String, String)>) -> (Self, Vec<Problem>) {
        let mut library = Self::default();
        let mut found = Vec::new();
        for (file, text) in runbooks {
            let mut problems = Problems::of(&file);
            if let Some(runbook) = Runbook::parse(&file, &text, &mut problems) {
                library.add_runbook(runbook, &mut problems);
            }
            found.extend(problems.into_list());
        }
        for (file, text) in scenarios {
            let mut problems = Problems::of(&file);
            if let Some(scenario) = Scenario::parse(&file, &text, &mut problems) {
                library.check_scenario(&scenario, &mut problems);
                library.add_scenario(scenario, &mut problems);
            }
            found.extend(problems.into_list());
        }
        library.warnings = library.lint();
        (library, found)
    }

    pub fn runbook(&self, name: &RunbookName) -> Result<&Runbook> {
        self.runbooks.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.runbooks.keys().map(RunbookName::as_str).collect();
            not_there("runbook", name.as_str(), &known)
        })
    }

    pub fn scenario(&self, name: &ScenarioName) -> Result<&Scenario> {
        self.scenarios.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.scenarios.keys().map(ScenarioName::as_str).collect();
            not_there("scenario", name.as_str(), &known)
        })
    }

    /// Scenarios that answer the loss of all `lost` systems, the most specific first.
    pub fn fitting(&self, lost: &[&SystemFact]) -> Vec<&Scenario> {
        let mut fitting: Vec<&Scenario> =
            self.scenarios.values().filter(|s| lost.iter().all(|l| s.kinds.contains(&l.kind))).collect();
        fitting.sort_by_key(|s| s.kinds.len());
        fitting
    }

    /// Systems that runbooks and scenarios name and that are not configured.
    pub fn check_systems(&self, configured: &[SystemFact]) -> Vec<Problem> {
        let names: BTreeSet<&str> = configured.iter().map(|s| s.name.as_str()).collect();
        let mut found = Vec::new();
        for scenario in self.scenarios.values() {
            let mut problems = Problems::of(&scenario.file);
            for (n, answer) in scenario.answers.iter().enumerate() {
                if let Target::System(name) = &answer.of
                    && !names.contains(name.as_str())
                {
                    unknown_system(
                        Some(answer.line),
                        format!("answers[{n}].for.system"),
                        name.as_str(),
                        &names,
                        &mut problems,
                    );
                }
            }
            found.extend(problems.into_list());
        }
        for runbook in self.runbooks.values() {
            let mut problems = Problems::of(&runbook.file);
            let stand_ins: BTreeSet<String> =
                samples(&runbook.inputs).values().map(ToString::to_string).collect();
            let mut ignored = Problems::of(&runbook.file);
            for spec in runbook.steps_with(&BTreeMap::new(), &mut ignored) {
                let system = spec.action.system().map(ToString::to_string);
                if let Some(name) = system.filter(|n| !stand_ins.contains(n) && !names.contains(n.as_str())) {
                    unknown_system(
                        Some(spec.line),
                        format!("steps.{}", spec.id),
                        &name,
                        &names,
                        &mut problems,
                    );
                }
            }
            found.extend(problems.into_list());
        }
        found
    }

    fn add_runbook(&mut self, runbook: Runbook, problems: &mut Problems) {
        if let Some(first) = self.runbooks.get(&runbook.name) {
            problems.add(None, "name", format!("`{}` is the name of {} already", runbook.name, first.file));
            return;
        }
        self.runbooks.insert(runbook.name.clone(), runbook);
    }

    fn add_scenario(&mut self, scenario: Scenario, problems: &mut Problems) {
        if let Some(first) = self.scenarios.get(&scenario.name) {
            problems.add(None, "name", format!("`{}` is the name of {} already", scenario.name, first.file));
            return;
        }
        self.scenarios.insert(scenario.name.clone(), scenario);
    }

    /// Every runbook that is named exists, takes one system of the right kind, and gets the inputs it needs.
    fn check_scenario(&self, scenario: &Scenario, problems: &mut Problems) {
        for (n, answer) in scenario.answers.iter().enumerate() {
            let field = format!("answers[{n}].runbook");
            let Some(runbook) = self.runbooks.get(&answer.runbook) else {
                let known = self.runbooks.keys().map(RunbookName::as_str);
                let hint = nearest(answer.runbook.as_str(), known).map_or_else(
                    || "; put it into the runbooks directory".to_owned(),
                    |n| format!("; did you mean `{n}`?"),
                );
                problems.add(
                    Some(answer.line),
                    field,
                    format!("there is no runbook `{}`{hint}", answer.runbook),
                );
                continue;
            };
            match runbook.system_input() {
                None => problems.add(
                    Some(answer.line),
                    field,
                    format!("`{}` has not exactly one input of type system", runbook.name),
                ),
                Some((_, Some(kind))) if answer.of != Target::Kind(kind.to_owned()) => {
                    if let Target::Kind(other) = &answer.of {
                        problems.add(
                            Some(answer.line),
                            field,
                            format!("`{}` is for {kind}, not for {other}", runbook.name),
                        );
                    }
                }
                Some(_) => {}
            }
            check_inputs(runbook, answer, n, problems);
        }
    }

    fn lint(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for runbook in self.runbooks.values() {
            let mut problems = Problems::of(&runbook.file);
            let mut ignored = Problems::of(&runbook.file);
            let specs = runbook.steps_with(&BTreeMap::new(), &mut ignored);
            lint_runbook(&specs, &mut problems);
            found.extend(problems.into_list());
        }
        found
    }
}

fn check_inputs(runbook: &Runbook, answer: &Answer, n: usize, problems: &mut Problems) {
    for (name, text) in &answer.with {
        let field = format!("answers[{n}].with.{name}");
        match runbook.inputs.get(name) {
            None => problems.add(
                Some(answer.line),
                field,
                format!("runbook `{}` has no input `{name}`", runbook.name),
            ),
            Some(input) => {
                if let Err(message) = input.of.read(text) {
                    problems.add(Some(answer.line), field, message);
                }
            }
        }
    }
    let needed = runbook.inputs.iter().filter(|(name, input)| {
        input.default.is_none()
            && !matches!(input.of, InputType::System { .. })
            && !answer.with.contains_key(*name)
    });
    for (name, input) in needed {
        problems.add(
            Some(answer.line),
            format!("answers[{n}].with"),
            format!("runbook `{}` needs `{name}`: {}", runbook.name, input.of.describe()),
        );
    }
}

/// A step that changes the system must be looked at: by its own `verify`, or by a later step that reads.
fn lint_runbook(specs: &[StepSpec], problems: &mut Problems) {
    for spec in specs.iter().filter(|s| s.action.changes_the_system() && s.verify.is_empty()) {
        let looked_at = specs.iter().any(|s| looks(&s.action) && comes_after(specs, &s.id, &spec.id));
        if !looked_at {
            problems.add(
                Some(spec.line),
                format!("steps.{}", spec.id),
                "changes something and nothing looks at the result; give it `verify`, or add a verify or check step after it",
            );
        }
    }
    let restores = specs.iter().any(|s| matches!(s.action, Action::Restore(_)));
    let compares = |s: &StepSpec| {
        matches!(s.action, Action::Verify(_)) || s.verify.iter().any(|v| matches!(v, Action::Verify(_)))
    };
    if restores && !specs.iter().any(compares) {
        problems.add(None, "steps", "restores and never verifies the content; such a run can never be PASS");
    }
}

fn looks(action: &Action) -> bool {
    action.is_evidence() || matches!(action, Action::Wait(_)) || (action.effect() == Effect::Read)
}

/// Whether `later` needs `earlier`, directly or through others.
fn comes_after(specs: &[StepSpec], later: &str, earlier: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut pending = vec![later];
    while let Some(id) = pending.pop() {
        let needs = specs.iter().filter(|s| s.id == id).flat_map(|s| &s.needs);
        for need in needs {
            if need == earlier {
                return true;
            }
            if seen.insert(need.as_str()) {
                pending.push(need);
            }
        }
    }
    false
}

fn unknown_system(
    line: Option<u64>,
    field: String,
    name: &str,
    known: &BTreeSet<&str>,
    problems: &mut Problems,
) {
    let hint = nearest(name, known.iter().copied()).map_or_else(
        || {
            let names: Vec<&str> = known.iter().copied().collect();
            format!("configured are: {}", names.join(", "))
        },
        |n| format!("did you mean `{n}`?"),
    );
    problems.add(line, field, format!("no system is named `{name}`; {hint}"));
}

fn not_there(what: &str, name: &str, known: &[&str]) -> Error {
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("there is no {what}; look at the directories in the config"),
        None => format!("there are: {}", known.join(", ")),
    };
    Error::new(ErrorKind::NotFound, format!("find {what}")).with("name", name).hint(hint)
}

fn files_of(dir: &Path) -> Result<Vec<(String, String)>> {
    if !dir.try_exists().or_io("look for directory", dir)? {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir).or_io("list directory", dir)? {
        let path = entry.or_io("list directory", dir)?.path();
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if yaml && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(|path| read_file(&path)).collect()
}

fn read_file(path: &Path) -> Result<(String, String)> {
    let bytes = std::fs::metadata(path).or_io("read file", path)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::Exhausted, "read file")
            .with("path", path.display())
            .with("bytes", bytes)
            .hint(format!("a runbook or scenario is at most {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).or_io("read file", path)?;
    Ok((path.display().to_string(), text))
}
