//! Walks a tree by descriptors, in the order of [`path_order`](super::entry::path_order), following no link. Opens
//! directories, reads no file.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use globset::GlobSet;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::canary::CANARY_FILE;
use crate::archive::{DirStack, Missing, join, list};

/// A directory that changes while it is listed is listed again.
const LIST_TRIES: usize = 3;
/// Our own files in the root, but for the heartbeat: never part of a backup.
const OWN_PREFIX: &[u8] = b".lifeboat-";

/// What was found at a path, with the directory it is in.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub path: Vec<u8>,
    pub parent: Arc<OwnedFd>,
    pub stat: Stat,
}

impl Found {
    /// Last part of the path; the root is `.` in itself.
    pub fn name(&self) -> &[u8] {
        if self.path.is_empty() { b"." } else { crate::archive::split(&self.path).1 }
    }

    pub fn look_again(&mut self) -> rustix::io::Result<()> {
        self.stat = rustix::fs::statat(&*self.parent, self.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) enum Step {
    Found(Found),
    /// A directory whose content could not be listed, or an entry that could not be looked at.
    Unreadable {
        path: Vec<u8>,
        error: io::Error,
    },
    /// Another file system is mounted here, and it stays out.
    OtherFilesystem {
        path: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mounts {
    Enter,
    StayOut,
}

#[derive(Debug)]
pub(super) struct Walk {
    stack: DirStack,
    frames: Vec<Frame>,
    enter: Option<Found>,
    exclude: GlobSet,
    mounts: Mounts,
    device: u64,
    started: bool,
}

#[derive(Debug)]
struct Frame {
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Walk {
    pub fn new(root: Arc<OwnedFd>, exclude: GlobSet, mounts: Mounts) -> Self {
        Self {
            stack: DirStack::new(root),
            frames: Vec::new(),
            enter: None,
            exclude,
            mounts,
            device: 0,
            started: false,
        }
    }

    /// The next entry; the root comes first. `None` at the end.
    pub fn step(&mut self) -> io::Result<Option<Step>> {
        if !self.started {
            self.started = true;
            return self.root().map(Some);
        }
        if let Some(found) = self.enter.take()
            && let Some(step) = self.descend(found)
        {
            return Ok(Some(step));
        }
        loop {
            let Some(frame) = self.frames.last_mut() else {
                return Ok(None);
            };
            let Some(name) = frame.names.next() else {
                self.frames.pop();
                continue;
            };
            if frame.path.is_empty() && name.starts_with(OWN_PREFIX) && name != CANARY_FILE {
                continue;
            }
            let path = join(&frame.path, &name);
            if self.excluded(&path) {
                continue;
            }
            if let Some(step) = self.visit(path) {
                return Ok(Some(step));
            }
        }
    }

    fn excluded(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        !self.exclude.is_empty() && self.exclude.is_match(std::ffi::OsStr::from_bytes(path))
    }

    fn root(&mut self) -> io::Result<Step> {
        let fd = self.stack.root().clone();
        let stat = rustix::fs::fstat(&*fd)?;
        self.device = stat.st_dev;
        let found = Found { path: Vec::new(), parent: fd, stat };
        self.enter = Some(found.clone());
        Ok(Step::Found(found))
    }

    /// `None` when it is gone meanwhile.
    fn visit(&mut self, path: Vec<u8>) -> Option<Step> {
        let (dir, name) = crate::archive::split(&path);
        let looked = self.stack.open(dir, Missing::Fail).and_then(|parent| {
            let stat = rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((parent, stat))
        });
        let (parent, stat) = match looked {
            Ok(found) => found,
            Err(e) if is_gone(&e) => return None,
            Err(error) => return Some(Step::Unreadable { path, error }),
        };
        let found = Found { path, parent, stat };
        if FileType::from_raw_mode(found.stat.st_mode) == FileType::Directory {
            self.enter = Some(found.clone());
        }
        Some(Step::Found(found))
    }

    fn descend(&mut self, found: Found) -> Option<Step> {
        let path = found.path;
        if self.mounts == Mounts::StayOut && found.stat.st_dev != self.device {
            return Some(Step::OtherFilesystem { path });
        }
        let listed = self.stack.open(&path, Missing::Fail).and_then(|fd| list_settled(&fd));
        match listed {
            Ok(names) => {
                let names = names.into_iter();
                self.frames.push(Frame { path, names });
                None
            }
            Err(e) if is_gone(&e) && !path.is_empty() => None,
            Err(error) => Some(Step::Unreadable { path, error }),
        }
    }
}

fn list_settled(fd: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut tries = 0;
    loop {
        let before = rustix::fs::fstat(fd)?;
        let names = list(fd)?;
        let after = rustix::fs::fstat(fd)?;
        tries += 1;
        if super::entry::ctime(&before) == super::entry::ctime(&after) || tries == LIST_TRIES {
            return Ok(names);
        }
    }
}

/// It vanished, or became something else, between being named and being looked at.
pub(super) fn is_gone(error: &io::Error) -> bool {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    is(Errno::NOENT) || is(Errno::NOTDIR) || is(Errno::LOOP)
}
