//! How to start a throwaway PostgreSQL server: an empty one, or one on restored files that must not reach anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::Postgres;
use super::programs::{self, Wanted};
use super::restore::{is_recovery_line, write_file};
use super::target::{AUTO_CONF, running_on};
use crate::domain::backup::Captured;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::{SandboxOrder, Sandboxing};

/// A server that has not come to life by then will not.
const START_WAIT_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
const LOG_LINES_SHOWN: usize = 12;

const HBA: &str = "# written by lifeboat: a throwaway server\n\
    local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

/// An empty server is also used as a test double of production, so commits are written through to the kernel: they survive
/// the kill of the server, though not a power cut.
const EMPTY_CONF: &str = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n\
    full_page_writes = off\nwal_level = replica\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
    max_prepared_transactions = 10\nlogging_collector = off\nlog_destination = 'stderr'\nautovacuum_naptime = '10min'\n";

#[async_trait]
impl Sandboxing for Postgres {
    fn programs(&self) -> Result<Vec<PathBuf>> {
        ["postgres", "initdb", "pg_controldata"]
            .into_iter()
            .map(|name| programs::find(&self.settings, name, Wanted::Newest).map(|p| p.path().to_owned()))
            .collect()
    }

    fn order(&self, point: &Captured) -> SandboxOrder {
        if point.method == "logical" {
            SandboxOrder::StartThenRestore
        } else {
            SandboxOrder::RestoreThenStart
        }
    }

    async fn initialise(&self, dir: &Path, account: Option<&Account>, job: &JobContext) -> Result<()> {
        programs::find(&self.settings, "initdb", Wanted::Newest)?
            .arg("-D")
            .arg(dir)
            .args(["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-U"])
            .arg(&self.settings.user)
            .account(account.cloned())
            .dir("/")
            .output(job)
            .await?;
        write_file(&dir.join("postgresql.conf"), EMPTY_CONF.as_bytes())?;
        write_file(&dir.join("pg_hba.conf"), HBA.as_bytes())?;
        if let Some(account) = account {
            account.own_tree(dir)?;
        }
        Ok(())
    }

    async fn neutralise(&self, dir: &Path, port: u16, job: &JobContext) -> Result<Vec<String>> {
        let control = control_values(&self.settings, dir, job).await?;
        let mut done = Vec::new();
        let conf = configuration(port, &control);
        for (name, content) in
            [("postgresql.conf", conf.as_str()), ("pg_hba.conf", HBA), ("pg_ident.conf", "")]
        {
            let path = dir.join(name);
            let aside = dir.join(format!("{name}.original"));
            if path.is_file() && !aside.is_file() {
                std::fs::rename(&path, &aside).or_io("set configuration aside", &path)?;
                done.push(format!("{name} was replaced; the original is {name}.original"));
            }
            write_file(&path, content.as_bytes())?;
        }
        done.push(keep_recovery_settings_only(dir)?);
        for signal in ["standby.signal", "postmaster.pid"] {
            match std::fs::remove_file(dir.join(signal)) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => {
                    other.or_io("remove file", &dir.join(signal))?;
                    done.push(format!("{signal} was removed"));
                }
            }
        }
        done.push(format!("listens on 127.0.0.1:{port} only and trusts whoever connects there"));
        done.push(
            "no WAL archiving, no replication, no subscriptions, no preloaded libraries, no TLS".to_owned(),
        );
        Ok(done)
    }

    fn server(&self, dir: &Path, port: u16) -> Result<Option<Program>> {
        let major = programs::data_major(dir)?;
        let program = programs::find(&self.settings, "postgres", Wanted::Exactly(major))?;
        let program = program
            .arg("-D")
            .arg(dir)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .env("LC_ALL", "C")
            .dir("/");
        Ok(Some(program))
    }

    async fn ready(&self, place: &Place, job: &JobContext) -> Result<()> {
        let Place::Server(server) = place else {
            return Err(Error::bug("wait for a server that is none").with("place", place.describe()));
        };
        let began = tokio::time::Instant::now();
        let mut lived = false;
        loop {
            let error = match self.connector.connect(place, "postgres", job).await {
                Ok(client) => {
                    let op = "ask whether recovery has ended";
                    let recovering = client.text(job, op, "SELECT pg_is_in_recovery()").await?;
                    if recovering.as_deref() == Some("f") {
                        return Ok(());
                    }
                    None
                }
                Err(e) if e.kind() == ErrorKind::Unreachable => Some(e),
                Err(e) => return Err(e),
            };
            let alive = running_on(&server.dir).is_some();
            if !alive && (lived || began.elapsed() > START_WAIT_MAX) {
                return Err(died(&server.dir, error));
            }
            lived |= alive;
            job.progress().beat();
            job.sleep("wait for server", POLL).await?;
        }
    }
}

/// A server that ends recovery before its target stops by itself; its log says why.
fn died(dir: &Path, error: Option<Error>) -> Error {
    let ended =
        Error::new(ErrorKind::Failed, "start PostgreSQL on restored files").with("dir", dir.display());
    let logs = [dir.with_file_name("server.log"), dir.join("server.log"), dir.with_extension("log")];
    let text = logs.iter().find_map(|log| std::fs::read_to_string(log).ok());
    match (text, error) {
        (Some(text), _) => {
            let lines: Vec<&str> = text.lines().collect();
            ended.why(lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join(" | "))
        }
        (None, Some(error)) => ended.because(error).hint("the server's log says why it ended"),
        (None, None) => ended.why("it ended"),
    }
}

/// Lines of the original that a restore did not write would undo what is set here.
fn keep_recovery_settings_only(dir: &Path) -> Result<String> {
    let path = dir.join(AUTO_CONF);
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.or_io("read configuration", &path)?,
    };
    let kept: String = text.lines().filter(|l| is_recovery_line(l)).map(|l| format!("{l}\n")).collect();
    write_file(&path, kept.as_bytes())?;
    Ok(format!("{AUTO_CONF} holds the recovery target and nothing else"))
}

/// Values of the original server that recovery depends on.
const CONTROL: [(&str, &str, u32); 6] = [
    ("max_connections setting", "max_connections", 100),
    ("max_worker_processes setting", "max_worker_processes", 8),
    ("max_wal_senders setting", "max_wal_senders", 10),
    ("max_prepared_xacts setting", "max_prepared_transactions", 0),
    ("max_locks_per_xact setting", "max_locks_per_transaction", 64),
    ("track_commit_timestamp setting", "track_commit_timestamp", 0),
];

async fn control_values(
    settings: &super::settings::Settings,
    dir: &Path,
    job: &JobContext,
) -> Result<Vec<(String, String)>> {
    let major = programs::data_major(dir)?;
    let text = programs::find(settings, "pg_controldata", Wanted::Exactly(major))?
        .arg("-D")
        .arg(dir)
        .env("LC_ALL", "C")
        .output(job)
        .await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let found = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let values = CONTROL.iter().map(|(label, setting, least)| {
        let value = found(label).unwrap_or_else(|| least.to_string());
        let number = value.parse::<u32>().map(|n| n.max(*least).to_string());
        ((*setting).to_owned(), number.unwrap_or(value))
    });
    Ok(values.collect())
}

fn configuration(port: u16, control: &[(String, String)]) -> String {
    use std::fmt::Write;
    let mut conf = format!(
        "# written by lifeboat: a throwaway server on restored files\nlisten_addresses = '127.0.0.1'\nport = {port}\n\
         unix_socket_directories = ''\nhot_standby = off\narchive_mode = off\nprimary_conninfo = ''\n\
         primary_slot_name = ''\nmax_logical_replication_workers = 0\nmax_replication_slots = 10\n\
         shared_preload_libraries = ''\nsession_preload_libraries = ''\nlocal_preload_libraries = ''\nssl = off\n\
         logging_collector = off\nlog_destination = 'stderr'\nautovacuum = off\nfsync = off\nfull_page_writes = off\n\
         shared_buffers = '128MB'\n"
    );
    for (setting, value) in control {
        if writeln!(conf, "{setting} = {value}").is_err() {
            tracing::debug!(setting, "not written");
        }
    }
    conf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_servers_own_overrides_only_the_recovery_target_survives() {
        let dir = tempfile::tempdir().unwrap();
        let auto = dir.path().join(AUTO_CONF);
        let text = "# Do not edit\narchive_command = 'cp %p /prod/%f'\nprimary_conninfo = 'host=prod'\n\
            restore_command = 'false'\nrecovery_target_lsn = '0/1'\n";
        std::fs::write(&auto, text).unwrap();
        keep_recovery_settings_only(dir.path()).unwrap();
        let kept = std::fs::read_to_string(&auto).unwrap();
        assert_eq!(kept, "restore_command = 'false'\nrecovery_target_lsn = '0/1'\n");
    }
}
