//! `SystemActor`: looks after one data system: health, heartbeat records, and at most one job at a time.
//!
//! Made fresh by the supervisor after every death; remembers nothing across deaths. What runs is told by the catalog and
//! the lock of the system, not by this actor.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::board::{JobStatus, StatusBoard, Supervision};
use super::job::{CancelJob, JobActor, JobFinished, JobStalled};
use super::supervise::{Beat, ExitGuard};
use super::work::{BackupOrder, Work};
use crate::domain::backup::BackupKind;
use crate::domain::id::{RunId, SystemName, TierName};
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::{Health, HealthState};

pub const MAILBOX_MAX: usize = 64;
const PROBE_WITHIN: Duration = Duration::from_secs(20);

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Busy { run: RunId },
    Unhealthy { summary: String },
    Unsupervised,
    ShuttingDown,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy { run } => write!(f, "busy with run {run}"),
            Self::Unhealthy { summary } => write!(f, "the system is down: {summary}"),
            Self::Unsupervised => {
                f.write_str("the system's actor died too often; see the log and restart lifeboat")
            }
            Self::ShuttingDown => f.write_str("lifeboat is shutting down"),
        }
    }
}

/// Asks for a backup. Answers at once with the run that will carry it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<RunId, Refused>")]
pub struct StartBackup {
    pub kind: BackupKind,
    pub tier: Option<TierName>,
    pub reason: String,
}

/// A probe ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HealthObserved {
    pub health: Result<Health>,
}

/// Stop taking commands and cancel what runs.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Shutdown;

/// Makes the actor panic or hang, for tests of supervision.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub enum Sabotage {
    Panic,
    Hang(Duration),
}

#[derive(Clone, Debug)]
pub struct SystemDeps {
    pub name: SystemName,
    pub work: Arc<dyn Work>,
    pub board: StatusBoard,
    /// Cancelled with the whole process; jobs are children of it.
    pub job: JobContext,
    pub probe_every: Duration,
    pub canary_every: Duration,
}

#[derive(Debug)]
enum Phase {
    Serving,
    ShuttingDown,
}

#[derive(Debug)]
pub struct SystemActor {
    deps: SystemDeps,
    phase: Phase,
    health: Option<Health>,
    running: Option<(RunId, Addr<JobActor>)>,
    probing: bool,
    _guard: ExitGuard,
}

impl SystemActor {
    pub fn new(guard: ExitGuard, deps: SystemDeps) -> Self {
        Self { deps, phase: Phase::Serving, health: None, running: None, probing: false, _guard: guard }
    }

    fn probe(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.probing, true) {
            return;
        }
        let (work, name, job) =
            (self.deps.work.clone(), self.deps.name.clone(), self.deps.job.child(PROBE_WITHIN));
        let task = self.deps.job.workers().spawn("probe", async move { work.probe(&name, &job).await });
        let to = ctx.address();
        ctx.spawn(task.join().into_actor(self).map(move |health, _, _| {
            if to.try_send(HealthObserved { health }).is_err() {
                tracing::debug!("own mailbox is full or closed");
            }
        }));
    }

    fn beat(&mut self) {
        let (work, name, job) =
            (self.deps.work.clone(), self.deps.name.clone(), self.deps.job.child(PROBE_WITHIN));
        let beat = async move {
            if let Err(error) = work.beat(&name, &job).await {
                tracing::debug!(system = %name, %error, "no heartbeat record was written");
            }
            Ok(())
        };
        // not awaited: bounded by its own deadline and tracked by the workers
        self.deps.job.workers().spawn("heartbeat", beat).detach();
    }

    fn refuse(&self) -> Option<Refused> {
        if matches!(self.phase, Phase::ShuttingDown) {
            return Some(Refused::ShuttingDown);
        }
        if let Some((run, _)) = &self.running {
            return Some(Refused::Busy { run: run.clone() });
        }
        match &self.health {
            Some(h) if h.state == HealthState::Down => {
                Some(Refused::Unhealthy { summary: h.summary.clone() })
            }
            _ => None,
        }
    }
}

impl Actor for SystemActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MAX);
        self.deps.board.update(&self.deps.name, |s| {
            s.supervision = Supervision::Supervised;
            s.generation += 1;
            s.job = None;
        });
        self.probe(ctx);
        ctx.run_interval(self.deps.probe_every, Self::probe);
        ctx.run_interval(self.deps.canary_every, |actor, _| actor.beat());
    }
}

impl Handler<Beat> for SystemActor {
    type Result = ();
    fn handle(&mut self, _: Beat, _: &mut Self::Context) {}
}

impl Handler<HealthObserved> for SystemActor {
    type Result = ();

    fn handle(&mut self, news: HealthObserved, _: &mut Self::Context) {
        self.probing = false;
        let health = news.health.unwrap_or_else(|error| Health {
            state: HealthState::Down,
            version: None,
            summary: error.to_string(),
            findings: Vec::new(),
        });
        let now = self.deps.job.now();
        self.deps.board.update(&self.deps.name, |s| {
            s.health = Some(health.clone());
            s.health_as_of = Some(now);
        });
        self.health = Some(health);
    }
}

impl Handler<StartBackup> for SystemActor {
    type Result = Result<RunId, Refused>;

    fn handle(&mut self, command: StartBackup, ctx: &mut Self::Context) -> Self::Result {
        if let Some(refused) = self.refuse() {
            return Err(refused);
        }
        let now = self.deps.job.now();
        let run = RunId::new(now, self.deps.job.clock().random());
        let order = BackupOrder {
            run: run.clone(),
            system: self.deps.name.clone(),
            kind: command.kind,
            tier: command.tier,
            reason: command.reason,
        };
        let job = self.deps.job.fresh_child();
        let status = JobStatus {
            run: run.clone(),
            what: format!("{} backup", command.kind),
            since: now,
            progress: job.shared_progress(),
        };
        self.deps.board.update(&self.deps.name, |s| s.job = Some(status));
        let me = ctx.address();
        let actor = JobActor::new(order, self.deps.work.clone(), job, me.clone().recipient(), me.recipient());
        self.running = Some((run.clone(), actor.start()));
        Ok(run)
    }
}

impl Handler<JobFinished> for SystemActor {
    type Result = ();

    fn handle(&mut self, news: JobFinished, _: &mut Self::Context) {
        self.running = None;
        let error = news.result.err();
        match &error {
            Some(error) => {
                tracing::error!(system = %self.deps.name, run = %news.order.run, %error, "backup failed");
            }
            None => tracing::info!(system = %self.deps.name, run = %news.order.run, "backup finished"),
        }
        self.deps.board.update(&self.deps.name, |s| {
            s.job = None;
            s.last_error = error.map(|e| e.to_string());
        });
    }
}

impl Handler<JobStalled> for SystemActor {
    type Result = ();

    fn handle(&mut self, news: JobStalled, _: &mut Self::Context) {
        tracing::warn!(system = %self.deps.name, run = %news.order.run, "job makes no progress");
        self.deps
            .board
            .update(&self.deps.name, |s| s.last_error = Some("the running job makes no progress".to_owned()));
    }
}

impl Handler<Shutdown> for SystemActor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) {
        self.phase = Phase::ShuttingDown;
        if let Some((run, job)) = &self.running
            && job.try_send(CancelJob).is_err()
        {
            tracing::debug!(%run, "job ended before it was told to");
        }
    }
}

#[cfg(test)]
impl Handler<Sabotage> for SystemActor {
    type Result = ();

    fn handle(&mut self, how: Sabotage, _: &mut Self::Context) {
        match how {
            Sabotage::Panic => panic!("sabotaged"),
            #[expect(clippy::disallowed_methods, reason = "the point is to block the actor's thread")]
            Sabotage::Hang(time) => std::thread::sleep(time),
        }
    }
}
