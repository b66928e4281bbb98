//! Where restored files go: checks that nothing is damaged, a staging directory beside it, and the rename that commits.
//!
//! Until the commit nothing that was there is touched. What is replaced is moved aside, never deleted.

use std::net::ToSocketAddrs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Connector;
use super::settings::Settings;
use super::unpack::make_dir;
use crate::domain::id::RunId;
use crate::domain::place::Place;
use crate::domain::restore::Existing;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::account::Account;
use crate::runtime::process::start_mark;

const ANSWER_WAIT: Duration = Duration::from_secs(3);
pub const AUTO_CONF: &str = "postgresql.auto.conf";

/// A data directory to be made.
#[derive(Clone, Debug)]
pub struct Target {
    pub dir: PathBuf,
    pub kind: TargetKind,
    run: RunId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// The configured server's own; tablespaces go where they were.
    Production,
    /// Any directory; tablespaces become plain directories inside it.
    Directory,
}

impl Target {
    pub fn of(place: &Place, settings: &Settings, run: &RunId) -> Result<Self> {
        let (dir, kind) = match place {
            Place::Directory { path } => (path.clone(), TargetKind::Directory),
            Place::Production => {
                let dir = settings.data_dir.clone().ok_or_else(|| {
                    Error::new(ErrorKind::Config, "restore in place without a data directory")
                        .hint("set data_dir to the server's data directory on this machine")
                })?;
                (dir, TargetKind::Production)
            }
            Place::Server(server) => {
                return Err(Error::new(ErrorKind::Conflict, "restore files under a running server")
                    .with("dir", server.dir.display())
                    .hint("restore into a directory, then start a server on it"));
            }
        };
        Ok(Self { dir, kind, run: run.clone() })
    }

    fn beside(&self, what: &str) -> Result<PathBuf> {
        let name = self.dir.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Config, "restore into this directory").with("dir", self.dir.display())
        })?;
        let mut name = name.to_owned();
        name.push(format!(".lifeboat-{what}{}", self.run));
        Ok(self.dir.with_file_name(name))
    }

    pub fn staging(&self) -> Result<PathBuf> {
        self.beside("")
    }

    /// Errors: `Conflict` when something is there that may not be replaced, or when a server runs on it.
    pub fn check(&self, existing: Existing) -> Result<()> {
        self.staging()?;
        if let Some(pid) = running_on(&self.dir) {
            return Err(Error::new(ErrorKind::Conflict, "restore under a running server")
                .with("dir", self.dir.display())
                .with("pid", pid)
                .hint("stop the server first"));
        }
        if is_mount_point(&self.dir) {
            return Err(Error::new(ErrorKind::Unsupported, "restore into a mount point")
                .with("dir", self.dir.display())
                .hint("use a directory below it: restored files are put in place by a rename"));
        }
        if existing == Existing::Replace || is_vacant(&self.dir)? || self.is_ours() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "restore into a directory that is not empty")
            .with("dir", self.dir.display())
            .hint("choose an empty directory, or allow replacing what is there"))
    }

    /// Did an earlier attempt of this very run put it there?
    fn is_ours(&self) -> bool {
        std::fs::read_to_string(self.dir.join(AUTO_CONF))
            .is_ok_and(|text| text.lines().any(|line| line == self.mark()))
    }

    /// The line in `postgresql.auto.conf` that says whose restore this is.
    pub fn mark(&self) -> String {
        format!("# lifeboat: restored by run {}", self.run)
    }

    /// An empty staging directory; what a dead attempt left in it is removed.
    pub fn stage(&self) -> Result<PathBuf> {
        let staging = self.staging()?;
        remove_tree(&staging)?;
        make_dir(&staging)?;
        Ok(staging)
    }

    /// Puts the staging directory in place. Gives where the old one went, if there was one.
    pub fn commit(&self) -> Result<Option<PathBuf>> {
        let (staging, old) = (self.staging()?, self.beside("old-")?);
        let mut moved = None;
        if !is_vacant(&self.dir)? {
            if old.try_exists().or_io("look for old directory", &old)? {
                // this run already moved the original aside: what is there now is its own
                remove_tree(&self.dir)?;
            } else {
                std::fs::rename(&self.dir, &old).or_io("move old directory aside", &self.dir)?;
            }
            moved = Some(old);
        }
        std::fs::rename(&staging, &self.dir).or_io("put restored directory in place", &self.dir)?;
        if let Some(parent) = self.dir.parent() {
            std::fs::File::open(parent).and_then(|dir| dir.sync_all()).or_io("sync directory", parent)?;
        }
        Ok(moved)
    }

    /// Whom restored files belong to; `None`: leave them to us. Only root can give files away.
    pub fn owner(&self, settings: &Settings) -> Result<Option<Account>> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let of = |path: &Path| {
            let meta = std::fs::metadata(path).ok().filter(|m| m.uid() != 0)?;
            Some(Account { name: meta.uid().to_string(), uid: meta.uid(), gid: meta.gid() })
        };
        match (self.kind, &settings.account) {
            (TargetKind::Production, Some(name)) => Account::named(name).map(Some),
            (TargetKind::Production, None) => {
                let found = of(&self.dir).or_else(|| self.dir.parent().and_then(of));
                found.map_or_else(|| Account::named("postgres"), Ok).map(Some)
            }
            (TargetKind::Directory, _) => Ok(of(&self.dir)),
        }
    }

    /// Bytes free for an unprivileged writer on the file system that the target is or will be on.
    pub fn free_bytes(&self) -> Option<u64> {
        let existing = self.dir.ancestors().find(|p| p.is_dir())?;
        let stat = rustix::fs::statvfs(existing).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Process id of a live server on `dir`. A pid that now belongs to another program does not count.
pub fn running_on(dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(dir.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    start_mark(pid)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_server = name.is_empty() || name.starts_with("postgres") || name.starts_with("postmaster");
    is_server.then_some(pid)
}

/// Any process of a server that works in `dir`, also one whose postmaster was killed.
pub fn working_in(dir: &Path) -> Option<u32> {
    let dir = std::fs::canonicalize(dir).ok()?;
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let here = std::fs::read_link(entry.path().join("cwd")).ok()? == dir;
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        (here && name.starts_with("postgres")).then_some(pid)
    })
}

/// Does anything accept connections where the configured server would be?
pub fn answers(connector: &Connector) -> bool {
    let Ok(address) = connector.address(&Place::Production) else {
        return false;
    };
    if address.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", address.host, address.port);
        return std::os::unix::net::UnixStream::connect(path).is_ok();
    }
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    found.is_ok_and(|mut all| all.any(|a| std::net::TcpStream::connect_timeout(&a, ANSWER_WAIT).is_ok()))
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    match (device(dir), dir.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}

/// Absent, or an empty directory.
pub fn is_vacant(dir: &Path) -> Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e).or_io("look into target", dir),
    }
}

/// Removes a directory and all below it; fine when it is not there.
pub fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.or_io("remove directory", dir),
    }
}
