//! One job per system at a time on this machine, whichever process runs it.
//!
//! A lock is an exclusive `flock` on `<dir>/<system>.lock`: the kernel gives it back when its holder dies, however it
//! dies. The file stays and says who holds it; it is never removed, because a waiting process may have it open.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::clock::{Clock, SystemClock};
use crate::domain::Timestamp;
use crate::domain::id::{RunId, SystemName};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// More than a holder's note ever needs; what follows is not read.
const NOTE_BYTES_MAX: u64 = 4096;

/// Held until dropped.
#[derive(Debug)]
pub struct SystemLock {
    file: File,
    holder: Holder,
}

/// What a held lock's file says about its holder. For people: the lock itself is the kernel's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    since: Timestamp,
    run: Option<RunId>,
}

impl SystemLock {
    /// Takes the lock of `system` in `dir` or fails at once with `Busy`, which says who holds it. Makes `dir` where it
    /// is missing.
    pub fn acquire(dir: &Path, system: &SystemName) -> Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).or_io("make directory", dir)?;
        let path = dir.join(format!("{system}.lock"));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .or_io("open lock", &path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy(system, read_holder(&mut file).as_ref())),
            Err(error) => {
                return Err(Error::new(ErrorKind::Failed, "lock system")
                    .with("path", path.display())
                    .because(error));
            }
        }
        let holder = Holder { pid: std::process::id(), since: SystemClock.now(), run: None };
        let mut lock = Self { file, holder };
        lock.write_down()?;
        Ok(lock)
    }

    /// Says which run holds it, for the message that others get.
    pub fn name_run(&mut self, run: &RunId) -> Result<()> {
        self.holder.run = Some(run.clone());
        self.write_down()
    }

    fn write_down(&mut self) -> Result<()> {
        let failed = |e: std::io::Error| {
            Error::new(crate::error::io_kind(&e), "write down the holder of a lock").because(e)
        };
        let note = serde_json::to_vec(&self.holder)
            .map_err(|e| Error::bug("write down the holder of a lock").because(e))?;
        self.file.set_len(0).map_err(failed)?;
        self.file.rewind().map_err(failed)?;
        self.file.write_all(&note).map_err(failed)
    }
}

impl Drop for SystemLock {
    /// Gives the lock back even while a child process that was just forked still has the file open.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%error, "lock ends with its file");
        }
    }
}

/// `None` when the holder is just writing.
fn read_holder(file: &mut File) -> Option<Holder> {
    let mut note = String::new();
    file.take(NOTE_BYTES_MAX).read_to_string(&mut note).ok()?;
    serde_json::from_str(&note).ok()
}

fn busy(system: &SystemName, holder: Option<&Holder>) -> Error {
    let error =
        Error::new(ErrorKind::Busy, "start work on a system that is being worked on").with("system", system);
    let error = match holder {
        Some(holder) => error
            .with("held by pid", holder.pid)
            .with("run", holder.run.as_ref().map_or("not named yet", RunId::as_str))
            .with("since", holder.since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        None => error,
    };
    error.hint("wait until it ends, or end it; `lifeboat runs` shows what it does")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> SystemName {
        SystemName::parse("orders").unwrap()
    }

    #[test]
    fn the_second_holder_is_told_who_the_first_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("locks");
        let mut first = SystemLock::acquire(&dir, &orders()).unwrap();
        let run = RunId::new(SystemClock.now(), 7);
        first.name_run(&run).unwrap();

        let error = SystemLock::acquire(&dir, &orders()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let text = error.to_string();
        for part in [run.as_str(), &std::process::id().to_string(), "orders", "since=20"] {
            assert!(text.contains(part), "{text} without {part}");
        }
        assert!(error.advice().unwrap().contains("lifeboat runs"));

        SystemLock::acquire(&dir, &SystemName::parse("cache").unwrap()).unwrap();
        drop(first);
        SystemLock::acquire(&dir, &orders()).unwrap();
    }

    #[test]
    fn the_kernel_gives_the_lock_of_a_killed_process_back() {
        let home = tempfile::tempdir().unwrap();
        drop(SystemLock::acquire(home.path(), &orders()).unwrap());
        let path = home.path().join("orders.lock");
        let mut holder = std::process::Command::new("flock")
            .args(["--exclusive", "--no-fork"])
            .arg(&path)
            .args(["sh", "-c", "echo held; exec sleep 60"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
        let error = SystemLock::acquire(home.path(), &orders()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        holder.kill().unwrap();
        holder.wait().unwrap();
        SystemLock::acquire(home.path(), &orders()).unwrap();
    }
}
