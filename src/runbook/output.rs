//! What a step gave: journaled whole, read back by resumes and reports. Owns when an output speaks against the copy.

use serde::{Deserialize, Serialize};

use super::host::Proof;
use crate::domain::id::BackupId;
use crate::domain::restore::Restored;
use crate::domain::verification::{Check, Outcome};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutput {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Application checks, queries, HTTP checks, and the step's own `verify` list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// What a command printed, or another line for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl StepOutput {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::default() }
    }

    pub fn checked(checks: Vec<Check>) -> Self {
        Self { checks, ..Self::default() }
    }

    pub fn all_checks(&self) -> impl Iterator<Item = &Check> {
        let proven = self.proof.iter().flat_map(|p| &p.verification.checks);
        proven.chain(&self.checks)
    }

    /// What was found wrong, in one line; `None` when nothing was.
    pub fn findings(&self) -> Option<String> {
        let failed: Vec<String> = self
            .all_checks()
            .filter(|c| c.outcome == Outcome::Failed)
            .map(|c| format!("{}: expected {}, found {}", c.name, c.expected, c.actual))
            .collect();
        match failed.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] => Some(format!("{first}; and {} more", rest.len())),
        }
    }

    /// Reads what was journaled; an unreadable record gives an empty output, so that an old journal can still be shown.
    pub fn read(value: &serde_json::Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_default()
    }

    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
