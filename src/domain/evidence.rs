//! Evidence levels and verdicts. A verdict is always derived, never set.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much was seen of a recovery. The weakest required system decides for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EvidenceLevel {
    /// Talked through.
    E0,
    /// Artifacts present, checksums hold.
    E1,
    /// Restored, server started.
    E2,
    /// The engine's own integrity check passed.
    E3,
    /// Content equals the fingerprint; watermark read from the restored data.
    E4,
    /// Cross-system reconciliation.
    E5,
    /// Application checks passed, RTO and RPO met.
    E6,
    /// At full concurrent scale without the primary domain.
    E7,
}

impl EvidenceLevel {
    pub fn meaning(self) -> &'static str {
        match self {
            Self::E0 => "talked through",
            Self::E1 => "artifacts present, checksums hold",
            Self::E2 => "restored, server started",
            Self::E3 => "engine's own integrity check passed",
            Self::E4 => "content equals the fingerprint, watermark read",
            Self::E5 => "cross-system reconciliation",
            Self::E6 => "application checks passed, RTO and RPO met",
            Self::E7 => "full concurrent scale without the primary domain",
        }
    }
}

impl fmt::Display for EvidenceLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    /// Recovered, but something optional failed, was skipped or ignored.
    Degraded,
    Fail,
    /// A required check could not be made or its answer is unknown.
    Inconclusive,
    Aborted,
}

impl Verdict {
    /// The worse of two. Aborted hides nothing: a failure seen before the abort stays a failure.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        fn rank(v: Verdict) -> u8 {
            match v {
                Verdict::Pass => 0,
                Verdict::Degraded => 1,
                Verdict::Inconclusive => 2,
                Verdict::Aborted => 3,
                Verdict::Fail => 4,
            }
        }
        if rank(other) > rank(self) { other } else { self }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Degraded => "DEGRADED",
            Self::Fail => "FAIL",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Aborted => "ABORTED",
        })
    }
}
