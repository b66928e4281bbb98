//! Application checks on a tree: `size PATH`, `exists PATH`, `sha256 PATH`, `read PATH` (first line), `count`.
//! A bare path answers its size. Paths stay inside the tree, links included.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use globset::GlobSet;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::FilesSystem;
use super::backup::open_root;
use super::walk::{Mounts, Step, Walk};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, IoContext, Result, io_kind};
use crate::runtime::JobContext;
use crate::system::Queries;

const LINE_BYTES_MAX: u64 = 64 * 1024;

#[async_trait]
impl Queries for FilesSystem {
    async fn ask(&self, place: &Place, query: &str, job: &JobContext) -> Result<String> {
        let (root, query, task_job) = (self.root_of(place), query.trim().to_owned(), job.clone());
        job.workers().block("answer query", move || answer(&root, &query, &task_job)).await
    }
}

fn answer(root: &Path, query: &str, job: &JobContext) -> Result<String> {
    let dir = open_root(root)?;
    let (verb, path) = query.split_once(char::is_whitespace).unwrap_or((query, ""));
    let path = path.trim();
    match (verb, path) {
        ("count", "") => count(dir, job),
        ("size", path) if !path.is_empty() => size(&dir, path),
        ("exists", path) if !path.is_empty() => match resolve(&dir, path, OFlags::PATH) {
            Ok(_) => Ok("true".to_owned()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok("false".to_owned()),
            Err(e) => Err(e),
        },
        ("sha256", path) if !path.is_empty() => hash(&dir, path, job),
        ("read", path) if !path.is_empty() => first_line(&dir, path),
        _ => size(&dir, query),
    }
}

/// Opens a path; a link may lead around inside the tree, never out of it.
fn resolve(dir: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    let waiting = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK };
    let flags = flags | OFlags::CLOEXEC | waiting;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), inside).map_err(|e| {
        let kind = match e {
            Errno::XDEV => ErrorKind::Denied,
            Errno::NOTDIR => ErrorKind::NotFound,
            e => io_kind(&e.into()),
        };
        Error::new(kind, "open file in tree")
            .with("path", path)
            .because(std::io::Error::from(e))
            .hint("queries are: size PATH, exists PATH, sha256 PATH, read PATH, count; paths are relative to the root")
    })
}

fn size(dir: &OwnedFd, path: &str) -> Result<String> {
    let file = resolve(dir, path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&file).map_err(std::io::Error::from);
    Ok(stat.or_io("stat", Path::new(path))?.st_size.to_string())
}

fn hash(dir: &OwnedFd, path: &str, job: &JobContext) -> Result<String> {
    let mut file = File::from(resolve(dir, path, OFlags::RDONLY)?);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        job.check("hash file")?;
        let n = file.read(&mut buffer).or_io("read file", Path::new(path))?;
        if n == 0 {
            let digest: [u8; 32] = hash.finalize().into();
            return Ok(hex::encode(digest));
        }
        hash.update(&buffer[..n]);
    }
}

fn first_line(dir: &OwnedFd, path: &str) -> Result<String> {
    let file = File::from(resolve(dir, path, OFlags::RDONLY)?);
    let mut line = Vec::new();
    BufReader::new(file.take(LINE_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .or_io("read file", Path::new(path))?;
    let text = String::from_utf8_lossy(&line);
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Entries below the root.
fn count(dir: OwnedFd, job: &JobContext) -> Result<String> {
    let mut entries: u64 = 0;
    each_found(dir, GlobSet::empty(), job, |_| entries += 1)?;
    Ok(entries.saturating_sub(1).to_string())
}

/// Every entry of a tree, the root first.
pub(super) fn each_found(
    dir: OwnedFd,
    exclude: GlobSet,
    job: &JobContext,
    mut visit: impl FnMut(&super::walk::Found),
) -> Result<()> {
    let mut walk = Walk::new(Arc::new(dir), exclude, Mounts::Enter);
    while let Some(step) = walk.step().or_io("walk tree", Path::new("."))? {
        job.check("walk tree")?;
        match step {
            Step::Found(found) => visit(&found),
            Step::Unreadable { .. } | Step::OtherFilesystem { .. } => {}
        }
    }
    Ok(())
}
