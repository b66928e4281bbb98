//! The world as runbooks meet it: production when recovering, sandboxes when drilling.
//!
//! Invariants: a drill never touches production; a restore that ended leaves a durable marker before its step is told,
//! so that a resumed run does not restore twice.

mod facts;
mod restoring;

pub use facts::systems as configured_systems;

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::config::VerifyAfterBackup;
use crate::domain::Timestamp;
use crate::domain::backup::BackupKind;
use crate::domain::id::{BackupId, RunId, SystemName};
use crate::domain::place::Place;
use crate::domain::restore::Restored;
use crate::domain::verification::Check;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::restore::Safety;
use crate::operation::{Node, backup, canary, chain, http, restore};
use crate::runbook::execute::Execution;
use crate::runbook::fact::{Point, PointFact, ServiceAction, SystemFact};
use crate::runbook::host::{
    Act, CommandAct, Conclusion, Host, HttpAct, HttpAnswer, Notice, Observation, Probed, Proof, RestoreAct,
    Severity,
};
use crate::runbook::model::Mode;
use crate::runtime::JobContext;
use crate::runtime::child::Program;
use crate::sandbox::Sandbox;
use crate::system::{HealthState, judge_answer};

/// Of a command's output, this much is kept.
const TEXT_CHARS_MAX: usize = 4_000;

type Concluded = dyn Fn(&Execution) -> Conclusion + Send + Sync;
type Observer = dyn Fn(&Observation) + Send + Sync;

/// The host of one run.
pub struct NodeHost {
    node: Node,
    run: RunId,
    mode: Mode,
    safety: Safety,
    fault_at: Timestamp,
    sandboxes: Mutex<BTreeMap<SystemName, Box<dyn Sandbox>>>,
    conclude: Option<Box<Concluded>>,
    observer: Option<Box<Observer>>,
}

impl std::fmt::Debug for NodeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHost").field("run", &self.run).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl NodeHost {
    pub fn new(node: Node, run: RunId, mode: Mode, safety: Safety, fault_at: Timestamp) -> Self {
        let sandboxes = Mutex::default();
        Self { node, run, mode, safety, fault_at, sandboxes, conclude: None, observer: None }
    }

    /// Called with what was executed before the run is closed.
    #[must_use]
    pub fn concluding(mut self, conclude: impl Fn(&Execution) -> Conclusion + Send + Sync + 'static) -> Self {
        self.conclude = Some(Box::new(conclude));
        self
    }

    #[must_use]
    pub fn observed(mut self, observer: impl Fn(&Observation) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Destroys every sandbox of the run; gives the first error after trying all.
    pub async fn clean_up(&self) -> Result<()> {
        let job = self.node.cleanup_job();
        let mut first_error = None;
        for (system, mut sandbox) in std::mem::take(&mut *self.sandboxes.lock().await) {
            if let Err(error) = sandbox.destroy(&job).await {
                tracing::warn!(%system, %error, "sandbox is left for the next start");
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn place(&self, system: &SystemName) -> Result<Place> {
        match self.mode {
            Mode::Recover | Mode::Plan => Ok(Place::Production),
            Mode::Drill => self.sandboxes.lock().await.get(system).map(|s| s.place()).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "find the sandbox of a system")
                    .with("system", system)
                    .hint("a step that uses a system must come after the one that restores it")
            }),
        }
    }

    pub(super) fn argv(argv: &[String]) -> Result<Program> {
        let (program, args) = argv.split_first().ok_or_else(|| {
            Error::new(ErrorKind::Config, "run an empty command").hint("name a program and its arguments")
        })?;
        let hint = "install it, or name it by its absolute path";
        let found =
            if program.contains('/') { Program::at(program) } else { Program::find(program, &[], hint)? };
        Ok(found.args(args))
    }

    pub(super) async fn run_program(program: &Program, job: &JobContext) -> Result<String> {
        let output = program.output(job).await?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.trim().chars().take(TEXT_CHARS_MAX).collect())
    }
}

#[async_trait]
impl Host for NodeHost {
    fn systems(&self) -> Vec<SystemFact> {
        facts::systems(&self.node.config)
    }

    async fn resolve(
        &self,
        system: &SystemName,
        not_after: Option<Timestamp>,
        job: &JobContext,
    ) -> Result<PointFact> {
        self.find_point(system, not_after, job).await
    }

    async fn restore(&self, act: &RestoreAct, job: &JobContext) -> Result<Restored> {
        match self.mode {
            Mode::Plan => Err(Error::bug("restore while only planning")),
            Mode::Recover => self.restore_in_place(act, job).await,
            Mode::Drill => self.restore_in_sandbox(act, job).await,
        }
    }

    async fn verify(
        &self,
        _act: &Act,
        system: &SystemName,
        point: &Point,
        job: &JobContext,
    ) -> Result<Proof> {
        let place = self.place(system).await?;
        let chain = chain::chain_of(&self.node, &point.backup).await?;
        let source = restore::source(&self.node, &chain, job)?;
        job.progress().set_phase("verifying");
        let verification =
            self.node.system(system)?.verify(&chain::manifests(&chain), &place, &source, job).await?;
        let fresh = canary::freshness(&self.node, system, &place, job).await?;
        let lost = match &fresh.canaries.newest {
            Some(newest) => Some(self.node.catalog.canaries_after(system, newest.seq, self.fault_at).await?),
            None => None,
        };
        Ok(Proof {
            verification,
            watermark: fresh.watermark,
            canaries: Some(fresh.canaries),
            lost,
            ..Proof::default()
        })
    }

    async fn service(
        &self,
        _act: &Act,
        system: &SystemName,
        action: ServiceAction,
        job: &JobContext,
    ) -> Result<()> {
        if self.mode != Mode::Recover {
            return Err(Error::bug("touch a production service in a drill").with("system", system));
        }
        let service = &self.node.system_config(system)?.service;
        let argv = match action {
            ServiceAction::Start => &service.start,
            ServiceAction::Stop => &service.stop,
            ServiceAction::Status => &service.status,
        };
        Self::run_program(&Self::argv(argv)?, job).await.map(drop)
    }

    async fn command(&self, act: &CommandAct, job: &JobContext) -> Result<String> {
        let program = act.env.iter().fold(Self::argv(&act.argv)?, |p, (key, value)| p.env(key, value));
        Self::run_program(&program, job).await
    }

    async fn check(
        &self,
        _act: &Act,
        system: &SystemName,
        which: Option<&str>,
        job: &JobContext,
    ) -> Result<Vec<Check>> {
        let engine = self.node.system(system)?;
        let place = self.place(system).await?;
        let queries = engine.queries().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "ask a system that takes no queries").with("system", system)
        })?;
        let mut checks = Vec::new();
        for c in self.node.system_config(system)?.checks.iter().filter(|c| which.is_none_or(|w| w == c.name))
        {
            let answer = job.run("ask application check", queries.ask(&place, &c.query, job)).await;
            checks.push(match answer {
                Ok(answer) => judge_answer(&c.name, &answer, c.expect.as_deref(), c.min, c.max),
                Err(error) => Check::failed(
                    &c.name,
                    crate::domain::evidence::EvidenceLevel::E6,
                    "an answer",
                    error.to_string(),
                ),
            });
        }
        Ok(checks)
    }

    async fn query(&self, _act: &Act, system: &SystemName, query: &str, job: &JobContext) -> Result<String> {
        let place = self.place(system).await?;
        let queries = self.node.system(system)?.queries().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "ask a system that takes no queries").with("system", system)
        })?;
        job.run("ask system", queries.ask(&place, query, job)).await
    }

    async fn http(&self, act: &HttpAct, job: &JobContext) -> Result<HttpAnswer> {
        http::ask(act, job).await
    }

    async fn answering(&self, system: &SystemName, job: &JobContext) -> Result<()> {
        let place = self.place(system).await?;
        match (&place, self.mode) {
            (Place::Production, Mode::Recover) => {
                let health = self.node.system(system)?.probe(job).await?;
                if health.state == HealthState::Down {
                    return Err(Error::new(ErrorKind::Unreachable, "reach system")
                        .with("system", system)
                        .why(health.summary));
                }
                Ok(())
            }
            // a sandbox is handed out only once its server answers
            _ => Ok(()),
        }
    }

    async fn backup(
        &self,
        act: &Act,
        system: &SystemName,
        kind: BackupKind,
        job: &JobContext,
    ) -> Result<BackupId> {
        if self.mode != Mode::Recover {
            return Err(Error::bug("back production up as part of a drill").with("system", system));
        }
        let order = backup::Order {
            run: self.node.new_run_id(),
            system: system.clone(),
            kind,
            tier: None,
            destination: None,
            verify: VerifyAfterBackup::ReadBack,
            reason: format!("step {} of run {}", act.step, self.run),
        };
        backup::take(&self.node, &order, job).await.map(|r| r.manifest.id)
    }

    async fn notify(&self, notice: &Notice, _job: &JobContext) -> Result<()> {
        let (run, step, text) = (&self.run, &notice.act.step, &notice.text);
        match notice.severity {
            Severity::Info => tracing::info!(%run, %step, text, "notice"),
            Severity::Warning => tracing::warn!(%run, %step, text, "notice"),
            Severity::Critical => tracing::error!(%run, %step, text, "notice"),
        }
        Ok(())
    }

    async fn probe_restore(&self, act: &RestoreAct, _job: &JobContext) -> Result<Probed> {
        if self.mode == Mode::Drill {
            return Ok(Probed::NotStarted);
        }
        match std::fs::read(self.marker(&act.system, "done")) {
            Ok(text) => {
                let restored = serde_json::from_slice(&text).map_err(|e| {
                    Error::new(ErrorKind::Corrupt, "read marker of restore")
                        .with("system", &act.system)
                        .because(e)
                })?;
                Ok(Probed::Done(Box::new(restored)))
            }
            Err(_) => Ok(Probed::Partial),
        }
    }

    fn observe(&self, observation: &Observation) {
        if let Some(observer) = &self.observer {
            observer(observation);
        }
    }

    async fn conclude(&self, execution: &Execution, _job: &JobContext) -> Result<Conclusion> {
        Ok(self.conclude.as_ref().map(|c| c(execution)).unwrap_or_default())
    }
}
