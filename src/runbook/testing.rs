//! For tests of execution: a catalog in memory that can die like a process, a world with scripted behaviour, and plans
//! made from YAML.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::execute::{Direction, ExecuteRequest, Execution, execute};
use super::fact::{Point, PointFact, ServiceAction, SystemFact};
use super::host::{
    Act, Answer, CommandAct, Host, HttpAct, HttpAnswer, Notice, Probed, Proof, Question, RestoreAct,
};
use super::model::Mode;
use super::plan::Plan;
use crate::catalog::{BackupQuery, BackupRecord, Catalog, HeldLease, LedgerEntry, NewRun, Resource, RunEnd};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, BackupState, Lease, Watermark, WatermarkSource};
use crate::domain::canary::CanaryRecord;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{BackupId, DestinationName, RunId, ScenarioName, StepId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::objective::{Objectives, Role};
use crate::domain::restore::Restored;
use crate::domain::run::{JournalRecord, Owner, RunEvent, RunKind, RunRecord, RunState};
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{Clock, JobContext, Workers};
use crate::scenario::expand::{Ask, expand};
use crate::scenario::library::Library;

/// Wall time that follows the runtime's paused clock.
#[derive(Debug)]
pub struct RuntimeClock {
    base: Timestamp,
    start: tokio::time::Instant,
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        self.base + self.start.elapsed()
    }
    fn random(&self) -> u32 {
        7
    }
}

pub fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().unwrap()
}

pub fn job() -> JobContext {
    let clock = RuntimeClock {
        base: at("12:00:00"),
        start: tokio::time::Instant::now(),
    };
    JobContext::new(Arc::new(clock), Workers::with_cores(2))
}

pub fn system(name: &str) -> SystemName {
    SystemName::parse(name).unwrap()
}

pub fn step(id: &str) -> StepId {
    StepId::parse(id).unwrap()
}

pub fn fact(name: &str, kind: &str) -> SystemFact {
    SystemFact {
        name: system(name),
        kind: kind.to_owned(),
        role: Role::for_kind(kind),
        objectives: Objectives::for_kind(kind),
        service_actions: BTreeSet::from([ServiceAction::Start, ServiceAction::Stop]),
        checks: vec!["orders".to_owned()],
    }
}

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
        Self {
            facts,
            script: BTreeMap::new(),
            world: Mutex::default(),
            points: BTreeMap::new(),
        }
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
        watermark: Some(Watermark {
            at: holds,
            source: WatermarkSource::Canary,
        }),
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
            missing: if newest.is_none() {
                vec!["no backup in reach".into()]
            } else {
                vec![]
            },
            ..PointFact::default()
        })
    }

    async fn restore(&self, act: &RestoreAct, _job: &JobContext) -> Result<Restored> {
        self.act(&act.act.step, Some(act.act.step.as_str())).await?;
        Ok(Restored {
            items: 10,
            bytes: 100,
            ..Restored::default()
        })
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
        Ok(Proof {
            verification,
            watermark: point.watermark,
            lost: Some(2),
            ..Proof::default()
        })
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
        Ok(HttpAnswer {
            status: if red { 500 } else { 200 },
            body: "fine".into(),
        })
    }

    async fn answering(&self, system: &SystemName, _job: &JobContext) -> Result<()> {
        self.act(&step(&format!("{system}/answering")), None)
            .await
            .map(|_| ())
    }

    async fn backup(&self, act: &Act, _: &SystemName, _: BackupKind, job: &JobContext) -> Result<BackupId> {
        self.act(&act.step, Some(act.step.as_str())).await?;
        Ok(BackupId::new(job.now(), 9))
    }

    async fn notify(&self, notice: &Notice, _job: &JobContext) -> Result<()> {
        self.act(&notice.act.step, Some(notice.act.step.as_str()))
            .await
            .map(|_| ())
    }

    async fn ask(&self, _question: &Question, _job: &JobContext) -> Result<Option<Answer>> {
        Ok(self.world.lock().unwrap().answer.clone())
    }

    async fn probe_restore(&self, act: &RestoreAct, _job: &JobContext) -> Result<Probed> {
        if let Some(probed) = self.world.lock().unwrap().probe.clone() {
            return Ok(probed);
        }
        let done = self.count(act.act.step.as_str()) > 0;
        Ok(if done {
            Probed::Done(Box::default())
        } else {
            Probed::Partial
        })
    }
}

/// Where a dying catalog takes the process down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Before(usize),
    After(usize),
    Never,
}

#[derive(Debug, Default)]
struct Memory {
    run: Option<RunRecord>,
    journal: Vec<JournalRecord>,
}

/// One run in memory. With a death set, the call it meets never returns: as for a process that was killed there.
#[derive(Debug)]
pub struct MemoryCatalog {
    memory: Mutex<Memory>,
    death: Mutex<(Death, usize)>,
    pub died: Notify,
}

impl Default for MemoryCatalog {
    fn default() -> Self {
        Self {
            memory: Mutex::default(),
            death: Mutex::new((Death::Never, 0)),
            died: Notify::new(),
        }
    }
}

impl MemoryCatalog {
    pub fn set_death(&self, death: Death) {
        *self.death.lock().unwrap() = (death, 0);
    }

    /// Writes since the death was set.
    pub fn writes(&self) -> usize {
        self.death.lock().unwrap().1
    }

    pub fn events(&self) -> Vec<RunEvent> {
        self.memory
            .lock()
            .unwrap()
            .journal
            .iter()
            .map(|r| r.event.clone())
            .collect()
    }

    async fn write<T>(&self, change: impl FnOnce(&mut Memory) -> Result<T> + Send) -> Result<T> {
        let (death, nth) = {
            let mut state = self.death.lock().unwrap();
            state.1 += 1;
            *state
        };
        let dead = |k: usize| nth > k;
        match death {
            Death::Before(k) if nth == k || dead(k) => self.die().await,
            Death::After(k) if dead(k) => self.die().await,
            Death::Before(_) | Death::After(_) | Death::Never => {}
        }
        let result = change(&mut self.memory.lock().unwrap());
        if death == Death::After(nth) {
            self.die().await;
        }
        result
    }

    async fn die(&self) {
        self.died.notify_one();
        std::future::pending::<()>().await;
    }
}

fn not_here<T>() -> Result<T> {
    Err(Error::bug("use the test catalog for that"))
}

fn newest(memory: &mut Memory, epoch: u32) -> Result<&mut RunRecord> {
    let run = memory.run.as_mut().unwrap();
    if run.epoch == epoch {
        return Ok(run);
    }
    Err(Error::new(ErrorKind::Conflict, "write with an old epoch").with("epoch", epoch))
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn open_run(&self, run: &NewRun) -> Result<()> {
        self.memory.lock().unwrap().run = Some(RunRecord {
            id: run.id.clone(),
            kind: run.kind,
            system: None,
            subject: None,
            state: RunState::Running,
            started_at: run.started_at,
            finished_at: None,
            owner: run.owner.clone(),
            epoch: 1,
            verdict: None,
            level: None,
            error: None,
            detail: serde_json::Value::Null,
        });
        Ok(())
    }
    async fn run(&self, _: &RunId) -> Result<RunRecord> {
        Ok(self.memory.lock().unwrap().run.clone().unwrap())
    }
    async fn runs(&self, _: u32) -> Result<Vec<RunRecord>> {
        not_here()
    }
    async fn unfinished_runs(&self) -> Result<Vec<RunRecord>> {
        not_here()
    }
    async fn adopt_run(&self, _: &RunId, seen: u32, _: &Owner) -> Result<u32> {
        let mut memory = self.memory.lock().unwrap();
        let run = newest(&mut memory, seen)?;
        assert!(!run.state.is_final());
        run.epoch += 1;
        run.state = RunState::Running;
        Ok(run.epoch)
    }
    async fn move_run(
        &self,
        _: &RunId,
        epoch: u32,
        state: RunState,
        end: RunEnd,
        at: Timestamp,
    ) -> Result<()> {
        let change = move |memory: &mut Memory| {
            let run = newest(memory, epoch)?;
            assert!(run.state.may_become(state), "{} -> {state}", run.state);
            run.state = state;
            run.verdict = end.verdict;
            run.level = end.level;
            run.error = end.error;
            run.finished_at = state.is_final().then_some(at);
            Ok(())
        };
        self.write(change).await
    }
    async fn set_run_detail(&self, _: &RunId, _: u32, _: &serde_json::Value) -> Result<()> {
        not_here()
    }
    async fn append(&self, _: &RunId, epoch: u32, event: &RunEvent, at: Timestamp) -> Result<u64> {
        let change = |memory: &mut Memory| {
            newest(memory, epoch)?;
            let seq = memory.journal.len() as u64 + 1;
            let event = event.clone();
            memory.journal.push(JournalRecord {
                seq,
                at,
                epoch,
                event,
            });
            Ok(seq)
        };
        self.write(change).await
    }
    async fn journal(&self, _: &RunId) -> Result<Vec<JournalRecord>> {
        Ok(self.memory.lock().unwrap().journal.clone())
    }
    async fn commit_backup(&self, _: &Manifest, _: &DestinationName) -> Result<()> {
        not_here()
    }
    async fn backup(&self, _: &BackupId) -> Result<BackupRecord> {
        not_here()
    }
    async fn backups(&self, _: &BackupQuery) -> Result<Vec<BackupRecord>> {
        not_here()
    }
    async fn set_backup_state(&self, _: &BackupId, _: BackupState, _: Timestamp) -> Result<()> {
        not_here()
    }
    async fn record_proof(&self, _: &BackupId, _: &crate::catalog::Proof) -> Result<()> {
        not_here()
    }
    async fn forget_backup(&self, _: &BackupId) -> Result<()> {
        not_here()
    }
    async fn record_lease(&self, _: &RunId, _: &Lease, _: Timestamp) -> Result<()> {
        not_here()
    }
    async fn keep_lease(&self, _: &Lease) -> Result<()> {
        not_here()
    }
    async fn clear_lease(&self, _: &Lease) -> Result<()> {
        not_here()
    }
    async fn leases(&self) -> Result<Vec<HeldLease>> {
        not_here()
    }
    async fn record_resource(&self, _: &RunId, _: &Owner, _: &Resource, _: Timestamp) -> Result<i64> {
        not_here()
    }
    async fn clear_resource(&self, _: i64) -> Result<()> {
        not_here()
    }
    async fn resources(&self) -> Result<Vec<LedgerEntry>> {
        not_here()
    }
    async fn next_canary(&self, _: &SystemName) -> Result<u64> {
        not_here()
    }
    async fn canary_written(&self, _: &SystemName, _: &CanaryRecord) -> Result<()> {
        not_here()
    }
    async fn canaries_after(&self, _: &SystemName, _: u64, _: Timestamp) -> Result<u64> {
        not_here()
    }
}

fn owner() -> Owner {
    Owner {
        pid: 1,
        started: "1".into(),
        host: "h".into(),
    }
}

pub fn run_id() -> RunId {
    RunId::new(at("12:00:00"), 1)
}

/// A run that can be started, killed and resumed.
#[derive(Debug)]
pub struct Bench {
    pub host: Arc<FakeHost>,
    pub catalog: Arc<MemoryCatalog>,
    pub plan: Plan,
}

/// A scenario that answers every given kind with the one runbook.
pub fn library(runbook: &str, kinds: &[&str]) -> Library {
    let answers: String = kinds
        .iter()
        .map(|k| format!("  - {{id: for-{k}, runbook: r, for: {{kind: {k}}}}}\n"))
        .collect();
    let scenario = format!("schema: lifeboat.scenario/1\nname: s\ntitle: S\nwhy: test\nanswers:\n{answers}");
    let header =
        "schema: lifeboat.runbook/1\nname: r\ntitle: R\nwhy: test\ninputs:\n  system: {type: system}\n";
    let text = format!("{header}{runbook}");
    let (library, problems) = Library::read(vec![("r.yaml".into(), text)], vec![("s.yaml".into(), scenario)]);
    assert!(problems.is_empty(), "{problems:#?}");
    library
}

pub async fn plan_of(library: &Library, host: &FakeHost, mode: Mode) -> Plan {
    let scenario = library.scenario(&ScenarioName::parse("s").unwrap()).unwrap();
    let ask = Ask {
        mode,
        only: BTreeSet::new(),
        inputs: BTreeMap::new(),
    };
    let draft = expand(library, scenario, &host.facts, &ask).unwrap();
    Plan::resolve(draft, host, &job()).await.unwrap()
}

impl Bench {
    pub async fn new(runbook: &str, mode: Mode, host: FakeHost) -> Self {
        let kinds: BTreeSet<&str> = host.facts.iter().map(|f| f.kind.as_str()).collect();
        let kinds: Vec<&str> = kinds.into_iter().collect();
        let plan = plan_of(&library(runbook, &kinds), &host, mode).await;
        let catalog = Arc::new(MemoryCatalog::default());
        let run = NewRun {
            id: run_id(),
            kind: RunKind::Recover,
            system: None,
            subject: None,
            started_at: at("12:00:00"),
            owner: owner(),
            detail: serde_json::Value::Null,
        };
        catalog.open_run(&run).await.unwrap();
        Self {
            host: Arc::new(host),
            catalog,
            plan,
        }
    }

    pub fn request(&self, epoch: u32, direction: Direction) -> ExecuteRequest {
        ExecuteRequest {
            run: run_id(),
            epoch,
            plan: self.plan.clone(),
            direction,
        }
    }

    pub async fn start(&self, job: &JobContext) -> Result<Execution> {
        let request = self.request(1, Direction::Forward);
        execute(request, self.host.clone(), self.catalog.clone(), job).await
    }

    pub async fn resume(&self, job: &JobContext) -> Result<Execution> {
        self.resume_as(Direction::Forward, job).await
    }

    pub async fn resume_as(&self, direction: Direction, job: &JobContext) -> Result<Execution> {
        let seen = self.catalog.run(&run_id()).await?.epoch;
        let epoch = self.catalog.adopt_run(&run_id(), seen, &owner()).await?;
        execute(
            self.request(epoch, direction),
            self.host.clone(),
            self.catalog.clone(),
            job,
        )
        .await
    }

    /// `None` when the process died on the way.
    pub async fn until_death(&self, death: Death, job: &JobContext, resuming: bool) -> Option<Execution> {
        self.catalog.set_death(death);
        let ended = async {
            if resuming {
                self.resume(job).await
            } else {
                self.start(job).await
            }
        };
        let ended = tokio::select! {
            biased;
            result = ended => Some(result.unwrap()),
            () = self.catalog.died.notified() => None,
        };
        self.catalog.set_death(Death::Never);
        // what was aborted goes now
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        ended
    }
}
