//! Extended attributes, POSIX ACLs among them, of a file by descriptor or of anything else by directory and name.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Largest list of names and largest value that Linux has.
const LIST_BYTES_MAX: usize = 64 * 1024;
/// A value or list may grow between asking its size and reading it.
const TRIES: usize = 8;

/// Name and value, sorted by name.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Applied late and in this order: an earlier change of owner or mode would undo them.
const LAST: [&[u8]; 3] = [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Attributes of an open file. A file system without them has none.
pub fn attributes_of(fd: &OwnedFd) -> io::Result<Attributes> {
    read_all(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

/// Attributes of what `name` in `parent` is, a link itself included.
pub fn attributes_at(parent: &OwnedFd, name: &[u8]) -> io::Result<Attributes> {
    let path = reach(parent, name);
    read_all(
        |buffer| rustix::fs::llistxattr(path.as_slice(), buffer),
        |name, buffer| rustix::fs::lgetxattr(path.as_slice(), name, buffer),
    )
}

/// There is no call with a directory and a name before Linux 6.13: the way through `/proc` follows no link in the tree.
fn reach(parent: &OwnedFd, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat()
}

fn read_all(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Attributes> {
    let mut small = [0; 512];
    let names = match list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(n) => small[..n].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; LIST_BYTES_MAX];
            let n = list(&mut large)?;
            large.truncate(n);
            large
        }
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match value(name, &get) {
            Ok(value) => found.push((name.to_vec(), value)),
            // gone since the list was read
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn value(
    name: &[u8],
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    for _ in 0..TRIES {
        match get(name, &mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 8, 0),
            Err(e) => return Err(e),
        }
    }
    Err(Errno::RANGE)
}

/// Sets attributes in a safe order. Gives the names that this file system or our rights do not allow.
pub(super) fn set(
    attributes: &Attributes,
    put: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> io::Result<Vec<Vec<u8>>> {
    let mut refused = Vec::new();
    let early = attributes.iter().filter(|(name, _)| !LAST.contains(&name.as_slice()));
    let late = LAST.iter().filter_map(|last| attributes.iter().find(|(name, _)| name == last));
    for (name, value) in early.chain(late) {
        match put(name, value) {
            Ok(()) => {}
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => refused.push(name.clone()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(refused)
}

pub(super) fn set_on(fd: &OwnedFd, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
    set(attributes, |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))
}

pub(super) fn set_at(parent: &OwnedFd, name: &[u8], attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
    let path = reach(parent, name);
    set(attributes, |name, value| rustix::fs::lsetxattr(path.as_slice(), name, value, XattrFlags::empty()))
}

/// Takes the ACLs off a directory, so that nothing made in it inherits them.
pub(super) fn drop_acls(fd: &OwnedFd) -> io::Result<()> {
    for name in &LAST[1..] {
        match rustix::fs::fremovexattr(fd, *name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Gives `to` the owner, mode, attributes and modification time of `from`.
pub fn copy_metadata(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::fchown(to, Some(uid), Some(gid)) {
        // as somebody else than root everything is ours anyway
        Ok(()) | Err(Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    set_on(to, &attributes_of(from)?)?;
    let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    rustix::fs::futimens(to, &Timestamps { last_access: mtime, last_modification: mtime })?;
    Ok(())
}
