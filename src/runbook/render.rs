//! A plan as text for a person who must decide. Says UNKNOWN where nothing is known.

use std::fmt::Write;
use std::time::Duration;

use super::model::{Mode, Need};
use super::plan::{Plan, PlannedStep, PlannedSystem, RecoveryLine};
use crate::domain::Timestamp;
use crate::domain::id::StepId;

/// The whole plan. `now` is for ages.
pub fn plan_text(plan: &Plan, now: Timestamp) -> String {
    let mut text = String::new();
    let write = |text: &mut String| -> std::fmt::Result {
        head(text, plan)?;
        systems(text, plan, now)?;
        steps(text, plan)?;
        list(text, "Left out", plan.left_out.iter().map(|l| format!("{}: {}", l.what, l.reason)))?;
        list(text, "UNKNOWN", plan.unknown.iter().cloned())?;
        list(text, "MISSING", plan.missing.iter().cloned())?;
        foot(text, plan)
    };
    // writing to a String does not fail
    if write(&mut text).is_err() {
        text.push_str("(the plan could not be written out)\n");
    }
    text
}

fn head(to: &mut String, plan: &Plan) -> std::fmt::Result {
    let name = plan.scenario.as_ref().map_or_else(String::new, |s| format!(" ({s})"));
    writeln!(to, "{}{name}", plan.title)?;
    let line = match (plan.recovery_line, plan.recover_to) {
        (RecoveryLine::LatestEach, _) => "the newest point of each system".to_owned(),
        (RecoveryLine::CommonTime, Some(at)) => format!("nothing newer than {}", instant(at)),
        (RecoveryLine::CommonTime, None) => "a common time, UNKNOWN".to_owned(),
    };
    let mode = match plan.mode {
        Mode::Recover => "recovery, for real",
        Mode::Drill => "drill, in a sandbox",
        Mode::Plan => "plan only",
    };
    writeln!(to, "Mode: {mode}. Recovery line: {line}. Level to reach: {}.", plan.level)?;
    for (name, value) in &plan.inputs {
        writeln!(to, "Input {name}: {value}")?;
    }
    Ok(())
}

fn systems(to: &mut String, plan: &Plan, now: Timestamp) -> std::fmt::Result {
    writeln!(to, "\nSystems")?;
    for system in &plan.systems {
        let need = match system.need {
            Need::Required => "",
            Need::Optional => ", optional",
        };
        writeln!(to, "  {} ({}{need})", system.name, system.kind)?;
        match &system.found.point {
            Some(p) => {
                let links = match p.chain.len() {
                    1 => p.kind.to_string(),
                    n => format!("{}, {n} backups in the chain", p.kind),
                };
                writeln!(to, "    backup    {} ({links}, {})", p.backup, p.state)?;
                let holds = p.holds_until();
                writeln!(to, "    holds     writes until {} ({} ago)", instant(holds), ago(holds, now))?;
                let (raw, stored) = (bytes(p.raw_bytes), bytes(p.stored_bytes));
                writeln!(to, "    size      {raw} ({stored} stored){}", free(system))?;
            }
            None => writeln!(to, "    backup    none")?,
        }
        let expected = system.found.expected.map_or("UNKNOWN".to_owned(), span);
        writeln!(to, "    expected  {expected}; objective {}", span(system.rto))?;
        for action in &system.found.actions {
            writeln!(to, "    will      {action}")?;
        }
    }
    Ok(())
}

fn free(system: &PlannedSystem) -> String {
    system.found.free_bytes.map_or_else(String::new, |f| format!(", {} free at the target", bytes(f)))
}

fn steps(to: &mut String, plan: &Plan) -> std::fmt::Result {
    writeln!(to, "\nSteps ({} at once at most)", plan.parallel)?;
    for (n, step) in plan.steps.iter().enumerate() {
        writeln!(to, "  {:>3}. {}  {}{}", n + 1, step.id, step.title, remarks(step))?;
        if !step.needs.is_empty() {
            let needs: Vec<&str> = step.needs.iter().map(StepId::as_str).collect();
            writeln!(to, "       after {}", needs.join(", "))?;
        }
    }
    Ok(())
}

fn remarks(step: &PlannedStep) -> String {
    let mut remarks = Vec::new();
    if step.need == Need::Optional {
        remarks.push("optional".to_owned());
    }
    if let Some(expected) = step.expected {
        remarks.push(format!("about {}", span(expected)));
    }
    if remarks.is_empty() { String::new() } else { format!(" [{}]", remarks.join(", ")) }
}

fn list(to: &mut String, title: &str, lines: impl Iterator<Item = String>) -> std::fmt::Result {
    for (n, line) in lines.enumerate() {
        if n == 0 {
            writeln!(to, "\n{title}")?;
        }
        writeln!(to, "  - {line}")?;
    }
    Ok(())
}

fn foot(to: &mut String, plan: &Plan) -> std::fmt::Result {
    let expected = plan.expected().map_or("UNKNOWN".to_owned(), span);
    writeln!(to, "\nExpected time: {expected}")?;
    writeln!(to, "Plan digest: {}", plan.digest)?;
    let could = if plan.could_run() { "yes" } else { "NO, see MISSING" };
    writeln!(to, "Could run now: {could}")
}

pub fn instant(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Whole seconds; a person does not need more.
pub fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return "under 1s".to_owned();
    }
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    (now - at).to_std().map_or_else(|_| "in the future".to_owned(), span)
}

pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
