//! Putting a database back: written aside, given its owner, renamed into place without the side files of the old one.
//!
//! Invariants: the old database is kept whole, its log included, under `NAME.lifeboat-old-RUN`; a repeated attempt of the same
//! run recognises its own result by an extended attribute and never mistakes it for the old one. Planning looks at metadata
//! only, so that a damaged file cannot stop it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::fs::XattrFlags;

use super::backup::{Detail, Ownership, artifact_name};
use super::client::{SIDE_FILES, blocking, with_suffix};
use super::{Engine, SqliteSystem};
use crate::domain::id::RunId;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, Phase, RestorePlan, RestoreRequest, Restored};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

/// Names the run that put a file in place.
const RUN_ATTRIBUTE: &str = "user.lifeboat.run";

impl SqliteSystem {
    pub(super) async fn plan_target(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        let last = point(&request.chain)?;
        if last.engine != Self::KIND {
            return Err(Error::new(ErrorKind::Conflict, "restore into sqlite")
                .with("backup", &last.id)
                .with("engine", &last.engine)
                .why("the backup is of another kind of system"));
        }
        if !request.selection.is_everything() {
            return Err(Error::new(ErrorKind::Unsupported, "restore single tables")
                .hint("restore the whole database into a directory and copy the rows from there"));
        }
        let target = self.path_at(&request.place);
        let seen = {
            let (target, run) = (target.clone(), request.run.clone());
            blocking("look at restore target", job, move |_| look(&target, &run)).await?
        };
        if let (Existing::Refuse, Some(found)) = (request.existing, &seen.in_the_way) {
            return Err(Error::new(ErrorKind::Conflict, "restore over what is there")
                .with("found", found.display())
                .hint("choose an empty directory, or allow replacing it"));
        }
        let mut plan = RestorePlan {
            actions: Vec::new(),
            bytes: 0,
            free_bytes: seen.free_bytes,
            missing: Vec::new(),
            unknown: Vec::new(),
            detail: serde_json::Value::Null,
            request,
        };
        match holder(&plan.request.chain) {
            Some(holder) => {
                plan.bytes = Detail::of(&holder.captured)?.bytes;
                plan.actions.push(format!("write {} from backup {}", target.display(), holder.id));
            }
            None => plan.missing.push("no backup of the chain holds the database".to_owned()),
        }
        if seen.database {
            let old = old_name(&target, &plan.request.run);
            plan.actions.insert(0, format!("keep the present database as {}", old.display()));
            plan.actions.push("programs that have the old database open must be restarted".to_owned());
        }
        if seen.free_bytes.is_some_and(|free| free < plan.bytes) {
            plan.missing.push(format!("{} bytes of space for {}", plan.bytes, target.display()));
        }
        Ok(plan)
    }

    pub(super) async fn put_back(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        if let Some(missing) = plan.missing.first() {
            return Err(
                Error::new(ErrorKind::Conflict, "restore database").why(format!("missing: {missing}"))
            );
        }
        let request = &plan.request;
        let (last, holder) = (point(&request.chain)?, holder(&request.chain));
        let holder = holder.ok_or_else(|| Error::new(ErrorKind::NotFound, "find database in chain"))?;
        let detail = Detail::of(&holder.captured)?;
        let (target, run) = (self.path_at(&request.place), request.run.clone());
        let aside = with_suffix(&target, &format!(".lifeboat-new-{run}"));
        let began = Instant::now();
        let bytes = fetch(&aside, holder, &detail, &target, source, job).await?;
        let fetched = began.elapsed();
        let notes = blocking("put database in place", job, move |brake| {
            brake.check("put database in place")?;
            let mut notes = adopt(&aside, &detail, &run)?;
            notes.extend(replace(&aside, &target, &run)?);
            Ok(notes)
        })
        .await?;
        job.progress().add_items(last.captured.fingerprint.total());
        let phase = |name: &str, took: Duration| Phase { name: name.to_owned(), took };
        Ok(Restored {
            point: Some(last.id.clone()),
            items: last.captured.fingerprint.total(),
            bytes,
            watermark: None,
            phases: vec![phase("fetch", fetched), phase("load", began.elapsed().saturating_sub(fetched))],
            notes,
        })
    }

    /// Where the database is at `place`: under its configured file name in a directory.
    pub(super) fn path_at(&self, place: &Place) -> PathBuf {
        let name = self.path().file_name().unwrap_or_default();
        match place {
            Place::Production => self.path().to_path_buf(),
            Place::Directory { path } => path.join(name),
            Place::Server(server) => server.dir.join(name),
        }
    }
}

/// The newest backup of the chain that holds the database; later ones saw no change.
fn holder(chain: &[Manifest]) -> Option<&Manifest> {
    let name = artifact_name().ok()?;
    chain.iter().rev().find(|m| m.artifact(&name).is_some())
}

struct Seen {
    /// A database that this run did not put there.
    database: bool,
    in_the_way: Option<PathBuf>,
    free_bytes: Option<u64>,
}

/// Metadata only: opening a file could drop locks, and it may be damaged.
fn look(target: &Path, run: &RunId) -> Result<Seen> {
    let database = is_there(target)? && !is_of_run(target, run);
    let mut in_the_way = database.then(|| target.to_path_buf());
    if !is_of_run(target, run) && !is_there(&old_name(target, run))? {
        for suffix in SIDE_FILES {
            let side = with_suffix(target, suffix);
            if in_the_way.is_none() && is_there(&side)? {
                in_the_way = Some(side);
            }
        }
    }
    let existing = target.ancestors().find(|a| a.is_dir());
    let free_bytes = existing.and_then(|dir| rustix::fs::statvfs(dir).ok());
    Ok(Seen { database, in_the_way, free_bytes: free_bytes.map(|s| s.f_bavail.saturating_mul(s.f_frsize)) })
}

fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        found => found.or_io("look at restore target", path).map(|_| true),
    }
}

fn is_of_run(path: &Path, run: &RunId) -> bool {
    let mut value = [0; 64];
    rustix::fs::getxattr(path, RUN_ATTRIBUTE, &mut value[..])
        .is_ok_and(|n| value.get(..n) == Some(run.as_str().as_bytes()))
}

fn old_name(target: &Path, run: &RunId) -> PathBuf {
    with_suffix(target, &format!(".lifeboat-old-{run}"))
}

/// Streams the artifact into `aside`, replacing what a dead attempt left. Removes it again unless it is complete.
async fn fetch(
    aside: &Path,
    holder: &Manifest,
    detail: &Detail,
    target: &Path,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<u64> {
    let op = "write database aside";
    job.progress().set_phase("fetch");
    job.progress().set_total(detail.bytes);
    let mut stream = job.run(op, source.open(&holder.id, &artifact_name()?, job)).await?;
    let (path, directory) = (aside.to_path_buf(), detail.directory);
    let parent = target.parent().unwrap_or(target).to_path_buf();
    let mut file = blocking(op, job, move |_| {
        make_directory(&parent, directory)?;
        create(&path)
    })
    .await?;
    let mut unfinished = RemovedOnDrop(Some(aside.to_path_buf()));
    let mut bytes = 0;
    loop {
        let next = async { stream.next().await.transpose() };
        let Some(chunk) = job.run(op, next).await? else {
            break;
        };
        bytes += chunk.len() as u64;
        job.progress().advance(chunk.len() as u64);
        let path = aside.to_path_buf();
        file = blocking(op, job, move |_| {
            file.write_all(&chunk).or_io(op, &path)?;
            Ok(file)
        })
        .await?;
    }
    if bytes != detail.bytes {
        return Err(Error::new(ErrorKind::Corrupt, op)
            .with("backup", &holder.id)
            .with("bytes", bytes)
            .with("expected", detail.bytes)
            .hint("use another copy or an older backup"));
    }
    unfinished.0 = None;
    Ok(bytes)
}

struct RemovedOnDrop(Option<PathBuf>);

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "unfinished restore was left behind");
        }
    }
}

fn make_directory(dir: &Path, owner: Ownership) -> Result<()> {
    if is_there(dir)? {
        return Ok(());
    }
    let op = "make directory of database";
    std::fs::create_dir_all(dir).or_io(op, dir)?;
    let mode = std::fs::Permissions::from_mode(owner.mode);
    std::fs::set_permissions(dir, mode).or_io(op, dir)?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid)).or_io(op, dir)?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    let op = "write database aside";
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).or_io(op, path),
        Ok(()) | Err(_) => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).or_io(op, path)
}

/// Owner, mode and the mark of the run, all durable before the name is given.
fn adopt(aside: &Path, detail: &Detail, run: &RunId) -> Result<Vec<String>> {
    let op = "prepare restored database";
    let mut notes = Vec::new();
    let file = File::open(aside).or_io(op, aside)?;
    let owner = detail.file;
    if std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)).is_err() {
        notes.push(format!("the file could not be given to user {}:{}", owner.uid, owner.gid));
    }
    file.set_permissions(std::fs::Permissions::from_mode(owner.mode)).or_io(op, aside)?;
    let marked = rustix::fs::fsetxattr(&file, RUN_ATTRIBUTE, run.as_str().as_bytes(), XattrFlags::empty());
    if marked.is_err() {
        notes.push(
            "the file system keeps no extended attributes: a repeated restore will ask before it replaces"
                .to_owned(),
        );
    }
    file.sync_all().or_io(op, aside)?;
    Ok(notes)
}

/// Moves the old database away, its log with it, and gives the new one its name.
fn replace(aside: &Path, target: &Path, run: &RunId) -> Result<Vec<String>> {
    let op = "put database in place";
    let old = old_name(target, run);
    let mut notes = Vec::new();
    // when the old one was moved by a dead attempt, what is here now is that attempt's
    let keep = !is_there(&old)? && !is_of_run(target, run);
    if keep && is_there(target)? {
        std::fs::rename(target, &old).or_io(op, target)?;
        notes.push(format!("the old database is kept as {}", old.display()));
    }
    for suffix in SIDE_FILES {
        let (side, kept) = (with_suffix(target, suffix), with_suffix(&old, suffix));
        if !is_there(&side)? {
            continue;
        }
        // shared memory is rebuilt from the log; a log without its database is of no use
        let belongs = is_there(&old)? && !is_there(&kept)? && !is_of_run(target, run);
        if suffix == "-shm" || !belongs {
            std::fs::remove_file(&side).or_io(op, &side)?;
        } else {
            std::fs::rename(&side, &kept).or_io(op, &side)?;
        }
    }
    std::fs::rename(aside, target).or_io(op, target)?;
    let directory = target.parent().unwrap_or(target);
    File::open(directory).and_then(|d| d.sync_all()).or_io(op, directory)?;
    Ok(notes)
}
