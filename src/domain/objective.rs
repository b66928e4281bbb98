//! Recovery objectives per system and the defaults per engine kind.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What role a system plays when several are recovered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Source of truth.
    Record,
    Log,
    /// Can be rebuilt from another system.
    Derived,
    Cache,
    Blob,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objectives {
    /// Fault to sustained application success.
    pub rto: Duration,
    /// Fault minus watermark. `None`: rebuildable, any loss is accepted and still reported.
    pub rpo: Option<Duration>,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

impl Objectives {
    /// Defaults by engine kind; systems without a customary figure get 4 h / 24 h.
    pub fn for_kind(kind: &str) -> Self {
        let (rto, rpo) = match kind {
            "postgres" | "mysql" => (2 * HOUR, Some(15 * MINUTE)),
            "mongodb" => (3 * HOUR, Some(HOUR)),
            "redis" => (30 * MINUTE, None),
            "kafka" => (HOUR, None),
            _ => (4 * HOUR, Some(24 * HOUR)),
        };
        Self { rto: Duration::from_secs(rto), rpo: rpo.map(Duration::from_secs) }
    }
}

impl Role {
    pub fn for_kind(kind: &str) -> Self {
        match kind {
            "redis" => Self::Cache,
            "kafka" => Self::Log,
            "weaviate" | "lancedb" => Self::Derived,
            "files" => Self::Blob,
            _ => Self::Record,
        }
    }
}
