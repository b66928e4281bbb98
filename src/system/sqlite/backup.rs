//! Taking a backup: a consistent copy through SQLite's own backup, checked and fingerprinted before it is stored.
//!
//! The copy is made inside one read transaction. In WAL mode writers go on meanwhile; with a rollback journal their commits
//! wait for the copy. It needs as much space in the state directory as the database has pages.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::{Deserialize, Serialize};

use super::client::{
    Brake, Header, Signature, blocking, create_scratch, one, open_reading, sql_error, with_suffix,
};
use super::scratch::Scratch;
use super::{ARTIFACT, SqliteSystem, fingerprint};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Captured, Fingerprint, Position};
use crate::domain::id::ArtifactName;
use crate::domain::manifest::Manifest;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSink, usable_chain};

/// Between two looks at the brake and two reports of progress.
const PAGES_PER_STEP: i32 = 1024;
/// Inside a read transaction a step should never find the source busy; give up rather than spin.
const BUSY_STEPS_MAX: u32 = 100;
const CHUNK_BYTES: usize = 1024 * 1024;
const INTEGRITY_FINDINGS_MAX: usize = 20;
/// Left free beside the copy.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// The engine's notes to its later self.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Detail {
    pub file_name: String,
    /// Of the copy; the artifact has as many bytes.
    pub bytes: u64,
    pub header: Header,
    pub foreign_key_violations: u64,
    pub signature: Signature,
    pub file: Ownership,
    pub directory: Ownership,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ownership {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Ownership {
    fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 })
    }
}

impl Detail {
    pub(super) fn of(captured: &Captured) -> Result<Self> {
        serde_json::from_value(captured.detail.clone())
            .map_err(|e| Error::new(ErrorKind::Corrupt, "read detail of backup").because(e))
    }
}

/// A finished copy: closed, whole, and nobody's but ours.
struct Copy {
    scratch: Scratch,
    at: Timestamp,
    detail: Detail,
    fingerprint: Fingerprint,
    notes: Vec<String>,
}

impl SqliteSystem {
    pub(super) async fn plan(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        let path = self.path().to_path_buf();
        let parent = usable_chain(request.kind, &request.chain).last().cloned();
        let before = parent.as_ref().and_then(|p| Detail::of(&p.captured).ok()).map(|d| d.signature);
        let (signature, bytes) = blocking("plan backup", job, move |_| {
            let signature = Signature::of(&path).or_io("find database", &path)?;
            let bytes = std::fs::metadata(&path).or_io("find database", &path)?.len();
            Ok((signature, bytes))
        })
        .await
        .map_err(|e| e.hint("correct settings.path, or restore the database"))?;
        let mut notes = Vec::new();
        let (kind, parent) = match (request.kind, parent) {
            (BackupKind::Full, _) => (BackupKind::Full, None),
            (kind @ (BackupKind::Incremental | BackupKind::Differential), Some(parent))
                if before.as_ref() == Some(&signature) =>
            {
                (kind, Some(parent))
            }
            (BackupKind::Incremental | BackupKind::Differential, parent) => {
                notes.push(match parent {
                    Some(parent) => format!("a full: the file was written since {}", parent.id),
                    None => "a full: there is no backup to build on".to_owned(),
                });
                (BackupKind::Full, None)
            }
        };
        Ok(BackupPlan {
            id: request.id.clone(),
            kind,
            parent,
            leases: Vec::new(),
            bytes_estimate: Some(bytes),
            notes,
            detail: serde_json::Value::Null,
        })
    }

    pub(super) async fn capture(
        &self,
        plan: &BackupPlan,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        job.progress().set_phase("copy");
        let (path, state, busy, id) =
            (self.path().to_path_buf(), self.deps.state_dir.clone(), self.busy, plan.id.clone());
        let inner = job.clone();
        let mut copy = blocking("copy database", job, move |brake| {
            let scratch = Scratch::create(&state, id.as_str())?;
            copy_database(&path, busy, &state, scratch, brake, &inner)
        })
        .await?;
        if let Some(parent) = plan.parent.as_ref().filter(|p| is_same(&copy, p)) {
            copy.notes.push(format!("nothing changed since {}: no data stored again", parent.id));
        } else {
            job.progress().set_phase("store");
            job.progress().set_total(copy.detail.bytes);
            store(&copy.scratch.file(ARTIFACT), copy.detail.bytes, sink, job).await?;
        }
        job.progress().add_items(copy.fingerprint.total());
        let detail = serde_json::to_value(&copy.detail)
            .map_err(|e| Error::bug("write detail of backup").because(e))?;
        Ok(Captured {
            method: "online-backup".to_owned(),
            server_version: rusqlite::version().to_owned(),
            position: Position {
                start: plan.parent.as_ref().map(|p| p.captured.position.end.clone()),
                end: format!("content {}", fingerprint::summary(&copy.fingerprint)),
            },
            captured_at: copy.at,
            watermark: None,
            fingerprint: copy.fingerprint,
            detail,
            notes: copy.notes,
        })
    }
}

/// Judged by content, not only by the times of the file.
fn is_same(copy: &Copy, parent: &Manifest) -> bool {
    Detail::of(&parent.captured).is_ok_and(|before| {
        before.signature == copy.detail.signature
            && before.header == copy.detail.header
            && parent.captured.fingerprint == copy.fingerprint
    })
}

fn copy_database(
    path: &Path,
    busy: Duration,
    state: &Path,
    scratch: Scratch,
    brake: &Brake,
    job: &JobContext,
) -> Result<Copy> {
    let op = "copy database";
    let failed = |e| sql_error(op, path, e);
    let copy_path = scratch.file(ARTIFACT);
    let signature = Signature::of(path).or_io(op, path)?;
    refuse_empty(path)?;
    let source = open_reading(path, busy)?;
    brake.attach(&source);
    // every commit acknowledged before this instant is inside
    let at = job.now();
    source.execute_batch("BEGIN").map_err(failed)?;
    let pages: u64 = one::<i64>(&source, "SELECT count(*) FROM sqlite_schema")
        .and_then(|_| one::<i64>(&source, "PRAGMA page_count"))
        .map_err(failed)?
        .unsigned_abs();
    let header = Header::read(&source).map_err(failed)?;
    refuse_small_disk(state, pages * header.page_size.unsigned_abs())?;
    copy_pages(&source, path, &copy_path, brake, job)?;
    source.execute_batch("COMMIT").map_err(failed)?;
    drop(source);
    let (foreign_key_violations, fingerprint) = examine(&copy_path, path, brake, job)?;
    refuse_open_log(&copy_path)?;
    let directory = path.parent().unwrap_or(path);
    let detail = Detail {
        file_name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: std::fs::metadata(&copy_path).or_io(op, &copy_path)?.len(),
        header,
        foreign_key_violations,
        signature,
        file: Ownership::of(path).or_io(op, path)?,
        directory: Ownership::of(directory).or_io(op, directory)?,
    };
    let mut notes = Vec::new();
    if foreign_key_violations > 0 {
        notes
            .push(format!("{foreign_key_violations} rows refer to rows that do not exist; kept as they are"));
    }
    Ok(Copy { scratch, at, detail, fingerprint, notes })
}

/// SQLite takes an empty file for an empty database; a truncated one must not become a good backup.
fn refuse_empty(path: &Path) -> Result<()> {
    if std::fs::metadata(path).or_io("copy database", path)?.len() > 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "copy database")
        .with("path", path.display())
        .why("the file is empty")
        .hint("restore the newest backup; a database that is really new gets its first table first"))
}

pub(super) fn refuse_small_disk(state: &Path, bytes: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(state).map_err(std::io::Error::from).or_io("measure free space", state)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= bytes.saturating_add(SPARE_BYTES) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Exhausted, "copy database")
        .with("state_dir", state.display())
        .with("bytes_needed", bytes)
        .with("bytes_free", free)
        .hint("free space there, or put the state directory on a larger file system"))
}

fn copy_pages(source: &Connection, path: &Path, copy: &Path, brake: &Brake, job: &JobContext) -> Result<()> {
    let op = "copy database";
    let failed = |e| sql_error(op, path, e);
    let mut target = create_scratch(copy)?;
    let backup = Backup::new(source, &mut target).map_err(failed)?;
    let mut busy_steps = 0;
    loop {
        brake.check(op)?;
        job.progress().beat();
        match backup.step(PAGES_PER_STEP).map_err(failed)? {
            StepResult::Done => return Ok(()),
            StepResult::Busy | StepResult::Locked if busy_steps >= BUSY_STEPS_MAX => {
                return Err(Error::new(ErrorKind::Busy, op).with("path", path.display()));
            }
            StepResult::Busy | StepResult::Locked => busy_steps += 1,
            StepResult::More | _ => {}
        }
    }
}

/// The backup interface copies damage without a word: the copy is checked as a whole before it is believed.
fn examine(copy: &Path, source: &Path, brake: &Brake, job: &JobContext) -> Result<(u64, Fingerprint)> {
    job.progress().set_phase("check");
    let connection = open_reading(copy, Duration::from_secs(1))?;
    brake.attach(&connection);
    let findings = integrity(&connection).map_err(|e| sql_error("check copy", source, e))?;
    if !findings.is_empty() {
        return Err(Error::new(ErrorKind::Corrupt, "back up a damaged database")
            .with("path", source.display())
            .why(findings.join("; "))
            .hint("keep the file, and restore the newest proven backup beside it to compare"));
    }
    let violations = foreign_key_violations(&connection).map_err(|e| sql_error("check copy", source, e))?;
    job.progress().set_phase("fingerprint");
    Ok((violations, fingerprint::read(&connection, source, brake)?))
}

/// What `integrity_check` found; empty when all is well.
pub(super) fn integrity(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({INTEGRITY_FINDINGS_MAX})"))?;
    let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(if lines == ["ok"] { Vec::new() } else { lines })
}

pub(super) fn foreign_key_violations(connection: &Connection) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while rows.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// The copy is read as one file from here on: nothing of it may still be in a log.
fn refuse_open_log(copy: &Path) -> Result<()> {
    let log = with_suffix(copy, "-wal");
    match std::fs::metadata(&log) {
        Ok(meta) if meta.len() > 0 => Err(Error::bug("close the copy").with("left", log.display())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Streams the closed copy into the sink.
async fn store(copy: &Path, bytes: u64, sink: &dyn BackupSink, job: &JobContext) -> Result<()> {
    let op = "store database";
    let mut writer = sink.artifact(&artifact_name()?).await?;
    let path: PathBuf = copy.to_path_buf();
    let mut file = blocking(op, job, {
        let path = path.clone();
        move |_| File::open(&path).or_io(op, &path)
    })
    .await?;
    let mut sent = 0;
    loop {
        let path = path.clone();
        let (back, chunk) = blocking(op, job, move |_| {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk).or_io(op, &path)?;
            Ok((file, Bytes::from(chunk)))
        })
        .await?;
        file = back;
        if chunk.is_empty() {
            break;
        }
        sent += chunk.len() as u64;
        job.progress().advance(chunk.len() as u64);
        job.run(op, writer.write(chunk)).await?;
    }
    if sent != bytes {
        return Err(Error::bug(op).with("bytes", bytes).with("sent", sent));
    }
    job.run(op, writer.finish()).await?;
    Ok(())
}

pub(super) fn artifact_name() -> Result<ArtifactName> {
    ArtifactName::parse(ARTIFACT).map_err(|e| Error::bug("name artifact").because(e))
}
