//! Files engine: a directory tree as a pax tar archive, with an index of every entry and, for incrementals, deletions.
//!
//! Invariants: nothing outside the root is read or written; no link is followed; a file that changed while it was read is
//! never counted clean; an incremental builds only on an index that belongs to its parent.

mod backup;
mod cache;
mod canary;
mod crew;
mod entry;
mod fingerprint;
mod grab;
mod index;
#[cfg(test)]
mod live_tests;
mod place;
mod query;
mod record;
mod restore;
mod sandbox;
mod scan;
mod selection;
mod settings;
mod stream;
mod tally;
mod verify;
mod walk;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use self::cache::IndexCache;
use self::grab::ReadHook;
pub use self::settings::FilesSettings;
use self::tally::{Detail, is_write};
use crate::archive::{list, show};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupPlan, BackupRequest, Captured, Lease, Watermark, WatermarkSource};
use crate::domain::id::{ArtifactName, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::{
    BackupSink, BackupSource, Canary, DataSystem, Engine, EngineDeps, Health, HealthState, Queries,
    Sandboxing,
};

const KIND: &str = "files";
/// The archive.
pub(crate) const TREE: &str = "tree.tar";
/// One line for every entry of the whole tree, whatever the kind of the backup.
pub(crate) const INDEX: &str = "index";
/// Paths gone since the parent, each ended by a NUL byte; incrementals only.
pub(crate) const DELETED: &str = "deleted";
/// Directories at the top that a probe tries to open.
const PROBED_MAX: usize = 1000;

#[derive(Clone)]
pub struct FilesSystem {
    name: SystemName,
    settings: Arc<FilesSettings>,
    cache: IndexCache,
    #[cfg(test)]
    hook: Option<ReadHook>,
}

impl fmt::Debug for FilesSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesSystem")
            .field("name", &self.name)
            .field("path", &self.settings.path)
            .finish_non_exhaustive()
    }
}

impl Engine for FilesSystem {
    const KIND: &'static str = KIND;
    type Settings = FilesSettings;

    fn check(settings: &FilesSettings) -> Vec<(String, String)> {
        settings.problems()
    }

    fn build(settings: FilesSettings, deps: EngineDeps) -> Result<Self> {
        if let Some((key, message)) = settings.problems().into_iter().next() {
            return Err(Error::new(ErrorKind::Config, "use settings of files")
                .with("system", &deps.name)
                .with("key", key)
                .why(message));
        }
        Ok(Self {
            name: deps.name,
            settings: Arc::new(settings),
            cache: IndexCache::new(deps.state_dir),
            #[cfg(test)]
            hook: None,
        })
    }
}

#[async_trait]
impl DataSystem for FilesSystem {
    fn name(&self) -> &SystemName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn probe(&self, job: &JobContext) -> Result<Health> {
        let root = self.settings.path.clone();
        job.workers().block("probe directory", move || Ok(probe(&root))).await
    }

    async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        self.plan(request, job).await
    }

    async fn backup(&self, plan: &BackupPlan, sink: &dyn BackupSink, job: &JobContext) -> Result<Captured> {
        self.capture(plan, sink, job).await
    }

    async fn committed(&self, manifest: &Manifest, job: &JobContext) -> Result<()> {
        let (cache, manifest) = (self.cache.clone(), manifest.clone());
        job.workers().block("keep index", move || cache.promote(&manifest)).await
    }

    async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        self.plan_the_restore(request, job).await
    }

    async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        self.apply(plan, source, job).await
    }

    async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        self.compare(chain, place, source, job).await
    }

    async fn watermark(&self, place: &Place, job: &JobContext) -> Result<Option<Watermark>> {
        self.newest(place, job).await
    }

    async fn release(&self, _lease: &Lease, _job: &JobContext) -> Result<()> {
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

impl FilesSystem {
    fn root_of(&self, place: &Place) -> PathBuf {
        match place {
            Place::Production => self.settings.path.clone(),
            Place::Directory { path } => path.clone(),
            Place::Server(server) => server.dir.clone(),
        }
    }

    #[cfg(test)]
    fn read_hook(&self) -> Option<ReadHook> {
        self.hook.clone()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have one of their own")]
    fn read_hook(&self) -> Option<ReadHook> {
        None
    }

    /// Newest modification time at `place` that is not in the future.
    async fn newest(&self, place: &Place, job: &JobContext) -> Result<Option<Watermark>> {
        let exclude: &[String] = match place {
            Place::Production => &self.settings.exclude,
            Place::Directory { .. } | Place::Server(_) => &[],
        };
        let (root, globs, task_job) = (self.root_of(place), settings::globs(exclude)?, job.clone());
        let look = move || {
            let now = backup::now()?;
            let mut newest = None;
            query::each_found(backup::open_root(&root)?, globs, &task_job, |found| {
                let mtime = entry::mtime(&found.stat);
                if is_write(&found.path) && mtime <= now {
                    newest = newest.max(Some(mtime));
                }
            })?;
            Ok(newest)
        };
        let newest = job.workers().block("find newest file", look).await?;
        Ok(newest.and_then(timestamp).map(|at| Watermark { at, source: WatermarkSource::Engine }))
    }
}

fn timestamp(time: (i64, u32)) -> Option<Timestamp> {
    Timestamp::from_timestamp(time.0, time.1)
}

fn artifact(name: &'static str) -> Result<ArtifactName> {
    ArtifactName::parse(name).map_err(|e| Error::bug("name an artifact").because(e))
}

fn detail_of(manifest: &Manifest) -> Option<Detail> {
    serde_json::from_value(manifest.captured.detail.clone()).ok()
}

/// Bytes of the whole tree at a backup.
fn bytes_of(manifest: &Manifest) -> Option<u64> {
    detail_of(manifest).map(|d| d.bytes)
}

fn probe(root: &Path) -> Health {
    let looked = backup::open_root(root).and_then(|fd| {
        let names = list(&fd).or_io("list root directory", root)?;
        Ok((fd, names))
    });
    let (fd, names) = match looked {
        Ok(found) => found,
        Err(error) => {
            return Health {
                state: HealthState::Down,
                version: None,
                summary: error.to_string(),
                findings: error.advice().map(str::to_owned).into_iter().collect(),
            };
        }
    };
    let unreadable = names.iter().take(PROBED_MAX).filter(|name| {
        use rustix::io::Errno;
        matches!(crate::archive::open_directory(&fd, name), Err(Errno::ACCESS | Errno::PERM | Errno::IO))
    });
    let findings: Vec<String> = unreadable
        .map(|name| format!("{} cannot be read: it would be missing from backups", show(name)))
        .collect();
    Health {
        state: if findings.is_empty() { HealthState::Healthy } else { HealthState::Degraded },
        version: None,
        summary: format!("{} entries at the top of {}", names.len(), root.display()),
        findings,
    }
}
