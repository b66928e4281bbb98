//! The journal of a run, read and written. Owns what a sequence of records means for each step.
//!
//! Replaying gives the same history as having been there: the executor folds its own records through the same code.
//! A step whose last intent has no outcome is UNKNOWN, whoever wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use super::step::Action;
use crate::catalog::Catalog;
use crate::domain::Timestamp;
use crate::domain::id::{RunId, StepId};
use crate::domain::run::{JournalRecord, RunEvent, RunState, StepOutcome};
use crate::error::{Error, ErrorKind, Result};

/// An answer of a person (or of the runbook, in a drill) about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub seq: u64,
    pub approved: bool,
    pub by: String,
    pub reason: String,
}

/// All that the journal says about one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepHistory {
    /// Highest attempt that was announced.
    pub attempts: u32,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// The last announced attempt has no outcome.
    pub open: bool,
    pub outcome: Option<StepOutcome>,
    /// Error of the last failure, kept when a person then let it pass.
    pub failure: Option<String>,
    answer: Option<Answered>,
    /// Sequence number of the last intent or outcome: the order of events, whatever the clocks say.
    pub last: u64,
}

impl StepHistory {
    /// An answer given since the step last moved.
    pub fn fresh_answer(&self) -> Option<&Answered> {
        self.answer.as_ref().filter(|a| a.seq > self.last)
    }

    pub fn answer(&self) -> Option<&Answered> {
        self.answer.as_ref()
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Some(StepOutcome::Failed { .. } | StepOutcome::Unproven { .. }))
    }
}

/// All that the journal says about a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    steps: BTreeMap<StepId, StepHistory>,
    gates: BTreeSet<StepId>,
    /// Times in which nothing went on but waiting for people.
    pub waits: Vec<(Timestamp, Timestamp)>,
    pub notes: Vec<String>,
    pub first_at: Option<Timestamp>,
    pub last_at: Option<Timestamp>,
    paused_in: Option<u32>,
    pub is_empty: bool,
}

impl History {
    pub fn replay(plan: &Plan, records: &[JournalRecord]) -> Self {
        let gates = plan.steps.iter().filter(|s| matches!(s.action, Action::Gate(_)));
        let mut history =
            Self { gates: gates.map(|s| s.id.clone()).collect(), is_empty: true, ..Self::default() };
        history.apply(records);
        history
    }

    pub fn apply(&mut self, records: &[JournalRecord]) {
        for record in records {
            self.apply_one(record);
        }
    }

    pub fn step(&self, id: &StepId) -> StepHistory {
        self.steps.get(id).cloned().unwrap_or_default()
    }

    /// Whether undoing has begun, in this process or an earlier one.
    pub fn is_rolling_back(&self, plan: &Plan) -> bool {
        let undos = plan.steps.iter().filter(|s| s.undo.is_some());
        undos.filter_map(|s| s.undo_id().ok()).any(|id| self.steps.contains_key(&id))
    }

    pub fn human_wait(&self) -> Duration {
        self.waits.iter().map(|(from, to)| gap(*from, *to)).sum()
    }

    /// The part of the waiting for people that fell between two instants.
    pub fn human_wait_between(&self, from: Timestamp, to: Timestamp) -> Duration {
        self.waits.iter().map(|(a, b)| gap((*a).max(from), (*b).min(to))).sum()
    }

    fn waits_for_people(&self) -> bool {
        let open = |is_gate: bool| {
            let mut steps = self.steps.iter();
            steps.any(|(id, s)| s.open && self.gates.contains(id) == is_gate)
        };
        self.paused_in.is_some() || (open(true) && !open(false))
    }

    fn apply_one(&mut self, record: &JournalRecord) {
        let resumed = self.paused_in.is_some_and(|epoch| record.epoch > epoch);
        if let Some(last) = self.last_at
            && self.waits_for_people()
        {
            self.waits.push((last, record.at));
        }
        if resumed {
            self.paused_in = None;
        }
        self.first_at.get_or_insert(record.at);
        self.last_at = Some(record.at);
        self.is_empty = false;
        match &record.event {
            RunEvent::Intent { step, attempt } => {
                let step = self.steps.entry(step.clone()).or_default();
                step.attempts = step.attempts.max(*attempt);
                step.started_at.get_or_insert(record.at);
                step.ended_at = None;
                step.open = true;
                step.outcome = None;
                step.last = record.seq;
            }
            RunEvent::Outcome { step, outcome, .. } => {
                let step = self.steps.entry(step.clone()).or_default();
                step.open = false;
                step.ended_at = Some(record.at);
                step.failure = match outcome {
                    StepOutcome::Failed { error, .. } | StepOutcome::Unproven { error, .. } => {
                        Some(error.clone())
                    }
                    StepOutcome::Skipped { .. } => step.failure.take(),
                    StepOutcome::Succeeded { .. } => None,
                };
                step.outcome = Some(outcome.clone());
                step.last = record.seq;
            }
            RunEvent::Note { text } => self.notes.push(text.clone()),
            RunEvent::State { state, .. } => {
                self.paused_in = (*state == RunState::Paused).then_some(record.epoch);
            }
            RunEvent::Gate { step, approved, by, reason } => {
                self.steps.entry(step.clone()).or_default().answer = Some(Answered {
                    seq: record.seq,
                    approved: *approved,
                    by: by.clone(),
                    reason: reason.clone(),
                });
            }
        }
    }
}

fn gap(from: Timestamp, to: Timestamp) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Approve,
    Refuse,
}

/// Who decided, and why. Neither is ever empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    name: String,
    reason: String,
}

impl Person {
    pub fn new(name: &str, reason: &str) -> Result<Self> {
        if name.trim().is_empty() || reason.trim().is_empty() {
            return Err(Error::new(ErrorKind::Config, "record the decision")
                .why("it needs a person and a reason")
                .hint("say who decides and why; both go into the report"));
        }
        Ok(Self { name: name.trim().to_owned(), reason: reason.trim().to_owned() })
    }
}

/// Writing, under one fencing epoch. An epoch that is no longer the newest gives `Conflict`, and nothing was written.
#[derive(Clone, Debug)]
pub struct Journal {
    pub catalog: Arc<dyn Catalog>,
    pub run: RunId,
    pub epoch: u32,
}

impl Journal {
    /// Durable on return.
    pub async fn append(&self, event: RunEvent, at: Timestamp) -> Result<JournalRecord> {
        let seq = self
            .catalog
            .append(&self.run, self.epoch, &event, at)
            .await
            .map_err(|e| e.during("write the journal of the run"))?;
        Ok(JournalRecord { seq, at, epoch: self.epoch, event })
    }

    pub async fn read(&self, plan: &Plan) -> Result<History> {
        Ok(History::replay(plan, &self.catalog.journal(&self.run).await?))
    }

    /// Records a person's answer to a gate, or their word that a `once` step may be done again.
    pub async fn answer(
        &self,
        plan: &Plan,
        step: &StepId,
        decision: Decision,
        who: &Person,
        at: Timestamp,
    ) -> Result<()> {
        known(plan, step)?;
        let event = RunEvent::Gate {
            step: step.clone(),
            approved: decision == Decision::Approve,
            by: who.name.clone(),
            reason: who.reason.clone(),
        };
        self.append(event, at).await.map(|_| ())
    }

    /// Records that a person lets a step pass that was not done or has failed. The verdict is lowered by it.
    pub async fn skip(&self, plan: &Plan, step: &StepId, who: &Person, at: Timestamp) -> Result<()> {
        known(plan, step)?;
        let past = self.read(plan).await?.step(step);
        if matches!(past.outcome, Some(StepOutcome::Succeeded { .. })) {
            return Err(Error::new(ErrorKind::Conflict, "skip step")
                .with("step", step)
                .why("it has been done"));
        }
        let event = RunEvent::Outcome {
            step: step.clone(),
            attempt: past.attempts.max(1),
            outcome: StepOutcome::Skipped { reason: who.reason.clone(), by: Some(who.name.clone()) },
        };
        self.append(event, at).await.map(|_| ())
    }
}

fn known(plan: &Plan, step: &StepId) -> Result<()> {
    if plan.step(step).is_some() {
        return Ok(());
    }
    let ids: Vec<&str> = plan.steps.iter().map(|s| s.id.as_str()).collect();
    Err(Error::new(ErrorKind::NotFound, "find step")
        .with("step", step)
        .hint(format!("steps of this run: {}", ids.join(", "))))
}
