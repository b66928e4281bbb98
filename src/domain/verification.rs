//! What a verification found. Findings are data, not errors; the level reached is derived from them.

use serde::{Deserialize, Serialize};

use super::evidence::EvidenceLevel;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    /// The check could not be made, or compared nothing.
    Inconclusive,
}

/// One check with what was expected and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// The level this check supports when it passes.
    pub level: EvidenceLevel,
    pub outcome: Outcome,
    pub expected: String,
    pub actual: String,
}

impl Check {
    /// Compares two values; two empty ones are never equal enough to pass (a verifier that compares nothing proves nothing).
    pub fn equal(
        name: impl Into<String>,
        level: EvidenceLevel,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Self {
        let (expected, actual) = (expected.into(), actual.into());
        let outcome = match (expected.is_empty(), expected == actual) {
            (true, _) => Outcome::Inconclusive,
            (false, true) => Outcome::Passed,
            (false, false) => Outcome::Failed,
        };
        Self { name: name.into(), level, outcome, expected, actual }
    }

    pub fn passed(name: impl Into<String>, level: EvidenceLevel, actual: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            level,
            outcome: Outcome::Passed,
            expected: String::new(),
            actual: actual.into(),
        }
    }

    pub fn failed(
        name: impl Into<String>,
        level: EvidenceLevel,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            level,
            outcome: Outcome::Failed,
            expected: expected.into(),
            actual: actual.into(),
        }
    }

    pub fn inconclusive(name: impl Into<String>, level: EvidenceLevel, why: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            level,
            outcome: Outcome::Inconclusive,
            expected: String::new(),
            actual: why.into(),
        }
    }
}

/// All checks made on one copy of one system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub checks: Vec<Check>,
    /// Rows, keys or files whose content was compared with the fingerprint.
    pub compared: u64,
    /// What `compared` counts: `rows`, `keys`, `files`.
    pub unit: String,
}

impl Verification {
    pub fn new(unit: &str) -> Self {
        Self { checks: Vec::new(), compared: 0, unit: unit.to_owned() }
    }

    pub fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    pub fn merge(&mut self, other: Self) {
        self.checks.extend(other.checks);
        self.compared += other.compared;
        if self.unit.is_empty() {
            self.unit = other.unit;
        }
    }

    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| c.outcome == Outcome::Failed)
    }

    pub fn is_red(&self) -> bool {
        self.failures().next().is_some()
    }

    /// The highest level such that some check at that level passed and no check at or below it failed or stayed
    /// inconclusive. `None` when nothing passed.
    pub fn level(&self) -> Option<EvidenceLevel> {
        let blocked = self.checks.iter().filter(|c| c.outcome != Outcome::Passed).map(|c| c.level).min();
        self.checks
            .iter()
            .filter(|c| c.outcome == Outcome::Passed)
            .map(|c| c.level)
            .filter(|level| blocked.is_none_or(|b| *level < b))
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_lower_check_hides_every_higher_level() {
        let mut v = Verification::new("rows");
        v.push(Check::passed("started", EvidenceLevel::E2, "up"));
        v.push(Check::failed("integrity", EvidenceLevel::E3, "ok", "corrupt"));
        v.push(Check::passed("rows", EvidenceLevel::E4, "12"));
        assert_eq!(v.level(), Some(EvidenceLevel::E2));
        assert!(v.is_red());
    }

    #[test]
    fn comparing_two_empty_fingerprints_is_inconclusive() {
        assert_eq!(Check::equal("hash", EvidenceLevel::E4, "", "").outcome, Outcome::Inconclusive);
    }
}
