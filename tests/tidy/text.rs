//! Rules about text: headers, names, lengths, notes, machine paths.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Finding, SourceFile};

pub const LINES_MAX: usize = 400;

/// Files that may be longer, and why. An entry that is no longer needed is a finding.
pub const LONG_FILES: &[(&str, &str)] = &[];

/// Names that say nothing about what is inside.
const VAGUE_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager", "misc"];

/// A file with no more lines than this has nothing in it yet.
const EMPTY_LINES_MAX: usize = 2;

fn finding(file: &SourceFile, line: usize, rule: &'static str, what: impl Into<String>) -> Finding {
    Finding { file: file.path.clone(), line, rule, what: what.into() }
}

pub fn headers(files: &[SourceFile]) -> BTreeSet<Finding> {
    let bare = |f: &&SourceFile| f.text.lines().count() > EMPTY_LINES_MAX && !f.text.starts_with("//!");
    let say = |f| finding(f, 1, "header", "begin with `//!`: what the file owns and its invariants");
    files.iter().filter(bare).map(say).collect()
}

pub fn names(files: &[SourceFile]) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    for file in files {
        for part in Path::new(&file.path).iter().filter_map(|p| p.to_str()) {
            let stem = part.strip_suffix(".rs").unwrap_or(part);
            if VAGUE_NAMES.contains(&stem) {
                findings.insert(finding(file, 1, "name", format!("`{stem}` says nothing; name the noun")));
            }
        }
    }
    findings
}

pub fn lengths(files: &[SourceFile], allowed: &[(&str, &str)]) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    for file in files {
        let lines = file.text.lines().count();
        let reason = allowed.iter().find(|(path, _)| *path == file.path);
        match (lines > LINES_MAX, reason) {
            (true, None) => {
                let what = format!("{lines} lines; split it, or add it to LONG_FILES with a reason");
                findings.insert(finding(file, LINES_MAX + 1, "length", what));
            }
            (false, Some(_)) => {
                findings.insert(finding(file, lines, "length", "short enough: take it off LONG_FILES"));
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    findings
}

/// Calls `judge` for every line of every file with its number from 1.
fn by_line(
    files: &[SourceFile],
    rule: &'static str,
    judge: impl Fn(&str) -> Option<String>,
) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    for file in files {
        for (number, line) in (1..).zip(file.text.lines()) {
            if let Some(what) = judge(line) {
                findings.insert(finding(file, number, rule, what));
            }
        }
    }
    findings
}

pub fn notes(files: &[SourceFile]) -> BTreeSet<Finding> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    by_line(files, "note", |line| {
        let word = words.iter().find(|w| line.contains(**w))?;
        let rest = &line[line.find(word)? + word.len()..];
        let rest = rest.trim_start_matches(['(', ' ', ':']);
        let has_issue = rest.strip_prefix('#').is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        (!has_issue).then(|| format!("{word} without an issue: write `{word}(#12)`, or do it"))
    })
}

/// Paths of one developer's machine.
pub fn machine_paths(files: &[SourceFile]) -> BTreeSet<Finding> {
    let words = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/")];
    by_line(files, "machine path", |line| {
        let word = words.iter().find(|w| starts_a_path(line, w))?;
        Some(format!("`{word}` exists on one machine only"))
    })
}

/// Is `word` in the line, other than in the middle of a longer path?
fn starts_a_path(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '*'))
    })
}
