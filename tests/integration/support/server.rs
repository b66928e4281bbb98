//! Servers of a world's production: scripts that start and stop them, as an operator would have, and their end.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, chown};

use super::until;

pub const REDIS_PASSWORD: &str = "wide-open-sea";
pub const POSTGRES_PASSWORD: &str = "deep-blue-sea";
/// Account that servers run as.
pub const ACCOUNT: &str = "nobody";

/// A server under its own directory, found again through the file it writes its process id into.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    pub dir: PathBuf,
    script: PathBuf,
    pid_file: PathBuf,
}

impl Server {
    pub fn redis(home: &Path) -> Self {
        let (port, dir) = (lifeboat::system::testing::free_port().unwrap(), home.join("redis"));
        own(&dir);
        let here = dir.display();
        let conf = format!(
            "port {port}\nbind 127.0.0.1\ndir {here}\nsave \"\"\nappendonly no\ndaemonize yes\npidfile {here}/pid\n\
             logfile {here}/log\nrequirepass {REDIS_PASSWORD}\nrepl-diskless-sync-delay 0\n"
        );
        give(&dir.join("redis.conf"), &conf, 0o600);
        let ping = format!("REDISCLI_AUTH={REDIS_PASSWORD} redis-cli -p {port}");
        let script = format!(
            "#!/bin/sh\ncd /\ncase \"$1\" in\nstart)\n  {ping} ping >/dev/null 2>&1 && exit 0\n  {} redis-server {here}/redis.conf\n  \
             n=0; until {ping} ping 2>/dev/null | grep -q PONG; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.05; done ;;\n\
             stop) {ping} shutdown nosave >/dev/null 2>&1 || true ;;\nesac\n",
            run_as()
        );
        Self::install(home, "redis", port, dir.clone(), dir.join("pid"), &script)
    }

    pub fn postgres(home: &Path) -> Self {
        let (port, dir) = (lifeboat::system::testing::free_port().unwrap(), home.join("postgres"));
        own(&dir);
        let (bin, data) = (postgres_bin(), dir.join("data"));
        give(&dir.join("password"), POSTGRES_PASSWORD, 0o600);
        let made = Command::new("setpriv")
            .args(["--reuid", ACCOUNT, "--regid", "nogroup", "--clear-groups", "--"])
            .arg(bin.join("initdb"))
            .args([
                "--no-sync",
                "-U",
                "postgres",
                "-A",
                "scram-sha-256",
                "--locale=C.UTF-8",
                "--encoding=UTF8",
            ])
            .arg("--pwfile")
            .arg(dir.join("password"))
            .arg("-D")
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (pg_ctl, here, at, run_as) = (bin.join("pg_ctl"), dir.display(), data.display(), run_as());
        let pg_ctl = pg_ctl.display();
        let script = format!(
            "#!/bin/sh\ncd /\ncase \"$1\" in\n\
             start) {run_as} {pg_ctl} -D {at} status >/dev/null || {run_as} {pg_ctl} -D {at} -s -w -t 60 \
             -o '-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off' -l {here}/log start ;;\n\
             stop) if [ -s {at}/postmaster.pid ]; then {run_as} {pg_ctl} -D {at} -s -m immediate stop || true; fi ;;\nesac\n"
        );
        Self::install(home, "postgres", port, dir, data.join("postmaster.pid"), &script)
    }

    fn install(home: &Path, name: &str, port: u16, dir: PathBuf, pid_file: PathBuf, script: &str) -> Self {
        let path = home.join("bin").join(name);
        give(&path, script, 0o755);
        let server = Self { port, dir, script: path, pid_file };
        server.control("start");
        server
    }

    pub fn control(&self, action: &str) {
        let said = Command::new(&self.script).arg(action).output().unwrap();
        assert!(said.status.success(), "{action}: {}", String::from_utf8_lossy(&said.stderr));
    }

    pub fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.pid_file).ok()?;
        text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
    }

    /// SIGKILL, as a power cut would; gives back once it is gone.
    pub fn kill(&self) {
        if let Some(pid) = self.pid()
            && kill(pid, Signal::SIGKILL).is_ok()
        {
            until("the death of a server", || (!is_alive(pid)).then_some(()));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: PostgreSQL takes its own processes down with it; Redis just ends
        if let Some(pid) = self.pid()
            && kill(pid, Signal::SIGQUIT).is_ok()
        {
            until("the end of a server", || (!is_alive(pid)).then_some(()));
        }
    }
}

/// A zombie that nobody reaps counts as dead.
fn is_alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

fn run_as() -> String {
    format!("setpriv --reuid {ACCOUNT} --regid nogroup --clear-groups --")
}

pub fn postgres_bin() -> PathBuf {
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|d| d.unwrap().path().join("bin")).collect();
    versions.sort();
    versions.pop().unwrap()
}

fn own(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    hand_over(dir);
}

fn give(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    hand_over(path);
}

fn hand_over(path: &Path) {
    assert!(Uid::effective().is_root(), "these tests run servers as {ACCOUNT} and need root for it");
    let user = User::from_name(ACCOUNT).unwrap().unwrap();
    chown(path, Some(user.uid), Some(user.gid)).unwrap();
}
