//! For tests of execution: a clock that follows the runtime's, plans made from YAML, and runs that can be started,
//! killed and resumed.

mod catalog;
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use catalog::{Death, MemoryCatalog};
pub use host::{Behave, FakeHost};

use super::execute::{Direction, ExecuteRequest, Execution, execute};
use super::fact::{ServiceAction, SystemFact};
use super::model::Mode;
use super::plan::Plan;
use crate::catalog::{Catalog, NewRun};
use crate::domain::Timestamp;
use crate::domain::id::{RunId, ScenarioName, StepId, SystemName};
use crate::domain::objective::{Objectives, Role};
use crate::domain::run::{Owner, RunKind};
use crate::error::Result;
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
    let clock = RuntimeClock { base: at("12:00:00"), start: tokio::time::Instant::now() };
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

fn owner() -> Owner {
    Owner { pid: 1, started: "1".into(), host: "h".into() }
}

pub fn run_id() -> RunId {
    RunId::new(at("12:00:00"), 1)
}

#[derive(Clone, Copy, Debug)]
pub enum Launch {
    Start,
    Resume,
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
    let answers: String =
        kinds.iter().map(|k| format!("  - {{id: for-{k}, runbook: r, for: {{kind: {k}}}}}\n")).collect();
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
    let ask = Ask { mode, only: BTreeSet::new(), inputs: BTreeMap::new() };
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
        Self { host: Arc::new(host), catalog, plan }
    }

    pub fn request(&self, epoch: u32, direction: Direction) -> ExecuteRequest {
        ExecuteRequest { run: run_id(), epoch, plan: self.plan.clone(), direction }
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
        execute(self.request(epoch, direction), self.host.clone(), self.catalog.clone(), job).await
    }

    /// `None` when the process died on the way.
    pub async fn until_death(&self, death: Death, job: &JobContext, launch: Launch) -> Option<Execution> {
        self.catalog.set_death(death);
        let ended = async {
            match launch {
                Launch::Start => self.start(job).await,
                Launch::Resume => self.resume(job).await,
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
