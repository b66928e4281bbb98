//! Directories by descriptor: every step is one `openat` without following links, so paths may be of any length and
//! nobody can turn one into a link meanwhile. Holds a bounded number of descriptors.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Descriptors of the deepest levels that stay open.
const OPEN_MAX: usize = 48;
/// Above them, one in so many stays open, to reopen from.
const KEPT_EVERY: usize = 32;

/// What to do about a directory that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Fail,
    /// Make it, for the owner only.
    Create,
}

/// A way down from a root. Asking for directories in the order of a walk costs one `openat` for each.
#[derive(Debug)]
pub struct DirStack {
    root: Arc<OwnedFd>,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    fd: Option<Arc<OwnedFd>>,
}

/// Directory and last part of a path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Opens a directory below `parent` that is none itself through a link.
pub fn open_directory(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Names in a directory, sorted by bytes, without `.` and `..`.
pub fn list(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl DirStack {
    pub fn new(root: Arc<OwnedFd>) -> Self {
        Self { root, levels: Vec::new() }
    }

    pub fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// The directory at `path` below the root. `ELOOP` or `ENOTDIR` when a part of it is a link.
    pub fn open(&mut self, path: &[u8], missing: Missing) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            self.levels.clear();
            return Ok(self.root.clone());
        }
        let mut shared = 0;
        let mut parts = path.split(|b| *b == b'/').peekable();
        while let (Some(level), Some(part)) = (self.levels.get(shared), parts.peek()) {
            if level.name != **part {
                break;
            }
            parts.next();
            shared += 1;
        }
        self.levels.truncate(shared);
        let mut fd = self.reopen()?;
        for part in parts {
            if matches!(part, b"" | b"." | b"..") {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let next = Arc::new(enter(&fd, part, missing)?);
            self.push(part, next.clone());
            fd = next;
        }
        Ok(fd)
    }

    /// Descriptor of the deepest level, opening again what was closed on the way to it.
    fn reopen(&mut self) -> io::Result<Arc<OwnedFd>> {
        let open = self.levels.iter().rposition(|l| l.fd.is_some());
        let mut fd = open.and_then(|n| self.levels[n].fd.clone()).unwrap_or_else(|| self.root.clone());
        let first = open.map_or(0, |n| n + 1);
        for n in first..self.levels.len() {
            fd = Arc::new(open_directory(&fd, &self.levels[n].name)?);
        }
        if let Some(last) = self.levels.last_mut() {
            last.fd = Some(fd.clone());
        }
        Ok(fd)
    }

    fn push(&mut self, name: &[u8], fd: Arc<OwnedFd>) {
        self.levels.push(Level { name: name.to_vec(), fd: Some(fd) });
        if let Some(old) = self.levels.len().checked_sub(OPEN_MAX + 1)
            && old % KEPT_EVERY != 0
        {
            self.levels[old].fd = None;
        }
    }

    /// Forgets open descriptors below `path`, after it was removed.
    pub fn forget(&mut self, path: &[u8]) {
        let depth = path.split(|b| *b == b'/').count();
        self.levels.truncate(depth.saturating_sub(1));
    }
}

fn enter(parent: &OwnedFd, name: &[u8], missing: Missing) -> io::Result<OwnedFd> {
    match (open_directory(parent, name), missing) {
        (Err(Errno::NOENT), Missing::Create) => {
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(open_directory(parent, name)?)
        }
        (result, Missing::Create | Missing::Fail) => Ok(result?),
    }
}

/// Removes `path` below the stack's root with everything in it; nothing there is fine. Follows no links.
pub fn remove_tree(stack: &mut DirStack, path: &[u8]) -> io::Result<()> {
    let mut pending: Vec<(Vec<u8>, std::vec::IntoIter<Vec<u8>>)> = Vec::new();
    let mut current = Some(path.to_vec());
    loop {
        if let Some(path) = current.take()
            && let Some(names) = remove_one(stack, &path)?
        {
            pending.push((path, names.into_iter()));
        }
        let Some((dir, names)) = pending.last_mut() else {
            return Ok(());
        };
        if let Some(name) = names.next() {
            current = Some(join(dir, &name));
        } else {
            let (parent, name) = split(dir);
            match rustix::fs::unlinkat(&*stack.open(parent, Missing::Fail)?, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            pending.pop();
        }
    }
}

/// Removes what is no directory; gives the names in it when it is one.
fn remove_one(stack: &mut DirStack, path: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
    let (parent, name) = split(path);
    let parent = match stack.open(parent, Missing::Fail) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {
            return Ok(None);
        }
        result => result?,
    };
    match rustix::fs::unlinkat(&*parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        Err(Errno::ISDIR | Errno::PERM) => Ok(Some(list(&open_directory(&parent, name)?)?)),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Arc<OwnedFd>) {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        (dir, Arc::new(fd))
    }

    #[test]
    fn a_tree_of_two_thousand_levels_is_made_listed_and_removed() {
        let (_dir, fd) = root();
        let mut stack = DirStack::new(fd);
        let deep = vec![&b"d"[..]; 2000].join(&b'/');
        stack.open(&deep, Missing::Create).unwrap();
        let mut other = DirStack::new(stack.root().clone());
        assert!(other.open(&deep, Missing::Fail).is_ok());
        let half = &deep[..1999];
        assert_eq!(list(&other.open(half, Missing::Fail).unwrap()).unwrap(), vec![b"d".to_vec()]);
        remove_tree(&mut other, b"d").unwrap();
        assert!(list(other.root()).unwrap().is_empty());
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let (dir, fd) = root();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        let mut stack = DirStack::new(fd);
        assert!(stack.open(b"link", Missing::Fail).is_err());
        assert!(stack.open(b"link/x", Missing::Create).is_err());
        assert!(stack.open(b"a/../..", Missing::Create).is_err());
        remove_tree(&mut stack, b"link").unwrap();
        assert!(std::fs::exists("/etc/passwd").unwrap());
    }
}
