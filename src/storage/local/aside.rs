//! A file on its way to its name: written beside it, published by one rename, gone without a trace otherwise.
//!
//! Owns the directories made for it and their durability, and what an error of the file system means.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::super::Overwrite;
use super::super::key::ASIDE_PREFIX;
use crate::error::{Error, ErrorKind, IoContext, Result, io_kind};
use crate::runtime::JobContext;

/// A delete may remove the emptied directory that a put has just made; the put then makes it again.
const DIRECTORY_TRIES_MAX: u32 = 8;

/// A name beside the final one. Dropped unpublished: the file and the directories made for it are removed.
pub(super) struct Aside {
    pub(super) path: PathBuf,
    /// The deepest directory that was there before.
    existing: PathBuf,
    pub(super) published: bool,
}

impl Aside {
    pub(super) fn beside(target: &Path, job: &JobContext) -> Result<Self> {
        let directory = target.parent().unwrap_or(target);
        let existing = directory.ancestors().find(|d| d.is_dir()).unwrap_or(directory).to_path_buf();
        let unique = format!("{}-{:08x}", std::process::id(), job.clock().random());
        Ok(Self { path: directory.join(format!("{ASIDE_PREFIX}{unique}")), existing, published: false })
    }

    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Makes the directory and runs `work`, again while somebody removes the directory in between.
    pub(super) fn in_directory<T>(&self, mut work: impl FnMut(&Path) -> io::Result<T>) -> io::Result<T> {
        let mut tries = 1;
        loop {
            let done = make_directories(self.directory()).and_then(|()| work(&self.path));
            match done {
                Err(e) if is_absent(&e) && tries < DIRECTORY_TRIES_MAX => tries += 1,
                done => return done,
            }
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if !is_absent(&error) => {
                tracing::warn!(path = %self.path.display(), %error, "unfinished object was left behind");
            }
            Ok(()) | Err(_) => remove_empty(self.directory(), &self.existing),
        }
    }
}

/// Gives the finished file its name.
pub(super) fn publish(aside: &Path, path: &Path, overwrite: Overwrite) -> Result<()> {
    let op = "store object";
    match overwrite {
        Overwrite::Allow => std::fs::rename(aside, path).or_io(op, path),
        Overwrite::Forbid => match rustix::fs::renameat_with(CWD, aside, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(exists(path)),
            // the file system does not know the flag: a hard link is create-only too
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => publish_by_link(aside, path),
            Err(e) => Err(io::Error::from(e)).or_io(op, path),
        },
    }
}

pub(super) fn publish_by_link(aside: &Path, path: &Path) -> Result<()> {
    match std::fs::hard_link(aside, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
        linked => {
            linked.or_io("store object", path)?;
            std::fs::remove_file(aside).or_io("store object", path)
        }
    }
}

pub(super) fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, "store object").with("path", path.display()).why("it exists already")
}

pub(super) fn put_error(error: io::Error, path: &Path) -> Error {
    let kind = io_kind(&error);
    let error = Error::new(kind, "store object").with("path", path.display()).because(error);
    if kind == ErrorKind::Exhausted {
        error.hint("free space there, or give the destination a larger file system")
    } else if kind == ErrorKind::Denied {
        error.hint("give lifeboat the right to write there")
    } else {
        error
    }
}

/// Length of the object at `path`; `None` when there is no regular file.
pub(super) fn stat_now(path: &Path) -> Result<Option<u64>> {
    match std::fs::symlink_metadata(path) {
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e).or_io("stat object", path),
        Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
    }
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn is_older(path: &Path, now: SystemTime, age: Duration) -> bool {
    std::fs::symlink_metadata(path)
        .and_then(|m| m.modified())
        .is_ok_and(|at| now.duration_since(at).is_ok_and(|old| old >= age))
}

/// Makes `directory` and what is missing above it, each entry durable in its parent.
pub(super) fn make_directories(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|d| !d.is_dir()).collect();
    for made in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o700).create(made) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => sync_directory(made.parent().unwrap_or(made))?,
        }
    }
    Ok(())
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

/// Removes `directory` and what is above it, while empty, up to but not including `root`.
pub(super) fn remove_empty(directory: &Path, root: &Path) {
    let below = directory.ancestors().take_while(|d| *d != root && d.starts_with(root));
    for candidate in below {
        // not empty, or gone already: somebody else's
        if std::fs::remove_dir(candidate).is_err() {
            return;
        }
    }
}
