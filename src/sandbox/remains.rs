//! What a sandbox leaves on a machine: processes and a directory tree. Finds, kills and removes them.
//!
//! Invariants: a directory is only removed when it carries the marker of the run that made it (or is empty); the marker
//! goes last, so that an interrupted removal can be continued; links are removed, never followed; a process is only
//! killed when it runs as the account that the directory belongs to.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::domain::id::RunId;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::runtime::process::start_mark;

/// Holds the id of the run that made the directory.
pub(super) const MARKER: &str = ".lifeboat-sandbox";
/// Environment variable of sandbox servers: the sandbox's directory.
pub(super) const ENV_HOME: &str = "LIFEBOAT_SANDBOX";

/// Between two looks at processes that were told to end.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Rounds of killing: a server may fork while it is being killed.
const KILL_ROUNDS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existed {
    Yes,
    No,
}

/// Puts the marker into a directory that was just made.
pub(super) fn mark(home: &Path, run: &RunId) -> Result<()> {
    let marker = home.join(MARKER);
    std::fs::write(&marker, run.as_str()).or_io("mark sandbox", &marker)?;
    std::fs::set_permissions(&marker, Permissions::from_mode(0o600)).or_io("mark sandbox", &marker)
}

/// Kills the process that was started at `started` under this pid, and waits until it is gone. False when it was.
pub(super) async fn kill_process(pid: u32, started: &str, job: &JobContext) -> Result<bool> {
    let lives = || start_mark(pid).is_some_and(|mark| mark == started);
    if !lives() {
        return Ok(false);
    }
    kill_if(pid, lives);
    for _ in 0..KILL_ROUNDS_MAX {
        if !lives() {
            return Ok(true);
        }
        job.sleep("wait for a process to end", LOOK_AGAIN).await?;
    }
    Err(unkillable(pid))
}

/// Kills every process of the sandbox at `home` and waits until none is left; gives those that it found.
pub(super) async fn kill_under(home: &Path, job: &JobContext) -> Result<BTreeSet<u32>> {
    let mut killed = BTreeSet::new();
    for _ in 0..KILL_ROUNDS_MAX {
        let dir = home.to_path_buf();
        let scan = job.workers().block("find processes of sandbox", move || {
            let found = processes_under(&dir);
            for pid in &found {
                kill_if(*pid, || belongs(*pid, &dir, owner_of(&dir)));
            }
            Ok(found)
        });
        let found = job.run("find processes of sandbox", scan).await?;
        if found.is_empty() {
            return Ok(killed);
        }
        killed.extend(found);
        job.sleep("wait for processes to end", LOOK_AGAIN).await?;
    }
    Err(killed.last().map_or_else(|| Error::bug("count processes"), |pid| unkillable(*pid)))
}

fn unkillable(pid: u32) -> Error {
    Error::new(ErrorKind::Failed, "end a process of a sandbox")
        .with("pid", pid)
        .why("it does not end after SIGKILL")
        .hint("it may wait for a disk; end it by hand, then sweep again")
}

/// SIGKILL through a pid file descriptor, so that nobody who got the number since is hit.
fn kill_if(pid: u32, still: impl Fn() -> bool) {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else {
        return;
    };
    if still()
        && let Err(error) = pidfd_send_signal(&handle, Signal::KILL)
    {
        tracing::debug!(pid, %error, "process was not killed");
    }
}

/// The account that processes of the sandbox run as.
fn owner_of(home: &Path) -> u32 {
    std::fs::symlink_metadata(home).map_or_else(|_| rustix::process::geteuid().as_raw(), |m| m.uid())
}

/// Live processes that run as the directory's owner and were started for it, or in it, or on something below it.
pub(super) fn processes_under(home: &Path) -> Vec<u32> {
    let owner = owner_of(home);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && belongs(*pid, home, owner))
        .collect()
}

fn belongs(pid: u32, home: &Path, owner: u32) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if start_mark(pid).is_none() || uid_of(&proc) != Some(owner) {
        return false;
    }
    let link = |name: &str| std::fs::read_link(proc.join(name)).unwrap_or_default();
    // a person who looks at a sandbox in a shell is not its server: that one has no terminal as its input
    let stdin = link("fd/0");
    if stdin.starts_with("/dev/pts") || stdin.starts_with("/dev/tty") {
        return false;
    }
    let strings = |name: &str| std::fs::read(proc.join(name)).unwrap_or_default();
    let for_it = [ENV_HOME.as_bytes(), b"=", home.as_os_str().as_bytes()].concat();
    link("cwd").starts_with(home)
        || link("root").starts_with(home)
        || strings("environ").split(|b| *b == 0).any(|v| v == for_it)
        || strings("cmdline").split(|b| *b == 0).any(|arg| names(arg, home))
}

/// Is `home`, or a path below it, written in `argument`?
fn names(argument: &[u8], home: &Path) -> bool {
    let home = home.as_os_str().as_bytes();
    argument
        .windows(home.len())
        .enumerate()
        .filter(|(_, part)| *part == home)
        .any(|(at, _)| argument.get(at + home.len()).is_none_or(|next| !is_name_byte(*next)))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn uid_of(proc: &Path) -> Option<u32> {
    let status = std::fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Removes a sandbox's directory. `Conflict` for one that this run did not make; nothing is removed then.
pub(super) fn remove_home(home: &Path, run: &RunId) -> Result<Existed> {
    let meta = match std::fs::symlink_metadata(home) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Existed::No),
        meta => meta.or_io("look at sandbox", home)?,
    };
    if !meta.is_dir() {
        return Err(refused(home, "it is not a directory"));
    }
    let marker = home.join(MARKER);
    match std::fs::read_to_string(&marker) {
        // the process may have died between making the file and filling it
        Ok(text) if run.as_str().starts_with(text.trim()) => {}
        Ok(_) => return Err(refused(home, "its marker names another run")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // died before the marker was there: then it is empty, or not ours
            return match std::fs::remove_dir(home) {
                Ok(()) => Ok(Existed::Yes),
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    Err(refused(home, "it has no marker"))
                }
                Err(e) => Err(e).or_io("remove directory", home),
            };
        }
        Err(e) => return Err(e).or_io("read marker", &marker),
    }
    for entry in std::fs::read_dir(home).or_io("list directory", home)? {
        let entry = entry.or_io("list directory", home)?;
        if entry.file_name() != MARKER {
            remove_any(&entry.path())?;
        }
    }
    std::fs::remove_file(&marker).or_io("remove marker", &marker)?;
    std::fs::remove_dir(home).or_io("remove directory", home)?;
    Ok(Existed::Yes)
}

fn refused(home: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Conflict, "remove a sandbox")
        .with("path", home.display())
        .why(why)
        .hint("look at it, and remove it by hand if nobody needs it; then sweep again")
}

fn remove_any(path: &Path) -> Result<()> {
    match remove_once(path) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            gone(remove_once(path)).or_io("remove", path)
        }
        result => gone(result).or_io("remove", path),
    }
}

fn gone(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn remove_once(path: &Path) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

/// Makes directories writable for ourselves: without root's rights a read-only one keeps its entries.
fn open_directories(path: &Path) -> Result<()> {
    let mut pending = vec![path.to_path_buf()];
    while let Some(dir) = pending.pop() {
        if !std::fs::symlink_metadata(&dir).or_io("look at", &dir)?.is_dir() {
            continue;
        }
        std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).or_io("make writable", &dir)?;
        for entry in std::fs::read_dir(&dir).or_io("list directory", &dir)? {
            pending.push(entry.or_io("list directory", &dir)?.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u32) -> RunId {
        RunId::new(chrono::Utc::now(), n)
    }

    #[test]
    fn a_directory_without_the_marker_of_the_run_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("precious");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("data"), "x").unwrap();
        let error = remove_home(&home, &run(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        mark(&home, &run(2)).unwrap();
        assert_eq!(remove_home(&home, &run(1)).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(std::fs::read(home.join("data")).unwrap(), b"x");

        let link = root.path().join("link");
        std::os::unix::fs::symlink(&home, &link).unwrap();
        assert_eq!(remove_home(&link, &run(2)).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn links_are_removed_and_not_followed_and_read_only_directories_too() {
        let root = tempfile::tempdir().unwrap();
        let (home, outside) = (root.path().join("home"), root.path().join("outside"));
        for dir in [&home, &outside] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(outside.join("kept"), "x").unwrap();
        let run = run(1);
        mark(&home, &run).unwrap();
        std::os::unix::fs::symlink(&outside, home.join("link")).unwrap();
        std::fs::create_dir_all(home.join("data/deep")).unwrap();
        std::fs::write(home.join("data/deep/file"), "x").unwrap();
        std::fs::set_permissions(home.join("data/deep"), Permissions::from_mode(0o500)).unwrap();

        assert_eq!(remove_home(&home, &run).unwrap(), Existed::Yes);
        assert!(outside.join("kept").is_file());
        assert_eq!(remove_home(&home, &run).unwrap(), Existed::No);
    }

    #[test]
    fn what_died_between_directory_and_marker_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        std::fs::create_dir(&home).unwrap();
        assert_eq!(remove_home(&home, &run(1)).unwrap(), Existed::Yes);
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join(MARKER), "").unwrap();
        assert_eq!(remove_home(&home, &run(1)).unwrap(), Existed::Yes);
    }

    #[test]
    fn a_path_in_an_argument_is_found_only_as_a_whole() {
        let home = Path::new("/tmp/box-1");
        for argument in ["/tmp/box-1", "--dir=/tmp/box-1/data", "unix:/tmp/box-1:rw"] {
            assert!(names(argument.as_bytes(), home), "{argument}");
        }
        for argument in ["/tmp/box-12", "/tmp/box-1.old/x", "/tmp/box", ""] {
            assert!(!names(argument.as_bytes(), home), "{argument}");
        }
    }
}
