//! Looking at a server: does it answer, may we read from it, and what would make a backup incomplete.

use std::time::Duration;

use super::RedisSystem;
use super::connection::Connection;
use super::server::Info;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::runtime::JobContext;
use crate::system::{Health, HealthState};

const PROBE_MAX: Duration = Duration::from_secs(15);

pub async fn probe(system: &RedisSystem, job: &JobContext) -> Result<Health> {
    let within = job.child(PROBE_MAX);
    match look(system, &within).await {
        Ok(health) => Ok(health),
        Err(error) => {
            job.check("probe redis")?;
            health_of(error)
        }
    }
}

/// Only what cannot be a state of the server stays an error.
fn health_of(error: Error) -> Result<Health> {
    let state = match error.kind() {
        ErrorKind::Unreachable | ErrorKind::DeadlineExceeded => HealthState::Down,
        ErrorKind::Denied | ErrorKind::Failed | ErrorKind::Corrupt => HealthState::Degraded,
        ErrorKind::Config
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Busy
        | ErrorKind::Exhausted
        | ErrorKind::Unsupported
        | ErrorKind::Unproven
        | ErrorKind::Cancelled
        | ErrorKind::Bug => return Err(error),
    };
    Ok(Health {
        state,
        version: None,
        summary: error.to_string(),
        findings: error.advice().map(str::to_owned).into_iter().collect(),
    })
}

async fn look(system: &RedisSystem, job: &JobContext) -> Result<Health> {
    let mut connection = system.settings.endpoint().connect(job).await?;
    let info = Info::read(&mut connection, job).await?;
    let mut blocking = blocking_findings(&info);
    blocking.extend(missing_rights(system, &mut connection, job).await?);
    let state = if blocking.is_empty() { HealthState::Healthy } else { HealthState::Degraded };
    let keys: u64 = info.keys().values().sum();
    let role = info.get("role").unwrap_or("of unknown role");
    let summary = match blocking.first() {
        Some(first) => first.clone(),
        None => format!("{role}, {keys} keys in {} databases", info.keys().len()),
    };
    blocking.extend(other_findings(&info));
    Ok(Health { state, version: Some(info.version()), summary, findings: blocking })
}

/// What keeps a backup from being taken.
fn blocking_findings(info: &Info) -> Vec<String> {
    let mut findings = Vec::new();
    if info.is("loading", "1") {
        findings.push("the server is loading its data".to_owned());
    }
    if info.is("role", "slave") && !info.is("master_link_status", "up") {
        findings.push("this replica has lost its master and cannot give a snapshot".to_owned());
    }
    if info.major().is_some_and(|major| major < 6) {
        findings.push(format!("{} is too old: Redis 6 and newer are supported", info.version()));
    }
    findings
}

fn other_findings(info: &Info) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |holds: bool, text: &str| {
        if holds {
            findings.push(text.to_owned());
        }
    };
    find(
        info.is("cluster_enabled", "1"),
        "cluster mode: this captures one node; configure every master as a system",
    );
    find(
        info.is("aof_enabled", "1"),
        "appendonly yes: a restored dump.rdb is ignored at start unless appendonly is switched off first",
    );
    find(
        info.is("rdb_last_bgsave_status", "err"),
        "the server's last own snapshot failed: look into its log",
    );
    find(info.is("role", "slave"), "this is a replica: it may lag behind its master");
    findings
}

async fn missing_rights(
    system: &RedisSystem,
    connection: &mut Connection,
    job: &JobContext,
) -> Result<Vec<String>> {
    let user = system.settings.user.as_deref().unwrap_or("default");
    let mut missing = Vec::new();
    if let Err(error) = connection.ask(&["REPLCONF", "capa", "psync2"], job).await {
        if error.kind() == ErrorKind::Denied {
            missing.push("replconf");
        } else if error.retry() == Retry::Later {
            return Err(error);
        }
    }
    // a dry run needs a right of its own and Redis 7: without them the answer is unknown, which is no finding
    let dry = connection.ask(&["ACL", "DRYRUN", user, "PSYNC", "?", "-1"], job).await;
    if dry.is_ok_and(|reply| reply.to_text() != "OK") {
        missing.push("psync");
    }
    let line = |right: &&str| format!("user {user} lacks the right to {right}: ACL SETUSER {user} +{right}");
    Ok(missing.iter().map(line).collect())
}
