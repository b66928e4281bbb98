//! The world as runbooks see it: facts for planning, acts for execution, answers for resuming.
//!
//! Whether an act meets production or a sandbox is the host's business; a host is made for one run and one mode.
//! Every act may be cancelled at any await; what is then unknown is found out by `probe_restore` or by the runbook's
//! own probe when the run is resumed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::execute::{Execution, StepStatus};
use super::fact::{Point, PointFact, ServiceAction, SystemFact};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, Watermark};
use crate::domain::canary::CanaryReading;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{BackupId, StepId, SystemName};
use crate::domain::restore::{Phase, Restored};
use crate::domain::verification::{Check, Verification};
use crate::error::Result;
use crate::runtime::{JobContext, Progress};

/// Which attempt of which step an act belongs to. The step is the idempotency key; the attempt is for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub step: StepId,
    /// Counts from 1 within the run, over all resumes.
    pub attempt: u32,
}

/// Restores exactly the point that was planned.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreAct {
    pub act: Act,
    pub system: SystemName,
    pub point: Point,
}

/// What a verification saw, for the report and for RPO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub verification: Verification,
    /// Read from the restored data, canary before engine.
    pub watermark: Option<Watermark>,
    pub canaries: Option<CanaryReading>,
    /// Canary records acknowledged by the source before the fault and absent from the copy; `None` without canaries.
    pub lost: Option<u64>,
    #[serde(default)]
    pub phases: Vec<Phase>,
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAct {
    pub act: Act,
    /// Program and arguments; never goes through a shell.
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAct {
    pub act: Act,
    pub method: String,
    pub url: String,
    pub headers: BTreeMap<String, String>,
    pub body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    pub status: u16,
    /// The beginning of the body, as text.
    pub body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub act: Act,
    pub text: String,
    pub severity: Severity,
}

/// How far an act got whose end nobody saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Probed {
    NotStarted,
    /// Still going on, without us.
    Running,
    Done(Box<Restored>),
    Partial,
    CannotTell {
        why: String,
    },
}

/// A question to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub step: StepId,
    pub ask: String,
    /// Digest of the plan that the answer is bound to.
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub approved: bool,
    pub by: String,
    pub reason: String,
}

/// For progress bars and status boards. Not a record: the journal is.
#[derive(Clone, Debug)]
pub enum Observation {
    StepStarted { step: StepId, attempt: u32, progress: Arc<Progress> },
    StepEnded { step: StepId, status: StepStatus },
}

/// What measuring adds when a run ends: it can lower the verdict and the level, never raise them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conclusion {
    pub verdict: Option<Verdict>,
    pub level: Option<EvidenceLevel>,
    /// Replaces the run's detail in the catalog.
    pub detail: Option<serde_json::Value>,
}

#[async_trait]
pub trait Host: Debug + Send + Sync + 'static {
    // facts, for planning; change nothing
    fn systems(&self) -> Vec<SystemFact>;
    /// The newest usable point, not newer than `not_after` where given. No usable point is a fact, not an error.
    async fn resolve(
        &self,
        system: &SystemName,
        not_after: Option<Timestamp>,
        job: &JobContext,
    ) -> Result<PointFact>;

    // acts
    /// Repeating it is safe: what a dead attempt of the same step left is replaced.
    async fn restore(&self, act: &RestoreAct, job: &JobContext) -> Result<Restored>;
    /// Findings are data: a red verification is `Ok`.
    async fn verify(&self, act: &Act, system: &SystemName, point: &Point, job: &JobContext) -> Result<Proof>;
    /// Idempotent. `Status` fails when the service is not running.
    async fn service(
        &self,
        act: &Act,
        system: &SystemName,
        action: ServiceAction,
        job: &JobContext,
    ) -> Result<()>;
    /// Standard output, shortened. Any exit status but 0 is `Failed`.
    async fn command(&self, act: &CommandAct, job: &JobContext) -> Result<String>;
    /// The configured application checks, all or the named one. Findings are data.
    async fn check(
        &self,
        act: &Act,
        system: &SystemName,
        which: Option<&str>,
        job: &JobContext,
    ) -> Result<Vec<Check>>;
    async fn query(&self, act: &Act, system: &SystemName, query: &str, job: &JobContext) -> Result<String>;
    async fn http(&self, act: &HttpAct, job: &JobContext) -> Result<HttpAnswer>;
    /// `Unreachable` while the system does not answer.
    async fn answering(&self, system: &SystemName, job: &JobContext) -> Result<()>;
    async fn backup(
        &self,
        act: &Act,
        system: &SystemName,
        kind: BackupKind,
        job: &JobContext,
    ) -> Result<BackupId>;
    async fn notify(&self, notice: &Notice, job: &JobContext) -> Result<()>;

    // people
    /// `None`: nobody can be asked here; the run pauses and the answer comes through the journal.
    async fn ask(&self, _question: &Question, _job: &JobContext) -> Result<Option<Answer>> {
        Ok(None)
    }

    // resuming and ending
    async fn probe_restore(&self, act: &RestoreAct, job: &JobContext) -> Result<Probed>;
    fn observe(&self, _observation: &Observation) {}
    /// Called once everything has ended and before the run is closed; again after a crash in between.
    async fn conclude(&self, _execution: &Execution, _job: &JobContext) -> Result<Conclusion> {
        Ok(Conclusion::default())
    }
}

/// Between two looks at something that goes on without us.
pub const POLL_EVERY: Duration = Duration::from_secs(2);
