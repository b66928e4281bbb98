//! Makes one entry: creates, writes, and gives it owner, mode, attributes and times in an order in which none undoes
//! another.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attributes::{set_at, set_on};
use super::member::{Kind, Member};
use super::show;
use super::unpack::Owners;
use crate::error::{Error, ErrorKind, Result, io_kind};

/// What could not be set somewhere.
pub(super) type Refused = Mutex<BTreeSet<Vec<u8>>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new file for us alone; what was there is replaced, never written through.
pub(super) fn create(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
    replacing(parent, name, open)
}

/// Makes something at a name; when something is there, removes that first. A directory with content is not removed.
pub(super) fn replacing<T>(
    parent: &OwnedFd,
    name: &[u8],
    make: impl Fn() -> rustix::io::Result<T>,
) -> io::Result<T> {
    match make() {
        Err(Errno::EXIST) => {}
        result => return Ok(result?),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?,
        result => result?,
    }
    Ok(make()?)
}

pub(super) fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn times(member: &Member) -> Timestamps {
    let mtime = Timespec { tv_sec: member.mtime.sec, tv_nsec: i64::from(member.mtime.nsec) };
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Owner, mode, attributes and times of an open file or directory, in this order.
pub(super) fn dress(fd: &OwnedFd, member: &Member, owners: Owners, refused: &Refused) -> Result<()> {
    let run = || -> io::Result<Vec<Vec<u8>>> {
        if owners == Owners::Restore {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(member.mode))?;
        let refused = if member.xattrs.is_empty() { Vec::new() } else { set_on(fd, &member.xattrs)? };
        rustix::fs::futimens(fd, &times(member))?;
        Ok(refused)
    };
    let names = run().map_err(|e| failed("set metadata", &member.path, e))?;
    if !names.is_empty() {
        lock(refused).extend(names);
    }
    Ok(())
}

pub(super) fn failed(op: &'static str, path: &[u8], error: io::Error) -> Error {
    Error::new(io_kind(&error), op).with("path", show(path)).because(error)
}

/// A part of the way that is a link or a file means that the archive leads somewhere else.
pub(super) fn outside(path: &[u8], error: io::Error) -> Error {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if is(Errno::LOOP) || is(Errno::NOTDIR) || error.kind() == io::ErrorKind::InvalidInput {
        return Error::new(ErrorKind::Corrupt, "accept archive member")
            .with("path", show(path))
            .why("it passes through something that is no directory")
            .hint("the archive was not made by a backup of this tree, or it was altered; do not restore it");
    }
    failed("open directory", path, error)
}

pub(super) fn read_failed(path: &[u8], error: &io::Error) -> Error {
    if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        return Error::new(inner.kind(), "read archive member")
            .with("path", show(path))
            .why(inner.to_string());
    }
    Error::new(ErrorKind::Corrupt, "read archive member").with("path", show(path)).why(error.to_string())
}

/// Metadata of what must not be opened: links, fifos, devices. A link has no mode of its own.
pub(super) fn dress_named(
    parent: &OwnedFd,
    name: &[u8],
    member: &Member,
    owners: Owners,
    refused: &Refused,
) -> Result<()> {
    let run = || -> io::Result<Vec<Vec<u8>>> {
        if owners == Owners::Restore {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if member.kind != Kind::Symlink {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(member.mode), AtFlags::empty())?;
        }
        let names = set_at(parent, name, &member.xattrs)?;
        rustix::fs::utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(names)
    };
    let names = run().map_err(|e| failed("set metadata", &member.path, e))?;
    lock(refused).extend(names);
    Ok(())
}
