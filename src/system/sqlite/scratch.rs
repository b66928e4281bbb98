//! A private directory for the copy of one capture. Gone with the value; what a killed process left is removed later.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{IoContext, Result};

const PREFIX: &str = "capture-";
const LOCK: &str = "lock";

/// Held by a lock on a file inside, which the kernel gives back when the process dies.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes `{state}/capture-{id}` (0700), after removing those of dead processes.
    pub(super) fn create(state: &Path, id: &str) -> Result<Self> {
        make_private(state).or_io("make state directory", state)?;
        sweep(state).or_io("remove old captures", state)?;
        let dir = state.join(format!("{PREFIX}{id}"));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).or_io("make capture directory", &dir)?;
        let lock = File::create(dir.join(LOCK)).or_io("make capture directory", &dir)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .or_io("lock capture directory", &dir)?;
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "capture directory was left behind");
        }
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn sweep(state: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(state)? {
        let path = entry?.path();
        let ours = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        if ours && is_abandoned(&path) {
            std::fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn is_abandoned(dir: &Path) -> bool {
    // made but not yet locked is the moment of another capture's birth: left alone
    File::open(dir.join(LOCK))
        .is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_survives_and_an_abandoned_one_is_swept() {
        let state = tempfile::tempdir().unwrap();
        let held = Scratch::create(state.path(), "1").unwrap();
        let dead = state.path().join("capture-2");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let next = Scratch::create(state.path(), "3").unwrap();
        assert!(held.dir.is_dir() && next.dir.is_dir() && !dead.is_dir());
        drop((held, next));
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }
}
