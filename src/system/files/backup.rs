//! Takes a backup: plans on which parent it builds, then streams archive, index and deletions side by side.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use super::crew::with_helper;
use super::grab::{Grabber, Keep};
use super::record::{Flow, Recorder};
use super::scan::Scan;
use super::settings::globs;
use super::tally::Tally;
use super::walk::{Mounts, Walk};
use super::{DELETED, FilesSystem, INDEX, TREE, artifact};
use crate::domain::backup::{
    BackupKind, BackupPlan, BackupRequest, Captured, Position, Watermark, WatermarkSource,
};
use crate::domain::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result, io_kind};
use crate::runtime::JobContext;
use crate::system::{ArtifactWriter, BackupSink, usable_chain};

/// Chunks on their way to the sink, each about a mebibyte.
const FLOW_MAX: usize = 8;

impl FilesSystem {
    pub(super) async fn plan(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        let mut plan = BackupPlan {
            id: request.id.clone(),
            kind: request.kind,
            parent: usable_chain(request.kind, &request.chain).last().cloned(),
            leases: Vec::new(),
            bytes_estimate: request.chain.last().and_then(super::bytes_of),
            notes: Vec::new(),
            detail: serde_json::Value::Null,
        };
        let unusable = match &plan.parent {
            None if request.kind == BackupKind::Full => None,
            None => Some("there is no backup to build on".to_owned()),
            Some(parent) => self.unusable(parent, job).await?,
        };
        if let Some(why) = unusable {
            plan.notes.push(format!("takes a full backup: {why}"));
            plan.parent = None;
        }
        match plan.parent {
            None => plan.kind = BackupKind::Full,
            // how much changed is not known before it is read
            Some(_) => plan.bytes_estimate = None,
        }
        Ok(plan)
    }

    /// Why nothing can build on `parent`.
    async fn unusable(&self, parent: &Manifest, job: &JobContext) -> Result<Option<String>> {
        let root = super::detail_of(parent).map(|d| d.root);
        if root.as_deref() != Some(&*self.settings.path.to_string_lossy()) {
            return Ok(Some(format!("backup {} is of another directory", parent.id)));
        }
        let (cache, id) = (self.cache.clone(), parent.id.clone());
        let opened = job.workers().block("open index cache", move || Ok(cache.open(&id).map(drop))).await?;
        Ok(opened
            .err()
            .map(|e| format!("the index of backup {} is not on this machine any more ({e})", parent.id)))
    }

    pub(super) async fn capture(
        &self,
        plan: &BackupPlan,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        let captured_at = job.now();
        let (to, from) = mpsc::channel(FLOW_MAX);
        let recorder = self.recorder(plan, to)?;
        let (system, task_job) = (self.clone(), job.clone());
        let reading = with_helper("read files", job, move |crew| system.read(recorder, crew, &task_job));
        let writing = write_artifacts(from, plan, sink, job);
        // the writer ends when the reader has ended, and the reader when the writer has
        let (read, written) = futures_util::future::join(reading, writing).await;
        let tally = match (read, written) {
            (_, Err(error)) => return Err(error),
            (Err(error), Ok(())) => {
                if let (Some(parent), ErrorKind::Corrupt) = (&plan.parent, error.kind()) {
                    self.cache.forget(&parent.id);
                }
                return Err(error);
            }
            (Ok(tally), Ok(())) => tally,
        };
        self.captured(plan, tally, captured_at)
    }

    fn captured(
        &self,
        plan: &BackupPlan,
        tally: Tally,
        captured_at: crate::domain::Timestamp,
    ) -> Result<Captured> {
        let mut notes = plan.notes.clone();
        notes.extend(tally.notes());
        let watermark = tally
            .newest
            .and_then(super::timestamp)
            .map(|at| Watermark { at, source: WatermarkSource::Engine });
        let detail = serde_json::to_value(&tally.detail)
            .map_err(|e| Error::bug("describe captured files").because(e))?;
        Ok(Captured {
            method: "tar".to_owned(),
            server_version: rustix::system::uname().release().to_string_lossy().into_owned(),
            position: Position {
                start: plan.parent.as_ref().map(|p| p.captured.position.end.clone()),
                end: plan.id.to_string(),
            },
            captured_at,
            watermark,
            fingerprint: tally.fingerprint.finish(),
            detail,
            notes,
        })
    }

    fn read(
        &self,
        mut recorder: Recorder,
        crew: &Arc<crate::archive::Crew>,
        job: &JobContext,
    ) -> Result<Tally> {
        let root = open_root(&self.settings.path)?;
        let mounts = if self.settings.one_file_system { Mounts::StayOut } else { Mounts::Enter };
        let walk = Walk::new(Arc::new(root), globs(&self.settings.exclude)?, mounts);
        let grabber = Grabber { keep: Keep::Archive, hook: self.read_hook() };
        Scan::new(walk, grabber, crew, job).run(&mut recorder)?;
        recorder.finish()
    }
}

/// Opens the root itself, through a link if it is one.
pub(super) fn open_root(path: &Path) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| {
        let e = std::io::Error::from(e);
        Error::new(io_kind(&e), "open root directory")
            .with("path", path.display())
            .because(e)
            .hint("check `path` in the system's settings, and that it is mounted")
    })
}

/// The clock that files are stamped with.
pub(super) fn now() -> Result<(i64, u32)> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|e| Error::new(ErrorKind::Config, "use a clock before 1970").because(e))?;
    Ok((since.as_secs().cast_signed(), since.subsec_nanos()))
}

async fn write_artifacts(
    mut from: mpsc::Receiver<Flow>,
    plan: &BackupPlan,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<()> {
    let mut archive = job.run("open artifact", sink.artifact(&artifact(TREE)?)).await?;
    let mut index = job.run("open artifact", sink.artifact(&artifact(INDEX)?)).await?;
    let mut deleted: Option<Box<dyn ArtifactWriter>> = match plan.parent {
        Some(_) => Some(job.run("open artifact", sink.artifact(&artifact(DELETED)?)).await?),
        None => None,
    };
    let mut whole = false;
    while let Some(flow) = job.run("wait for files", async { Ok::<_, Error>(from.recv().await) }).await? {
        match flow {
            Flow::Archive(chunk) => job.run("write archive", archive.write(chunk)).await?,
            Flow::Index(chunk) => job.run("write index", index.write(chunk)).await?,
            Flow::Deleted(chunk) => match &mut deleted {
                Some(deleted) => job.run("write deletions", deleted.write(chunk)).await?,
                None => return Err(Error::bug("delete files in a full backup")),
            },
            Flow::Done => whole = true,
        }
    }
    if !whole {
        // the reader failed and has the reason; dropping the writers aborts the artifacts
        return Ok(());
    }
    job.run("finish archive", archive.finish()).await?;
    job.run("finish index", index.finish()).await?;
    if let Some(deleted) = deleted {
        job.run("finish deletions", deleted.finish()).await?;
    }
    Ok(())
}
