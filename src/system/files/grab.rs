//! Reads one entry: metadata, attributes, content, hash, and its bytes in the archive. Owns how it is noticed that a file
//! changed while it was read: size, times and inode before and after every read; changed means read again, up to a bound.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::entry::{Entry, EntryKind, EntryState, Sha, Text, attributes_hash, ctime, kind_of, mtime};
use super::walk::{Found, is_gone};
use crate::archive::{Attributes, Kind, Member, attributes_at, attributes_of, encode, pad};

/// Files up to this size are read whole before their header is written.
pub(super) const SMALL_BYTES_MAX: i64 = 1024 * 1024;
/// A small file costs little to read again.
pub(super) const SMALL_TRIES: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Headers and content are wanted, as archive bytes.
    Archive,
    /// Only the hash of the content is wanted.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its bytes are in this archive.
    Written,
    /// As in the parent; not in this archive.
    Unchanged,
}

/// An entry to be read, and what the parent knew about it.
#[derive(Debug)]
pub(super) struct Fresh {
    pub found: Found,
    pub parent: Option<Entry>,
}

#[derive(Debug)]
pub(super) struct Trouble {
    pub path: Vec<u8>,
    pub what: TroubleKind,
}

#[derive(Debug)]
pub(super) enum TroubleKind {
    Unreadable(io::Error),
    Socket,
    OtherFilesystem,
}

#[derive(Debug)]
pub(super) enum Piece {
    Entry(Box<Entry>, Change),
    /// Needs the main thread: large, or one of several names of the same file.
    Alone(Box<Fresh>),
    Trouble(Trouble),
}

/// What came of a batch. The archive bytes go before those of the pieces that are left to the main thread.
#[derive(Debug, Default)]
pub(super) struct Grabbed {
    pub archive: Vec<u8>,
    pub pieces: Vec<Piece>,
}

/// Whether entries that need the main thread are handed back or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Helper,
    Main,
}

/// Called with the path and the number of the attempt when the content was read, before it is checked for changes.
pub(super) type ReadHook = Arc<dyn Fn(&[u8], u32) + Send + Sync>;

#[derive(Clone)]
pub(super) struct Grabber {
    pub keep: Keep,
    pub hook: Option<ReadHook>,
}

impl fmt::Debug for Grabber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grabber").field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// Whether nothing happened to the file between the two.
pub(super) fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_ino, a.st_dev, a.st_size, a.st_mode) == (b.st_ino, b.st_dev, b.st_size, b.st_mode)
        && (mtime(a), ctime(a)) == (mtime(b), ctime(b))
}

/// Opens a file for reading; a fifo or a device put in its place meanwhile does not block.
pub(super) fn open_file(found: &Found) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(&*found.parent, found.name(), flags, Mode::empty())
}

pub(super) fn member(entry: &Entry, xattrs: Attributes) -> Member {
    Member {
        path: entry.path.0.clone(),
        kind: match (&entry.hard_link, entry.kind) {
            (Some(_), _) => Kind::HardLink,
            (None, EntryKind::File) => Kind::File,
            (None, EntryKind::Directory) => Kind::Directory,
            (None, EntryKind::Symlink) => Kind::Symlink,
            (None, EntryKind::Fifo) => Kind::Fifo,
            (None, EntryKind::CharDevice) => Kind::CharDevice,
            (None, EntryKind::BlockDevice) => Kind::BlockDevice,
        },
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: if entry.hard_link.is_some() { 0 } else { entry.size },
        mtime: entry.time(),
        link: entry.hard_link.as_ref().or(entry.link.as_ref()).map(|t| t.0.clone()).unwrap_or_default(),
        device: entry.device.unwrap_or_default(),
        xattrs,
        sparse: None,
    }
}

impl Grabber {
    /// Reads one entry into `out`. Never fails: what could not be read is reported there.
    pub fn grab(&self, fresh: Fresh, who: Who, out: &mut Grabbed) {
        let path = fresh.found.path.clone();
        let known = fresh.parent.clone();
        if let Err(error) = self.try_grab(fresh, who, out) {
            if is_gone(&error) {
                return;
            }
            if let Some(mut entry) = known {
                entry.state = EntryState::Stale;
                out.pieces.push(Piece::Entry(Box::new(entry), Change::Unchanged));
            }
            let what = TroubleKind::Unreadable(error);
            out.pieces.push(Piece::Trouble(Trouble { path, what }));
        }
    }

    fn try_grab(&self, mut fresh: Fresh, who: Who, out: &mut Grabbed) -> io::Result<()> {
        let start = out.archive.len();
        for attempt in 1.. {
            let stat = fresh.found.stat;
            let Some(kind) = kind_of(&stat) else {
                let (path, what) = (fresh.found.path, TroubleKind::Socket);
                out.pieces.push(Piece::Trouble(Trouble { path, what }));
                return Ok(());
            };
            let shared = stat.st_nlink > 1 && kind != EntryKind::Directory;
            let large = kind == EntryKind::File && stat.st_size > SMALL_BYTES_MAX;
            if large || (shared && who == Who::Helper) {
                out.pieces.push(Piece::Alone(Box::new(fresh)));
                return Ok(());
            }
            let read = if kind == EntryKind::File {
                self.file(&fresh.found, attempt, out)
            } else {
                self.other(&fresh.found, kind, attempt, out)
            };
            let last = attempt >= SMALL_TRIES;
            match read {
                Ok((mut entry, held)) if held || last => {
                    if !held {
                        entry.state = EntryState::Torn;
                    }
                    self.keep(entry, fresh.parent.as_ref(), start, out);
                    return Ok(());
                }
                Ok(_) => {}
                Err(e) if is_gone(&e) && !last => {}
                Err(e) => {
                    out.archive.truncate(start);
                    return Err(e);
                }
            }
            out.archive.truncate(start);
            fresh.found.look_again()?;
        }
        Ok(())
    }

    /// An entry that was read again only to be sure, and is as before, stays out of the archive.
    fn keep(&self, entry: Entry, parent: Option<&Entry>, start: usize, out: &mut Grabbed) {
        let change = if parent == Some(&entry) { Change::Unchanged } else { Change::Written };
        if self.keep == Keep::Nothing || change == Change::Unchanged {
            out.archive.truncate(start);
        }
        out.pieces.push(Piece::Entry(Box::new(entry), change));
    }

    /// The entry, and whether it held still while it was read.
    fn file(&self, found: &Found, attempt: u32, out: &mut Grabbed) -> io::Result<(Entry, bool)> {
        let fd = open_file(found)?;
        let xattrs = attributes_of(&fd)?;
        let mut entry = Entry::from_stat(&found.path, EntryKind::File, &found.stat);
        entry.xattrs = attributes_hash(&xattrs);
        if self.keep == Keep::Archive {
            encode(&member(&entry, xattrs), &mut out.archive);
        }
        let size = usize::try_from(entry.size).map_err(io::Error::other)?;
        let start = out.archive.len();
        out.archive.reserve(size + pad(entry.size).len());
        read_up_to(&fd, 0, size, &mut out.archive)?;
        let whole = out.archive.len() == start + size;
        out.archive.resize(start + size, 0);
        entry.sha256 = Some(Sha(Sha256::digest(&out.archive[start..]).into()));
        out.archive.extend_from_slice(pad(entry.size));
        if let Some(hook) = &self.hook {
            hook(&found.path, attempt);
        }
        let after = rustix::fs::fstat(&fd)?;
        Ok((entry, whole && same(&found.stat, &after)))
    }

    fn other(
        &self,
        found: &Found,
        kind: EntryKind,
        attempt: u32,
        out: &mut Grabbed,
    ) -> io::Result<(Entry, bool)> {
        let mut entry = Entry::from_stat(&found.path, kind, &found.stat);
        let xattrs = attributes_at(&found.parent, found.name())?;
        entry.xattrs = attributes_hash(&xattrs);
        if kind == EntryKind::Symlink {
            let target = rustix::fs::readlinkat(&*found.parent, found.name(), Vec::new())?;
            entry.link = Some(Text(target.into_bytes()));
        }
        if self.keep == Keep::Archive {
            encode(&member(&entry, xattrs), &mut out.archive);
        }
        if let Some(hook) = &self.hook {
            hook(&found.path, attempt);
        }
        // a directory in use changes all the time: what is in it is read one by one
        if kind == EntryKind::Directory {
            return Ok((entry, true));
        }
        let after = rustix::fs::statat(&*found.parent, found.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((entry, same(&found.stat, &after)))
    }
}

/// Reads `size` bytes from `offset` on, or up to the end of the file.
pub(super) fn read_up_to(fd: &OwnedFd, mut offset: u64, size: usize, out: &mut Vec<u8>) -> io::Result<()> {
    out.reserve(size);
    let end = out.len() + size;
    while out.len() < end {
        match rustix::io::pread(fd, spare_capacity(out), offset) {
            Ok(0) => break,
            Ok(n) => offset += n as u64,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // a file that grew gives more than it announced
    out.truncate(end);
    Ok(())
}
