//! What lifeboat does, as functions over a [`Node`]: take a backup, restore it, verify it, carry out a scenario.
//!
//! The same functions serve the CLI, the actors and the demo, so that nothing is done in two ways. This layer names ports
//! only; `app` hands it concrete types.

pub mod assess;
pub mod backup;
pub mod canary;
pub mod chain;
pub mod forecast;
pub mod host;
mod http;
pub mod lease;
pub mod library;
mod marker;
pub mod recover;
pub mod restore;
pub mod verify;
pub mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, NewRun, RunEnd};
use crate::config::{Config, SystemConfig};
use crate::domain::id::{DestinationName, RunId, SystemName};
use crate::domain::run::{RunKind, RunState};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::keys::{EncryptionKeys, Identities};
use crate::pipeline::signing::{SigningKey, TrustedSigners};
use crate::runtime::{Clock, JobContext, Workers, process};
use crate::sandbox::Provider;
use crate::storage::Storage;
use crate::system::SharedSystem;

/// Cleaning up gets this long, also after the work itself was cancelled.
const CLEANUP_WITHIN: Duration = Duration::from_secs(60);

/// Everything that work needs, put together by `app`.
#[derive(Clone)]
pub struct Node {
    pub config: Arc<Config>,
    pub catalog: Arc<dyn Catalog>,
    pub systems: BTreeMap<SystemName, SharedSystem>,
    pub storages: BTreeMap<DestinationName, Arc<dyn Storage>>,
    pub sandboxes: Arc<dyn Provider>,
    pub clock: Arc<dyn Clock>,
    pub workers: Workers,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("config", &self.config.file).finish_non_exhaustive()
    }
}

impl Node {
    pub fn job(&self) -> JobContext {
        JobContext::new(self.clock.clone(), self.workers.clone())
    }

    /// A job for cleaning up: not cancelled with the work, bounded by itself.
    fn cleanup_job(&self) -> JobContext {
        self.job().child(CLEANUP_WITHIN)
    }

    pub fn new_run_id(&self) -> RunId {
        RunId::new(self.clock.now(), self.clock.random())
    }

    pub fn system(&self, name: &SystemName) -> Result<&SharedSystem> {
        self.systems.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.systems.keys().map(SystemName::as_str).collect();
            Error::new(ErrorKind::NotFound, "find system")
                .with("system", name)
                .hint(format!("configured systems: {}", known.join(", ")))
        })
    }

    pub fn system_config(&self, name: &SystemName) -> Result<&SystemConfig> {
        self.config.system(name.as_str())
    }

    pub fn storage(&self, name: &DestinationName) -> Result<&Arc<dyn Storage>> {
        self.storages.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.storages.keys().map(DestinationName::as_str).collect();
            Error::new(ErrorKind::NotFound, "find destination")
                .with("destination", name)
                .hint(format!("configured destinations: {}", known.join(", ")))
        })
    }

    pub fn locks_dir(&self) -> PathBuf {
        self.config.state_dir.join("locks")
    }

    pub fn reports_dir(&self) -> PathBuf {
        self.config.state_dir.join("reports")
    }

    pub fn recipients(&self) -> Result<EncryptionKeys> {
        if !self.config.encryption.enabled {
            return EncryptionKeys::parse::<&str>(&[]);
        }
        EncryptionKeys::load(&self.config.encryption.recipients_file).map_err(no_keys)
    }

    /// Secret keys that open backups. With encryption off and no key files there are none, which is fine.
    pub fn identities(&self) -> Result<Identities> {
        let files = &self.config.encryption.identity_files;
        if !self.config.encryption.enabled && !files.iter().any(|f| f.is_file()) {
            return Ok(Identities::default());
        }
        let loaded = Identities::load(files).map_err(no_keys)?;
        for finding in &loaded.findings {
            tracing::warn!(finding, "key file");
        }
        Ok(loaded.keys)
    }

    pub fn signing_key(&self) -> Result<SigningKey> {
        let loaded = SigningKey::load(&self.config.encryption.signing_key).map_err(no_keys)?;
        for finding in &loaded.findings {
            tracing::warn!(finding, "key file");
        }
        Ok(loaded.keys)
    }

    pub fn trusted(&self) -> Result<TrustedSigners> {
        TrustedSigners::load(&self.config.encryption.signers_file).map_err(no_keys)
    }

    /// Opens the record of a run carried by this process.
    async fn open_run(
        &self,
        id: &RunId,
        kind: RunKind,
        system: Option<&SystemName>,
        subject: Option<String>,
        detail: serde_json::Value,
    ) -> Result<()> {
        let run = NewRun {
            id: id.clone(),
            kind,
            system: system.cloned(),
            subject,
            started_at: self.clock.now(),
            owner: process::own_identity(),
            detail,
        };
        self.catalog.open_run(&run).await
    }

    /// Closes a run of epoch 1 with the state that follows from `result`; the first error is the one that counts.
    async fn close_run<T>(&self, id: &RunId, result: Result<T>, mut end: RunEnd) -> Result<T> {
        let state = match &result {
            Ok(_) => RunState::Succeeded,
            Err(e) if e.kind() == ErrorKind::Cancelled => RunState::Aborted,
            Err(_) => RunState::Failed,
        };
        end.error = result.as_ref().err().map(ToString::to_string);
        let moved = self.catalog.move_run(id, FIRST_EPOCH, state, end, self.clock.now()).await;
        match (result, moved) {
            (Ok(value), Ok(())) => Ok(value),
            (Ok(_), Err(error)) => Err(error.during("record the end of the run")),
            (Err(error), moved) => {
                if let Err(second) = moved {
                    tracing::warn!(run = %id, %second, "the end of the run was not recorded");
                }
                Err(error)
            }
        }
    }
}

/// Runs that never resume stay in their first epoch.
pub const FIRST_EPOCH: u32 = 1;

fn no_keys(error: Error) -> Error {
    error.hint("make keys with `lifeboat keys init`, or name the files under [encryption]")
}
