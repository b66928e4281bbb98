//! A run: one execution of anything, journaled. Owns the legal transitions.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::evidence::{EvidenceLevel, Verdict};
use super::id::{RunId, StepId, SystemName};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    Backup,
    Restore,
    Verify,
    Recover,
    Drill,
}

impl RunKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Recover => "recover",
            Self::Drill => "drill",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    /// Waits for a person: a step failed or a gate is open.
    Paused,
    /// The process that carried it is gone. Between a crash and a resume, or the end for runs that cannot resume.
    Interrupted,
    Succeeded,
    Failed,
    Aborted,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Interrupted => "interrupted",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Aborted => true,
            Self::Running | Self::Paused | Self::Interrupted => false,
        }
    }

    /// The only legal moves. A final state is never left; the same state again is not a move.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Running => next != Self::Running,
            Self::Paused | Self::Interrupted => matches!(next, Self::Running | Self::Aborted | Self::Failed),
            Self::Succeeded | Self::Failed | Self::Aborted => false,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The process that carries a run: enough to tell whether it still lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// Field 22 of `/proc/{pid}/stat` and the boot id, so that a reused pid is not taken for the owner.
    pub started: String,
    pub host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub id: RunId,
    pub kind: RunKind,
    /// The system for backup, restore and verify; `None` for runs over several.
    pub system: Option<SystemName>,
    /// Backup id or scenario name.
    pub subject: Option<String>,
    pub state: RunState,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub owner: Owner,
    /// Grows with every resume; an older holder is refused.
    pub epoch: u32,
    pub verdict: Option<Verdict>,
    pub level: Option<EvidenceLevel>,
    pub error: Option<String>,
    /// Plan, inputs and measurements, as the kind of run needs them.
    #[serde(default)]
    pub detail: serde_json::Value,
}

/// One record of a run's journal. Append-only; durable before what it announces is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRecord {
    pub seq: u64,
    pub at: Timestamp,
    pub epoch: u32,
    pub event: RunEvent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum RunEvent {
    /// About to act. `attempt` counts from 1 within the run, over all epochs.
    Intent { step: StepId, attempt: u32 },
    /// The act ended.
    Outcome { step: StepId, attempt: u32, outcome: StepOutcome },
    /// A person or the engine noted something.
    Note { text: String },
    /// The state of the run changed.
    State { state: RunState, reason: String },
    /// A gate was answered.
    Gate { step: StepId, approved: bool, by: String, reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum StepOutcome {
    Succeeded {
        output: serde_json::Value,
    },
    Failed {
        error: String,
        exit_code: u8,
        hint: Option<String>,
    },
    /// Carried out and seen to the end, and what was seen speaks against the copy. Kept whole, for the report.
    Unproven {
        error: String,
        output: serde_json::Value,
    },
    /// Left out; never counted as success.
    Skipped {
        reason: String,
        by: Option<String>,
    },
}
