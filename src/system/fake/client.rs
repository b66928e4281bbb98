//! The "server": production in memory, copies as one JSON file in a directory. And faults on demand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::domain::canary::CanaryRecord;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;

/// One state of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Rises with every change; the engine's own place in history.
    pub version: u64,
    pub items: BTreeMap<String, String>,
    #[serde(default)]
    pub canaries: Vec<CanaryRecord>,
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Probe,
    PlanBackup,
    Backup,
    /// In the middle of a backup, with an artifact open.
    BackupHalf,
    Committed,
    PlanRestore,
    Restore,
    Verify,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Fail(ErrorKind),
    /// Never returns; ends with the job only.
    Hang,
    Panic,
}

#[derive(Debug, Default)]
pub(super) struct Server {
    production: Mutex<Option<Content>>,
    faults: Mutex<BTreeMap<Call, (u32, Fault)>>,
}

impl Server {
    pub(super) fn with(items: BTreeMap<String, String>) -> Self {
        let content = Content { version: 1, items, canaries: Vec::new() };
        Self { production: Mutex::new(Some(content)), faults: Mutex::default() }
    }

    pub(super) fn inject(&self, call: Call, nth: u32, fault: Fault) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(call, (nth, fault));
    }

    /// Lets a fault that is due strike. Each strikes once.
    pub(super) async fn pass(&self, call: Call, job: &JobContext) -> Result<()> {
        job.check("reach the fake server")?;
        match self.due(call) {
            None => Ok(()),
            Some(Fault::Fail(kind)) => Err(Error::new(kind, "carry on")
                .with("call", format!("{call:?}"))
                .why("a fault was asked for")),
            Some(Fault::Hang) => {
                job.run("wait for the fake server", std::future::pending::<Result<()>>()).await
            }
            #[expect(clippy::panic, reason = "the fault that was asked for")]
            Some(Fault::Panic) => panic!("a fault was asked for at {call:?}"),
        }
    }

    fn due(&self, call: Call) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (nth, fault) = faults.get_mut(&call)?;
        *nth = nth.saturating_sub(1);
        let (due, fault) = (*nth == 0, *fault);
        if due {
            faults.remove(&call);
        }
        due.then_some(fault)
    }

    pub(super) fn production(&self) -> MutexGuard<'_, Option<Content>> {
        self.production.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content at `place`; `NotFound` when there is none.
    pub(super) fn read(&self, place: &Place) -> Result<Content> {
        match file(place) {
            None => self
                .production()
                .clone()
                .ok_or_else(|| Error::new(ErrorKind::Unreachable, "reach the fake server")),
            Some(path) => load(&path),
        }
    }

    pub(super) fn write(&self, place: &Place, content: Content) -> Result<()> {
        match file(place) {
            None => *self.production() = Some(content),
            Some(path) => save(&path, &content)?,
        }
        Ok(())
    }
}

/// The file of a copy; `None` for production.
pub(super) fn file(place: &Place) -> Option<PathBuf> {
    match place {
        Place::Production => None,
        Place::Directory { path } => Some(path.join("items.json")),
        Place::Server(server) => Some(server.dir.join("items.json")),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Content> {
    serde_json::from_slice(bytes).map_err(|e| Error::new(ErrorKind::Corrupt, "read items").because(e))
}

pub(super) fn encode(content: &Content) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|e| Error::bug("write items").because(e))
}

fn load(path: &Path) -> Result<Content> {
    decode(&std::fs::read(path).or_io("read copy", path)?).map_err(|e| e.with("path", path.display()))
}

fn save(path: &Path, content: &Content) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir).or_io("write copy", dir)?;
    let aside = path.with_extension("new");
    std::fs::write(&aside, encode(content)?).or_io("write copy", &aside)?;
    std::fs::rename(&aside, path).or_io("write copy", path)
}
