//! A host whose acts behave as scripted, and a world that outlives the orchestrator.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::{at, step};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, BackupState, Watermark, WatermarkSource};
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{BackupId, StepId, SystemName};
use crate::domain::restore::Restored;
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runbook::fact::{Point, PointFact, ServiceAction, SystemFact};
use crate::runbook::host::{
    Act, Answer, CommandAct, Host, HttpAct, HttpAnswer, Notice, Probed, Proof, Question, RestoreAct,
};
use crate::runtime::JobContext;

#[derive(Clone, Copy, Debug)]
pub enum Behave {
    Work(Duration),
    Fail(ErrorKind),
    Hang,
    Panic,
    /// A check that speaks against the copy.
    Red,
}

/// What happened out there. Survives the orchestrator.
#[derive(Debug, Default)]
pub struct World {
    /// Effects that took place, in order: `step`.
    pub effects: Vec<String>,
    pub calls: BTreeMap<String, usize>,
    pub inside: usize,
    pub inside_most: usize,
    pub answer: Option<Answer>,
    pub probe: Option<Probed>,
}

#[derive(Debug)]
pub struct FakeHost {
    pub facts: Vec<SystemFact>,
    pub script: BTreeMap<String, Vec<Behave>>,
    pub world: Mutex<World>,
    /// System to the instant its newest backup holds, per call of `resolve` order.
    pub points: BTreeMap<String, Vec<Timestamp>>,
}

impl FakeHost {
    pub fn new(facts: Vec<SystemFact>) -> Self {
        Self { facts, script: BTreeMap::new(), world: Mutex::default(), points: BTreeMap::new() }
    }

    /// The n-th call of `step` behaves as the n-th entry, later ones as the last.
    #[must_use]
    pub fn on(mut self, step: &str, behave: &[Behave]) -> Self {
        self.script.insert(step.to_owned(), behave.to_vec());
        self
    }

    pub fn effects(&self) -> Vec<String> {
        self.world.lock().unwrap().effects.clone()
    }

    pub fn count(&self, step: &str) -> usize {
        self.effects().iter().filter(|e| *e == step).count()
    }

    /// Gives `true` for a red check.
    async fn act(&self, step: &StepId, effect: Option<&str>) -> Result<bool> {
        let behave = {
            let mut world = self.world.lock().unwrap();
            world.inside += 1;
            world.inside_most = world.inside_most.max(world.inside);
            let n = world.calls.entry(step.to_string()).or_default();
            *n += 1;
            let script = self.script.get(step.as_str());
            script.and_then(|s| s.get(*n - 1).or(s.last())).copied()
        };
        let _leave = Leave(self);
        match behave.unwrap_or(Behave::Work(Duration::from_secs(1))) {
            Behave::Work(time) => tokio::time::sleep(time).await,
            Behave::Fail(kind) => return Err(Error::new(kind, "do as scripted").with("step", step)),
            Behave::Hang => std::future::pending().await,
            Behave::Panic => panic!("scripted panic"),
            Behave::Red => return Ok(true),
        }
        if let Some(effect) = effect {
            self.world.lock().unwrap().effects.push(effect.to_owned());
        }
        Ok(false)
    }
}

struct Leave<'a>(&'a FakeHost);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Ok(mut world) = self.0.world.lock() {
            world.inside -= 1;
        }
    }
}

fn point_at(holds: Timestamp) -> Point {
    let id = BackupId::new(holds, 1);
    Point {
        backup: id.clone(),
        chain: vec![id],
        kind: BackupKind::Full,
        captured_at: holds,
        watermark: Some(Watermark { at: holds, source: WatermarkSource::Canary }),
        state: BackupState::Verified,
        raw_bytes: 4 << 20,
        stored_bytes: 1 << 20,
    }
}

#[async_trait]
impl Host for FakeHost {
    fn systems(&self) -> Vec<SystemFact> {
        self.facts.clone()
    }

    async fn resolve(
        &self,
        system: &SystemName,
        not_after: Option<Timestamp>,
        _job: &JobContext,
    ) -> Result<PointFact> {
        let default = vec![at("11:55:00")];
        let held = self.points.get(system.as_str()).unwrap_or(&default);
        let newest = held.iter().filter(|t| not_after.is_none_or(|n| **t <= n)).max();
        Ok(PointFact {
            point: newest.map(|t| point_at(*t)),
            expected: Some(Duration::from_secs(90)),
            missing: if newest.is_none() { vec!["no backup in reach".into()] } else { vec![] },
            ..PointFact::default()
        })
    }

    async fn restore(&self, act: &RestoreAct, _job: &JobContext) -> Result<Restored> {
        self.act(&act.act.step, Some(act.act.step.as_str())).await?;
        Ok(Restored { items: 10, bytes: 100, ..Restored::default() })
    }

    async fn verify(
        &self,
        act: &Act,
        _system: &SystemName,
        point: &Point,
        _job: &JobContext,
    ) -> Result<Proof> {
        let red = self.act(&act.step, None).await?;
        let mut verification = Verification::new("rows");
        verification.compared = 10;
        verification.push(Check::passed("started", EvidenceLevel::E2, "up"));
        verification.push(Check::passed("integrity", EvidenceLevel::E3, "ok"));
        let found = if red { "9" } else { "10" };
        verification.push(Check::equal("rows of t", EvidenceLevel::E4, "10", found));
        Ok(Proof { verification, watermark: point.watermark, lost: Some(2), ..Proof::default() })
    }

    async fn service(
        &self,
        act: &Act,
        _: &SystemName,
        action: ServiceAction,
        _job: &JobContext,
    ) -> Result<()> {
        let effect = format!("{}:{action}", act.step);
        self.act(&act.step, Some(&effect)).await.map(|_| ())
    }

    async fn command(&self, act: &CommandAct, _job: &JobContext) -> Result<String> {
        if act.argv[0] == "did" {
            let done = self.count(&act.argv[1]) > 0;
            return if done {
                Ok("yes".into())
            } else {
                Err(Error::new(ErrorKind::Failed, "finish program"))
            };
        }
        self.act(&act.act.step, Some(act.act.step.as_str())).await?;
        Ok(act.argv.join(" "))
    }

    async fn check(
        &self,
        act: &Act,
        _: &SystemName,
        _: Option<&str>,
        _job: &JobContext,
    ) -> Result<Vec<Check>> {
        let red = self.act(&act.step, None).await?;
        let found = if red { "0" } else { "7" };
        Ok(vec![Check::equal("orders", EvidenceLevel::E6, "7", found)])
    }

    async fn query(&self, act: &Act, _: &SystemName, query: &str, _job: &JobContext) -> Result<String> {
        let red = self.act(&act.step, None).await?;
        Ok(if red { String::new() } else { query.to_owned() })
    }

    async fn http(&self, act: &HttpAct, _job: &JobContext) -> Result<HttpAnswer> {
        let red = self.act(&act.act.step, None).await?;
        Ok(HttpAnswer { status: if red { 500 } else { 200 }, body: "fine".into() })
    }

    async fn answering(&self, system: &SystemName, _job: &JobContext) -> Result<()> {
        self.act(&step(&format!("{system}/answering")), None).await.map(|_| ())
    }

    async fn backup(&self, act: &Act, _: &SystemName, _: BackupKind, job: &JobContext) -> Result<BackupId> {
        self.act(&act.step, Some(act.step.as_str())).await?;
        Ok(BackupId::new(job.now(), 9))
    }

    async fn notify(&self, notice: &Notice, _job: &JobContext) -> Result<()> {
        self.act(&notice.act.step, Some(notice.act.step.as_str())).await.map(|_| ())
    }

    async fn ask(&self, _question: &Question, _job: &JobContext) -> Result<Option<Answer>> {
        Ok(self.world.lock().unwrap().answer.clone())
    }

    async fn probe_restore(&self, act: &RestoreAct, _job: &JobContext) -> Result<Probed> {
        if let Some(probed) = self.world.lock().unwrap().probe.clone() {
            return Ok(probed);
        }
        let done = self.count(act.act.step.as_str()) > 0;
        Ok(if done { Probed::Done(Box::default()) } else { Probed::Partial })
    }
}
