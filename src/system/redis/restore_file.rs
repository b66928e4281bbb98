//! Restoring as a file: written aside, checked while it is written, made durable, then put in place at once.

use std::io::BufWriter;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use super::feed::{self, Parsing};
use super::fingerprint::Tally;
use super::rdb::write::Writer;
use super::rdb::{Header, RawValues, Record, Visitor};
use super::{DUMP, RedisSystem, artifact, glob, watermark_of};
use crate::domain::backup::Fingerprint;
use crate::domain::id::RunId;
use crate::domain::restore::{Phase, RestoreRequest, Restored, Selection};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::system::{BackupSource, ByteStream, point};

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Where a dump that was in place is kept.
pub fn old_name(path: &Path, run: &RunId) -> PathBuf {
    beside(path, &format!(".lifeboat-old-{run}"))
}

pub async fn run(
    system: &RedisSystem,
    path: &Path,
    request: &RestoreRequest,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Restored> {
    let began = Instant::now();
    let manifest = point(&request.chain)?;
    let stream = source.open(&manifest.id, &artifact(DUMP)?, job).await?;
    job.progress().set_phase("load");
    let aside = beside(path, &format!(".lifeboat-part-{}", request.run));
    let written = if request.selection.is_everything() {
        write_whole(&aside, stream, job).await
    } else {
        write_chosen(&aside, stream, &request.selection, job).await
    };
    let checked = written.and_then(|(tally, written)| {
        check_content(&tally, &manifest.captured.fingerprint)?;
        Ok((tally, written))
    });
    let (tally, written) = match checked {
        Ok(good) => good,
        Err(error) => {
            discard(&aside).await;
            return Err(error);
        }
    };
    let account = system.settings.account.as_deref().map(Account::named).transpose()?;
    let (target, run) = (path.to_owned(), request.run.clone());
    let same = written.bytes_whole;
    let place = move || put_in_place(&aside, &target, &run, account.as_ref(), same);
    let kept = job.run("put dump in place", job.workers().block("put dump in place", place)).await?;
    Ok(Restored {
        point: Some(manifest.id.clone()),
        items: written.keys,
        bytes: written.bytes,
        watermark: watermark_of(tally.header()),
        phases: vec![Phase { name: "load".to_owned(), took: began.elapsed() }],
        notes: kept.into_iter().collect(),
    })
}

/// What was read must be what was captured, or the backup is not what its manifest says.
pub fn check_content(tally: &Tally, captured: &Fingerprint) -> Result<()> {
    let read = tally.fingerprint();
    if read.algorithm != captured.algorithm || read.items == captured.items {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "accept a backup whose content is not what was captured")
        .with("captured", captured.total())
        .with("read", read.total()))
}

#[derive(Clone, Copy, Debug)]
struct Written {
    keys: u64,
    bytes: u64,
    /// Size of the file when it is the whole dump.
    bytes_whole: Option<u64>,
}

fn create(path: &Path) -> Result<std::fs::File> {
    // a dead attempt of the same run may have left one
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .or_io("create dump", path)
}

async fn write_whole(aside: &Path, mut stream: ByteStream, job: &JobContext) -> Result<(Tally, Written)> {
    let mut file = tokio::fs::File::from_std(create(aside)?);
    let mut parsing = Parsing::start(Tally::new(), job);
    let mut bytes = 0;
    while let Some(chunk) = feed::next_of(&mut stream, job).await? {
        bytes += chunk.len() as u64;
        let write = async { file.write_all(&chunk).await.or_io("write dump", aside) };
        job.run("write dump", write).await?;
        parsing.push(chunk, job).await?;
    }
    let (tally, _) = parsing.finish(job).await?;
    let sync = async {
        file.flush().await.or_io("write dump", aside)?;
        file.sync_all().await.or_io("make dump durable", aside)
    };
    job.run("make dump durable", sync).await?;
    let keys = tally.keys();
    let written = Written { keys, bytes, bytes_whole: Some(bytes) };
    Ok((tally, written))
}

async fn write_chosen(
    aside: &Path,
    stream: ByteStream,
    selection: &Selection,
    job: &JobContext,
) -> Result<(Tally, Written)> {
    let chooser = Chooser {
        patterns: selection.patterns.clone(),
        writer: Writer::new(BufWriter::new(create(aside)?)),
        tally: Tally::new(),
        keys: 0,
    };
    let (chooser, _) = feed::parse_stream(stream, chooser, job).await?;
    let (keys, tally, path) = (chooser.keys, chooser.tally, aside.to_owned());
    let finish = move || {
        let file = chooser
            .writer
            .finish()?
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .or_io("write dump", &path)?;
        file.sync_all().or_io("make dump durable", &path)?;
        Ok(file.metadata().or_io("stat dump", &path)?.len())
    };
    let bytes = job.run("make dump durable", job.workers().block("finish dump", finish)).await?;
    let written = Written { keys, bytes, bytes_whole: None };
    Ok((tally, written))
}

/// Writes the keys that fit into a new dump, and counts all of them.
struct Chooser {
    patterns: Vec<String>,
    writer: Writer<BufWriter<std::fs::File>>,
    tally: Tally,
    keys: u64,
}

impl Visitor for Chooser {
    fn begin(&mut self, header: &Header) -> Result<()> {
        self.tally.begin(header)?;
        self.writer.header(header)
    }

    fn key(&mut self, record: Record<'_>) -> Result<()> {
        self.tally.add(&record);
        if glob::matches_any(&self.patterns, record.key) {
            self.keys += 1;
            self.writer.record(&record)?;
        }
        Ok(())
    }

    fn function(&mut self, code: &[u8]) -> Result<()> {
        self.tally.add_function(code);
        Ok(())
    }

    fn keeps_raw(&self) -> RawValues {
        RawValues::Kept
    }
}

async fn discard(aside: &Path) {
    if let Err(error) = tokio::fs::remove_file(aside).await {
        tracing::debug!(%error, path = %aside.display(), "nothing to discard");
    }
}

/// Moves what was written aside into place; what was there is kept, unless it is the same snapshot already.
fn put_in_place(
    aside: &Path,
    target: &Path,
    run: &RunId,
    account: Option<&Account>,
    same_size: Option<u64>,
) -> Result<Option<String>> {
    let directory = target.parent().ok_or_else(|| Error::bug("find the directory of a dump"))?;
    if nix::unistd::geteuid().is_root() {
        let owner = std::fs::metadata(directory).or_io("stat directory", directory)?;
        let (uid, gid) = account.map_or((owner.uid(), owner.gid()), |a| (a.uid, a.gid));
        std::os::unix::fs::chown(aside, Some(uid), Some(gid)).or_io("change owner", aside)?;
    }
    let old = old_name(target, run);
    let mut note = None;
    let there = std::fs::metadata(target).ok();
    let keep = there.is_some_and(|meta| same_size != Some(meta.len()));
    if keep && !old.try_exists().or_io("look for the old dump", &old)? {
        std::fs::rename(target, &old).or_io("keep the old dump", target)?;
        note = Some(format!("the dump that was there is kept as {}", old.display()));
    }
    std::fs::rename(aside, target).or_io("put dump in place", target)?;
    let opened = std::fs::File::open(directory).or_io("open directory", directory)?;
    opened.sync_all().or_io("make directory durable", directory)?;
    Ok(note)
}
