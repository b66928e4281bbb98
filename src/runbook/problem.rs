//! Problems in files written by a person: where, what, and the way out. Owns how they are collected and shown.
//!
//! Reading never stops at the first problem: a person sees all of them at once.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// One problem. Renders `runbooks/x.yaml:12: steps[2].timeot: unknown key; did you mean timeout?`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: String,
    /// Counted from 1; `None` when the problem is not at one place.
    pub line: Option<u64>,
    /// Path inside the file: `steps[2].timeout`. Empty for the file as a whole.
    pub field: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// The problems of one file, as they are found.
#[derive(Debug)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    pub fn of(file: impl Into<String>) -> Self {
        Self { file: file.into(), list: Vec::new() }
    }

    pub fn add(&mut self, line: Option<u64>, field: impl Into<String>, message: impl Into<String>) {
        self.list.push(Problem {
            file: self.file.clone(),
            line,
            field: field.into(),
            message: message.into(),
        });
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn into_list(self) -> Vec<Problem> {
        self.list
    }
}

/// All problems as one error of kind `Config`, every one on its own line.
pub fn as_error(op: &'static str, problems: &[Problem]) -> Error {
    let lines: String = problems.iter().map(|p| format!("\n  {p}")).collect();
    Error::new(ErrorKind::Config, op)
        .with("problems", problems.len())
        .why(lines)
        .hint("correct the files named above; docs/runbooks.md describes every key")
}

/// The nearest of `known` to `given`, when it is near enough to be a slip of the hand.
pub fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|k| (distance(given, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits (insert, delete, replace) that turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_recognised_and_another_word_is_not() {
        let known = ["timeout", "title", "needs"];
        assert_eq!(nearest("timeot", known), Some("timeout"));
        assert_eq!(nearest("neds", known), Some("needs"));
        assert_eq!(nearest("colour", known), None);
    }
}
