//! Restoring as a step of a run: in place behind a safety backup, or in a sandbox.

use std::path::PathBuf;
use std::time::Duration;

use super::NodeHost;
use crate::domain::id::SystemName;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, Restored, Selection};
use crate::error::{Error, ErrorKind, Result};
use crate::operation::restore::Safety;
use crate::operation::{marker, restore};
use crate::runbook::host::RestoreAct;
use crate::runtime::JobContext;
use crate::runtime::lock::SystemLock;
use crate::system::{HealthState, SandboxOrder};

/// A server that has not come up by then will not.
const START_WITHIN: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(200);

impl NodeHost {
    pub(super) fn order(&self, act: &RestoreAct, place: Place, existing: Existing) -> restore::Order {
        restore::Order {
            run: self.run.clone(),
            backup: act.point.backup.clone(),
            place,
            existing,
            safety: self.safety,
            selection: Selection::default(),
        }
    }

    /// `{state}/restores/{run}-{system}.{what}`: durable notes about in-place restores.
    pub(super) fn marker(&self, system: &SystemName, what: &str) -> PathBuf {
        self.node.config.state_dir.join("restores").join(format!("{}-{system}.{what}", self.run))
    }

    async fn set_marker(
        &self,
        system: &SystemName,
        what: &str,
        content: &serde_json::Value,
        job: &JobContext,
    ) -> Result<()> {
        let (path, text) = (self.marker(system, what), content.to_string());
        let write = job.workers().block("write marker", move || marker::write(&path, text.as_bytes()));
        job.run("write marker of restore", write).await
    }

    pub(super) async fn restore_in_place(&self, act: &RestoreAct, job: &JobContext) -> Result<Restored> {
        if self.safety == Safety::BackupFirst && !self.marker(&act.system, "safe").is_file() {
            let taken = restore::safety_backup(&self.node, &act.system, job).await?;
            self.set_marker(&act.system, "safe", &serde_json::json!({ "backup": taken }), job).await?;
        }
        self.start_for_restore(act, job).await?;
        let mut lock = SystemLock::acquire(&self.node.locks_dir(), &act.system)?;
        lock.name_run(&self.run)?;
        let planned =
            restore::plan(&self.node, &self.order(act, Place::Production, Existing::Replace), job).await?;
        restore::possible(&planned.plan)?;
        let restored = restore::execute(&self.node, &planned, job).await?;
        let content =
            serde_json::to_value(&restored).map_err(|e| Error::bug("write restored as json").because(e))?;
        self.set_marker(&act.system, "done", &content, job).await?;
        Ok(restored)
    }

    /// A restore that goes through a running server needs one, whatever the runbook stopped before.
    async fn start_for_restore(&self, act: &RestoreAct, job: &JobContext) -> Result<()> {
        let engine = self.node.system(&act.system)?;
        let manifest = self.node.catalog.backup(&act.point.backup).await?.manifest;
        let needs_server = engine
            .sandboxing()
            .is_some_and(|s| s.order(&manifest.captured) == SandboxOrder::StartThenRestore);
        let start = &self.node.system_config(&act.system)?.service.start;
        if !needs_server || start.is_empty() || engine.probe(job).await?.state != HealthState::Down {
            return Ok(());
        }
        Self::run_program(&Self::argv(start)?, job).await?;
        let limit = job.child(START_WITHIN);
        while engine.probe(&limit).await?.state == HealthState::Down {
            limit.sleep("wait for the server to restore into", POLL_EVERY).await?;
        }
        Ok(())
    }

    /// Takes the notes of a run that has ended away.
    pub fn forget_markers(&self, systems: &[SystemName]) {
        for system in systems {
            for what in ["safe", "done"] {
                let path = self.marker(system, what);
                if let Err(error) = std::fs::remove_file(&path)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), %error, "note of an ended run is left");
                }
            }
        }
    }

    pub(super) async fn restore_in_sandbox(&self, act: &RestoreAct, job: &JobContext) -> Result<Restored> {
        let engine = self.node.system(&act.system)?.clone();
        let sandboxing = engine.sandboxing().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "drill a system that has no sandbox")
                .with("system", &act.system)
        })?;
        sandboxing.programs()?;
        let manifest = self.node.catalog.backup(&act.point.backup).await?.manifest;
        let order = sandboxing.order(&manifest.captured);
        let mut all = self.sandboxes.lock().await;
        if let Some(mut earlier) = all.remove(&act.system) {
            earlier.destroy(job).await?;
        }
        let sandbox = self.node.sandboxes.create(&self.run, &act.system, job).await?;
        // kept from here on, so that every exit path finds and destroys it
        let sandbox = all.entry(act.system.clone()).or_insert(sandbox);
        let directory = sandbox.directory();
        if order == SandboxOrder::StartThenRestore {
            sandbox.start_empty(&*engine, job).await?;
        }
        let place = if order == SandboxOrder::StartThenRestore { sandbox.place() } else { directory };
        drop(all);
        let planned = restore::plan(&self.node, &self.order(act, place, Existing::Replace), job).await?;
        restore::possible(&planned.plan)?;
        let mut restored = restore::execute(&self.node, &planned, job).await?;
        if order != SandboxOrder::StartThenRestore {
            let mut all = self.sandboxes.lock().await;
            let sandbox =
                all.get_mut(&act.system).ok_or_else(|| Error::bug("keep the sandbox of a drill"))?;
            let neutralised = sandbox.start_restored(&*engine, job).await?;
            restored.notes.extend(neutralised.into_iter().map(|n| format!("neutralised: {n}")));
        }
        Ok(restored)
    }
}
