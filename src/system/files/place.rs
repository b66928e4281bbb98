//! Where a restored tree goes: it is made aside and put in place by renaming, so that nobody sees half of it.
//!
//! What was there is moved aside, never deleted. A root that is a mount point cannot be renamed: then both happen inside
//! it, child by child, and a repeated attempt goes on where the first stopped.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::backup::open_root;
use crate::archive::{DirStack, copy_metadata, list, remove_tree};
use crate::domain::id::RunId;
use crate::domain::restore::Existing;
use crate::error::{Error, ErrorKind, IoContext, Result};

/// Left at the top of a file system by its own tools; neither content nor in the way.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Names tried for what is moved aside when a first one is taken.
const ASIDE_MAX: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Made beside the target, renamed as a whole.
    Beside,
    /// Made in a directory inside the target, which is a mount point.
    Inside,
}

#[derive(Clone, Debug)]
pub(super) struct Target {
    pub path: PathBuf,
    pub way: Way,
    run: RunId,
}

/// Whether the tree has to be unpacked, or was by an attempt that died while putting it in place.
#[derive(Debug)]
pub(super) enum Prepared {
    Empty(OwnedFd),
    Unpacked,
}

impl Target {
    /// Looks, changes nothing.
    pub fn find(path: &Path, run: &RunId) -> Result<Self> {
        let path = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => path.to_path_buf(),
            Err(e) => return Err(e).or_io("look at target", path),
        };
        let way = if is_mount_point(&path)? { Way::Inside } else { Way::Beside };
        let run = run.clone();
        Ok(Self { path, way, run })
    }

    fn named(&self, what: &str) -> PathBuf {
        match self.way {
            Way::Inside => self.path.join(format!(".lifeboat-{what}{}", self.run)),
            Way::Beside => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".lifeboat-{what}{}", self.run));
                PathBuf::from(name)
            }
        }
    }

    pub fn staging(&self) -> PathBuf {
        self.named("")
    }

    /// Unpacked to its end; children are not in place yet. Only for [`Way::Inside`].
    fn ready(&self) -> PathBuf {
        self.named("ready-")
    }

    /// What was there is out of the way; children are being put in place. Only for [`Way::Inside`].
    fn placing(&self) -> PathBuf {
        self.named("placing-")
    }

    pub fn old(&self) -> PathBuf {
        self.named("old-")
    }

    /// Names at the target that are in the way.
    pub fn content(&self) -> Result<Vec<Vec<u8>>> {
        let meta = match std::fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.or_io("look at target", &self.path)?,
        };
        if !meta.is_dir() {
            return Err(Error::new(ErrorKind::Conflict, "restore over something that is no directory")
                .with("path", self.path.display())
                .hint("name another target"));
        }
        let mut names = list(&open_root(&self.path)?).or_io("list target", &self.path)?;
        if self.way == Way::Inside {
            names.retain(|name| name != LOST_AND_FOUND && !name.starts_with(b".lifeboat-"));
        }
        Ok(names)
    }

    pub fn refuse_content(&self, existing: Existing) -> Result<()> {
        let in_the_way = !self.content()?.is_empty();
        match (existing, in_the_way) {
            (Existing::Refuse, true) => Err(Error::new(
                ErrorKind::Conflict,
                "restore over a directory that holds files",
            )
            .with("path", self.path.display())
            .hint(
                "restore into an empty directory, or allow replacing it: what is there is then moved aside",
            )),
            (Existing::Refuse, false) | (Existing::Replace, _) => Ok(()),
        }
    }

    /// The nearest directory above the target that is there.
    pub fn nearest(&self) -> &Path {
        self.path.ancestors().find(|p| p.is_dir()).unwrap_or_else(|| Path::new("/"))
    }

    /// An empty private directory to unpack into; what a dead attempt of the same run left is removed.
    pub fn prepare(&self) -> Result<Prepared> {
        let both = [self.ready(), self.placing()];
        for done in &both {
            if self.way == Way::Inside && done.try_exists().or_io("look at target", done)? {
                return Ok(Prepared::Unpacked);
            }
        }
        let staging = self.staging();
        let parent = staging.parent().unwrap_or_else(|| Path::new("/"));
        std::fs::create_dir_all(parent).or_io("make directory", parent)?;
        remove(&staging)?;
        rustix::fs::mkdir(&staging, Mode::RWXU)
            .map_err(std::io::Error::from)
            .or_io("make directory", &staging)?;
        open_root(&staging).map(Prepared::Empty)
    }

    /// Removes what was unpacked so far.
    pub fn discard(&self) -> Result<()> {
        remove(&self.staging())
    }

    /// Puts what was unpacked in place. Gives the directory that holds what was there before, if anything was.
    pub fn commit(&self, existing: Existing) -> Result<Option<PathBuf>> {
        match self.way {
            Way::Beside => self.commit_beside(existing),
            Way::Inside => self.commit_inside(existing),
        }
    }

    fn commit_beside(&self, existing: Existing) -> Result<Option<PathBuf>> {
        self.refuse_content(existing)?;
        let mut old = None;
        if !self.content()?.is_empty() {
            let aside = self.free_name()?;
            std::fs::rename(&self.path, &aside).or_io("move aside what was there", &self.path)?;
            old = Some(aside);
        }
        // an empty directory is replaced by the rename itself
        std::fs::rename(self.staging(), &self.path).or_io("put restored files in place", &self.path)?;
        sync(self.path.parent().unwrap_or_else(|| Path::new("/")))?;
        Ok(old)
    }

    /// A first attempt of this run may have moved something aside already.
    fn free_name(&self) -> Result<PathBuf> {
        let first = self.old();
        for n in 1..ASIDE_MAX {
            let mut name = first.clone().into_os_string();
            if n > 1 {
                name.push(format!("-{n}"));
            }
            let name = PathBuf::from(name);
            if !name.try_exists().or_io("look at target", &name)? {
                return Ok(name);
            }
        }
        Err(Error::new(ErrorKind::Conflict, "find a name for what is moved aside")
            .with("path", first.display()))
    }

    fn commit_inside(&self, existing: Existing) -> Result<Option<PathBuf>> {
        let (staging, ready, placing) = (self.staging(), self.ready(), self.placing());
        let is_there = |path: &Path| path.try_exists().or_io("look at target", path);
        if !is_there(&placing)? {
            if !is_there(&ready)? {
                self.refuse_content(existing)?;
                std::fs::rename(&staging, &ready).or_io("finish unpacking", &staging)?;
            }
            let names = self.content()?;
            if !names.is_empty() {
                std::fs::create_dir_all(self.old()).or_io("make directory", &self.old())?;
                move_all(&names, &self.path, &self.old())?;
            }
            std::fs::rename(&ready, &placing).or_io("finish moving aside", &ready)?;
        }
        let from = open_root(&placing)?;
        let names = list(&from).or_io("list directory", &placing)?;
        let to = open_root(&self.path)?;
        move_all(&names, &placing, &self.path)?;
        copy_metadata(&from, &to).or_io("set metadata of root", &self.path)?;
        std::fs::remove_dir(&placing).or_io("remove directory", &placing)?;
        sync(&self.path)?;
        Ok(is_there(&self.old())?.then(|| self.old()))
    }
}

fn move_all(names: &[Vec<u8>], from: &Path, to: &Path) -> Result<()> {
    let (from_dir, to_dir) = (open_root(from)?, open_root(to)?);
    for name in names {
        match rustix::fs::renameat(&from_dir, name.as_slice(), &to_dir, name.as_slice()) {
            Ok(()) => {}
            Err(e) => {
                let hint = match e {
                    Errno::BUSY | Errno::XDEV => "a file system is mounted inside; unmount it first",
                    _ => "look at both directories; nothing was deleted",
                };
                return Err(std::io::Error::from(e))
                    .or_io("move", &to.join(String::from_utf8_lossy(name).as_ref()))
                    .map_err(|e| e.hint(hint));
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::bug("remove the root directory"));
    };
    let mut stack = DirStack::new(Arc::new(open_root(parent)?));
    remove_tree(&mut stack, std::os::unix::ffi::OsStrExt::as_bytes(name)).or_io("remove", path)
}

fn sync(dir: &Path) -> Result<()> {
    let fd = open_root(dir)?;
    rustix::fs::fsync(&fd).map_err(std::io::Error::from).or_io("sync directory", dir)
}

fn is_mount_point(path: &Path) -> Result<bool> {
    if path == Path::new("/") {
        return Ok(true);
    }
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(std::io::Error::from(e)).or_io("look at target", path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn target(dir: &Path, way: Way) -> Target {
        Target { path: dir.join("mnt"), way, run: RunId::parse("20260101-000000-00000001").unwrap() }
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_mount_point_is_filled_inside_and_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path(), Way::Inside);
        write(&target.path.join("f"), "old");
        fs::create_dir(target.path.join("lost+found")).unwrap();
        assert!(target.commit(Existing::Refuse).is_err());
        assert!(matches!(target.prepare().unwrap(), Prepared::Empty(_)));
        write(&target.staging().join("f"), "new");
        let old = target.commit(Existing::Replace).unwrap().unwrap();
        assert_eq!(fs::read_to_string(target.path.join("f")).unwrap(), "new");
        assert_eq!(fs::read_to_string(old.join("f")).unwrap(), "old");
        assert!(target.path.join("lost+found").is_dir());
    }

    #[test]
    fn an_attempt_that_died_while_filling_a_mount_point_is_finished() {
        for (old_moved, done) in [(false, false), (true, false), (true, true)] {
            let dir = tempfile::tempdir().unwrap();
            let target = target(dir.path(), Way::Inside);
            let holding = if done { target.placing() } else { target.ready() };
            write(&holding.join("a"), "new");
            write(&holding.join("b"), "new");
            let kept = if old_moved { target.old() } else { target.path.clone() };
            write(&kept.join("a"), "old");
            write(&target.old().join("x"), "old");
            if done {
                fs::rename(holding.join("b"), target.path.join("b")).unwrap();
            }
            assert!(matches!(target.prepare().unwrap(), Prepared::Unpacked));
            assert_eq!(target.commit(Existing::Replace).unwrap(), Some(target.old()));
            for name in ["a", "b"] {
                assert_eq!(fs::read_to_string(target.path.join(name)).unwrap(), "new");
            }
            assert_eq!(fs::read_to_string(target.old().join("a")).unwrap(), "old");
            assert_eq!(fs::read_dir(&target.path).unwrap().count(), 3);
        }
    }

    #[test]
    fn what_an_earlier_attempt_moved_aside_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path(), Way::Beside);
        write(&target.path.join("f"), "second");
        write(&target.old().join("f"), "first");
        assert!(matches!(target.prepare().unwrap(), Prepared::Empty(_)));
        write(&target.staging().join("f"), "new");
        let old = target.commit(Existing::Replace).unwrap().unwrap();
        assert_eq!(fs::read_to_string(old.join("f")).unwrap(), "second");
        assert_eq!(fs::read_to_string(target.old().join("f")).unwrap(), "first");
        assert_eq!(fs::read_to_string(target.path.join("f")).unwrap(), "new");
    }
}
