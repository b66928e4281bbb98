//! Restores a chain: the full, then every further backup's deletions and changes in order, all aside; then in place.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::backup::open_root;
use super::crew::with_helper;
use super::index::IndexReader;
use super::place::{Prepared, Target, Way};
use super::selection::Selector;
use super::{DELETED, FilesSystem, INDEX, TREE, artifact, bytes_of, detail_of};
use crate::archive::{
    Devices, FeedReader, Owners, Reader, UnpackOptions, Unpacked, Unpacker, feed, pump, safe_path, show,
};
use crate::domain::id::ArtifactName;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{Phase, RestorePlan, RestoreRequest, Restored};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

/// Of one deleted path.
const PATH_BYTES_MAX: u64 = 1024 * 1024;

impl FilesSystem {
    /// What a place needs beyond the data itself, and what it will get.
    pub(super) async fn plan_the_restore(
        &self,
        request: RestoreRequest,
        job: &JobContext,
    ) -> Result<RestorePlan> {
        let last = point(&request.chain)?;
        Selector::new(&request.selection)?;
        let bytes = bytes_of(last).unwrap_or_else(|| last.raw_bytes());
        let (root, run, existing) = (self.root_of(&request.place), request.run.clone(), request.existing);
        let look = move || {
            let target = Target::find(&root, &run)?;
            target.refuse_content(existing)?;
            let content = target.content()?;
            let free = free_bytes(target.nearest())?;
            Ok((target, content, free))
        };
        let (target, content, free) = job.workers().block("look at target", look).await?;
        let mut plan = RestorePlan {
            actions: actions(&request, &target, &content),
            request,
            bytes,
            free_bytes: Some(free),
            missing: Vec::new(),
            unknown: Vec::new(),
            detail: serde_json::Value::Null,
        };
        if plan.request.selection.is_everything() {
            if free < bytes {
                let near = target.nearest().display();
                plan.missing.push(format!("{} bytes of free space at {near}", bytes - free));
            }
        } else {
            plan.unknown
                .push("how much the selected paths hold: the size is that of the whole tree".to_owned());
        }
        if !is_root() {
            plan.unknown.push("whether owners matter: they are restored by root only".to_owned());
        }
        Ok(plan)
    }

    pub(super) async fn apply(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        let request = &plan.request;
        let last = point(&request.chain)?;
        let target = Target::find(&self.root_of(&request.place), &request.run)?;
        let mut restored = Restored { point: Some(last.id.clone()), ..Restored::default() };
        let begun = Instant::now();
        let (prepare, existing) = (target.clone(), request.existing);
        let prepared = job
            .workers()
            .block("prepare target", move || {
                // a dead attempt may have emptied the target, which is then no reason to refuse
                prepare.refuse_content(existing)?;
                prepare.prepare()
            })
            .await?;
        match prepared {
            Prepared::Empty(root) => match self.unpack_chain(root, request, source, job).await {
                Ok(unpacked) => describe(&unpacked, request, &mut restored),
                Err(error) => {
                    let staging = target.clone();
                    let discarded = job.workers().block("discard files", move || staging.discard()).await;
                    if let Err(error) = discarded {
                        tracing::warn!(path = %target.staging().display(), %error, "unpacked files stay");
                    }
                    return Err(error);
                }
            },
            Prepared::Unpacked => {
                let note = "an earlier attempt of this run had unpacked everything; it was put in place";
                restored.notes.push(note.to_owned());
            }
        }
        restored.phases.push(phase("load", begun));
        let begun = Instant::now();
        let place = target.clone();
        let old = job.workers().block("put in place", move || place.commit(existing)).await?;
        if let Some(old) = old {
            restored.notes.push(kept_note(&old, last));
        }
        restored.phases.push(phase("place", begun));
        restored.watermark = self.newest(&request.place, job).await?;
        Ok(restored)
    }

    async fn unpack_chain(
        &self,
        root: std::os::fd::OwnedFd,
        request: &RestoreRequest,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Unpacked> {
        let production = matches!(request.place, Place::Production);
        let options = UnpackOptions {
            devices: if production && is_root() { Devices::Create } else { Devices::Skip },
            owners: if is_root() { Owners::Restore } else { Owners::Ours },
        };
        let mut state = (Unpacker::new(root, options)?, Selector::new(&request.selection)?);
        for backup in &request.chain {
            let (tree, index) = (artifact(TREE)?, artifact(INDEX)?);
            if !state.1.is_everything() {
                state = step(&index, backup, source, job, state, |from, state, _| {
                    state.1.learn(IndexReader::open(from)?)
                })
                .await?;
            }
            if backup.parent.is_some() {
                let deleted = artifact(DELETED)?;
                state = step(&deleted, backup, source, job, state, delete).await?;
            }
            let written = detail_of(backup).map_or(0, |d| d.written);
            state = step(&tree, backup, source, job, state, move |from, state, job| {
                unpack(from, state, written, job)
            })
            .await?;
        }
        let unpacker = state.0;
        job.workers().block("finish files", move || unpacker.finish()).await
    }
}

type State = (Unpacker, Selector);

/// Reads one artifact on a blocking thread, with `work` on its bytes.
async fn step(
    name: &ArtifactName,
    backup: &Manifest,
    source: &dyn BackupSource,
    job: &JobContext,
    mut state: State,
    work: impl FnOnce(FeedReader, &mut State, &JobContext) -> Result<()> + Send + 'static,
) -> Result<State> {
    let stream = job
        .run("open artifact", source.open(&backup.id, name, job))
        .await
        .map_err(|e| e.during("restore files").with("backup", &backup.id))?;
    let (to, from) = feed();
    let task_job = job.clone();
    let reading = with_helper("restore files", job, move |crew| {
        state.0.work_with(crew.clone());
        work(from, &mut state, &task_job)?;
        state.0.settle()?;
        Ok(state)
    });
    let (read, pumped) = futures_util::future::join(reading, pump(stream, to, job)).await;
    // an error of the stream is also what the reader saw, but first hand
    pumped?;
    read.map_err(|e| e.during("restore files").with("backup", &backup.id).with("artifact", name))
}

fn unpack(from: FeedReader, state: &mut State, written: u64, job: &JobContext) -> Result<()> {
    let mut reader = Reader::new(from);
    let mut members: u64 = 0;
    while let Some(member) = reader.next_member()? {
        members += 1;
        if members.is_multiple_of(64) {
            job.check("restore files")?;
            job.progress().add_items(64);
            job.progress().beat();
        }
        let (above, chosen) = state.1.choose(member);
        for directory in above {
            state.0.apply(directory, &mut reader)?;
        }
        if let Some(member) = chosen {
            state.0.apply(member, &mut reader)?;
        }
    }
    if members < written {
        return Err(Error::new(ErrorKind::Corrupt, "read archive")
            .with("members", members)
            .with("expected", written)
            .why("members are missing"));
    }
    Ok(())
}

fn delete(from: FeedReader, state: &mut State, job: &JobContext) -> Result<()> {
    let mut paths = BufReader::new(from);
    loop {
        let mut path = Vec::new();
        let read = paths.by_ref().take(PATH_BYTES_MAX).read_until(0, &mut path);
        if read.or_io("read deletions", Path::new(DELETED))? == 0 {
            return Ok(());
        }
        job.check("restore files")?;
        let whole = path.pop() == Some(0);
        let path = safe_path(&path)?;
        if !whole || path.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "read deletions").with("path", show(&path)));
        }
        if state.1.wants(&path) {
            state.0.remove(&path)?;
        }
    }
}

fn actions(request: &RestoreRequest, target: &Target, content: &[Vec<u8>]) -> Vec<String> {
    let mut actions = Vec::new();
    let path = target.path.display();
    actions.push(format!("unpack aside, at {}", target.staging().display()));
    for backup in &request.chain {
        let entries = detail_of(backup).map_or(0, |d| d.written);
        actions.push(format!("apply {} backup {}: {entries} entries", backup.kind, backup.id));
    }
    if !request.selection.is_everything() {
        actions.push(format!("only {}", request.selection.patterns.join(", ")));
    }
    if !content.is_empty() {
        actions.push(format!("move what is at {path} aside, to {}", target.old().display()));
    }
    actions.push(match target.way {
        Way::Beside => format!("rename to {path}"),
        Way::Inside => format!("move into {path}, which is a mount point"),
    });
    actions
}

fn describe(unpacked: &Unpacked, request: &RestoreRequest, restored: &mut Restored) {
    restored.items = unpacked.items;
    restored.bytes = unpacked.bytes;
    if !is_root() {
        let note = "owners were not restored: that takes root";
        restored.notes.push(note.to_owned());
    }
    if unpacked.devices_skipped > 0 {
        let n = unpacked.devices_skipped;
        let note = format!("{n} device nodes were left out: only root makes them, and only in production");
        restored.notes.push(note);
    }
    if !unpacked.refused.is_empty() {
        let names: Vec<_> = unpacked.refused.iter().map(|name| show(name)).collect();
        let note = "extended attributes that could not be set at";
        restored.notes.push(format!("{note} {}: {}", request.place.describe(), names.join(", ")));
    }
}

fn kept_note(old: &Path, last: &Manifest) -> String {
    let excluded = detail_of(last).is_some_and(|d| !d.exclude.is_empty());
    let more = if excluded { "; files excluded from backups are only there" } else { "" };
    format!("what was there is kept at {}; remove it when it is not needed{more}", old.display())
}

fn phase(name: &str, begun: Instant) -> Phase {
    Phase { name: name.to_owned(), took: begun.elapsed() }
}

pub(super) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn free_bytes(near: &Path) -> Result<u64> {
    let fd = open_root(near)?;
    let stat = rustix::fs::fstatvfs(&fd).map_err(std::io::Error::from);
    let stat = stat.or_io("ask for free space", &PathBuf::from(near))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
