//! An engine in memory: the example to copy, and the one that generic tests use.
//!
//! Production is a map of items behind a mutex; a restored copy is one JSON file. Any call can be told to fail, hang or
//! panic, so that what is built on engines can be tested against the worst of them.

mod backup;
mod client;
mod restore;
mod sandbox;
mod settings;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{
    BackupSink, BackupSource, Canary, DataSystem, Engine, EngineDeps, Health, HealthState, Queries,
    Sandboxing,
};
use crate::domain::backup::{BackupPlan, BackupRequest, Captured, Lease, Watermark};
use crate::domain::id::{RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use client::Server;
pub use client::{Call, Content, Fault};
pub use settings::Settings;

const VERSION: &str = "1.0";

#[derive(Debug)]
pub struct FakeSystem {
    deps: EngineDeps,
    server: Server,
    /// Leases that are held "on the server".
    pins: Mutex<BTreeSet<String>>,
    /// Which run filled which place, so that a repeated restore is recognised.
    restored: Mutex<Vec<(RunId, Place)>>,
}

impl FakeSystem {
    /// Lets the `nth` next call (1 is the next one) meet `fault`, once.
    pub fn inject(&self, call: Call, nth: u32, fault: Fault) {
        self.server.inject(call, nth, fault);
    }

    /// Sets an item in production, or removes it.
    pub fn set(&self, key: &str, value: Option<&str>) {
        let mut production = self.server.production();
        let content = production.get_or_insert_default();
        content.version += 1;
        match value {
            Some(value) => content.items.insert(key.to_owned(), value.to_owned()),
            None => content.items.remove(key),
        };
    }

    /// The disaster: production is gone until it is restored.
    pub fn lose(&self) {
        *self.server.production() = None;
    }

    /// What is at `place`.
    pub fn content(&self, place: &Place) -> Result<Content> {
        self.server.read(place)
    }

    /// Replaces what is at `place`.
    pub fn replace(&self, place: &Place, content: Content) -> Result<()> {
        self.server.write(place, content)
    }

    /// Names of the leases that nobody gave back.
    pub fn held(&self) -> Vec<String> {
        self.pins().iter().cloned().collect()
    }

    fn pins(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of_run(&self, request: &RestoreRequest) -> bool {
        let restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner);
        restored.contains(&(request.run.clone(), request.place.clone()))
    }

    fn remember(&self, request: &RestoreRequest) {
        let mut restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner);
        restored.retain(|(_, place)| *place != request.place);
        restored.push((request.run.clone(), request.place.clone()));
    }
}

impl Engine for FakeSystem {
    const KIND: &'static str = "fake";
    type Settings = Settings;

    fn check(settings: &Settings) -> Vec<(String, String)> {
        settings.check()
    }

    fn build(settings: Settings, deps: EngineDeps) -> Result<Self> {
        if let Some((key, message)) = settings.check().into_iter().next() {
            return Err(Error::new(ErrorKind::Config, "use settings").with("key", key).why(message));
        }
        Ok(Self {
            deps,
            server: Server::with(settings.items),
            pins: Mutex::default(),
            restored: Mutex::default(),
        })
    }
}

#[async_trait]
impl DataSystem for FakeSystem {
    fn name(&self) -> &SystemName {
        &self.deps.name
    }

    fn kind(&self) -> &'static str {
        Self::KIND
    }

    async fn probe(&self, job: &JobContext) -> Result<Health> {
        self.server.pass(Call::Probe, job).await?;
        let (state, summary) = match self.server.read(&Place::Production) {
            Ok(content) => (HealthState::Healthy, format!("{} items", content.items.len())),
            Err(error) => (HealthState::Down, error.to_string()),
        };
        Ok(Health { state, version: Some(VERSION.to_owned()), summary, findings: Vec::new() })
    }

    async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        self.plan(request, job).await
    }

    async fn backup(&self, plan: &BackupPlan, sink: &dyn BackupSink, job: &JobContext) -> Result<Captured> {
        self.capture(plan, sink, job).await
    }

    async fn committed(&self, _manifest: &Manifest, job: &JobContext) -> Result<()> {
        self.server.pass(Call::Committed, job).await
    }

    async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        self.plan_target(request, job).await
    }

    async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        self.put_back(plan, source, job).await
    }

    async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        _source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        self.compare(chain, place, job).await
    }

    async fn watermark(&self, _place: &Place, _job: &JobContext) -> Result<Option<Watermark>> {
        Ok(None)
    }

    async fn release(&self, lease: &Lease, job: &JobContext) -> Result<()> {
        self.server.pass(Call::Release, job).await?;
        self.pins().remove(&lease.name);
        Ok(())
    }

    fn canary(&self) -> Option<&dyn Canary> {
        Some(self)
    }

    fn sandboxing(&self) -> Option<&dyn Sandboxing> {
        Some(self)
    }

    fn queries(&self) -> Option<&dyn Queries> {
        Some(self)
    }
}
