//! Taking a backup: which way the snapshot travels, the stream into the sink and the parser at once, and what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Endpoint;
use super::feed::Parsing;
use super::fingerprint::{Profile, Tally};
use super::rdb::{Checksum, Header, Summary, Visitor};
use super::server::{self, Info};
use super::snapshot::{Snapshot, Transfer};
use super::{DUMP, RedisSystem, artifact, created_at, surroundings, watermark_of};
use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Captured, Position};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::runtime::JobContext;
use crate::system::{ArtifactWriter, BackupSink};

const METHOD: &str = "rdb";
/// A snapshot of somebody else that takes longer than this is not waited for.
const CHILD_WAIT_MAX: Duration = Duration::from_secs(60);
const CHILD_POLL: Duration = Duration::from_millis(50);
/// What going through a file on the server's disk costs: bytes of data per second of extra time (measured: 181 MB of
/// data took 0.6 s longer).
const DISK_DETOUR_BYTES_PER_S: u64 = 300_000_000;
/// The time in a snapshot is in whole seconds, cut off.
const CREATED_GRAIN_MS: i64 = 1000;

/// The engine's notes in the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detail {
    pub header: Header,
    pub checksum: Checksum,
    pub transfer: String,
    pub profile: Profile,
}

pub async fn plan(system: &RedisSystem, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
    let mut connection = system.settings.endpoint().connect(job).await?;
    let info = Info::read(&mut connection, job).await?;
    if info.major().is_some_and(|major| major < 6) {
        return Err(Error::new(ErrorKind::Unsupported, "back up this server")
            .with("version", info.version())
            .hint("Redis 6 and newer and Valkey are supported"));
    }
    let mut notes = Vec::new();
    if request.kind != BackupKind::Full {
        notes.push(format!("redis has no {} backup: a full one is taken", request.kind));
    }
    if info.is("cluster_enabled", "1") {
        notes.push("cluster mode: this captures one node".to_owned());
    }
    let dump = artifact(DUMP)?;
    let before = request.chain.last().and_then(|m| m.artifact(&dump));
    Ok(BackupPlan {
        id: request.id.clone(),
        kind: BackupKind::Full,
        parent: None,
        leases: Vec::new(),
        bytes_estimate: before.map(|a| a.raw_bytes).or_else(|| info.number("used_memory_dataset")),
        notes,
        detail: serde_json::Value::Null,
    })
}

pub async fn run(
    system: &RedisSystem,
    plan: &BackupPlan,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<Captured> {
    let endpoint = system.settings.endpoint();
    let mut connection = endpoint.connect(job).await?;
    let info = Info::read(&mut connection, job).await?;
    let started_ms = server::clock_ms(&mut connection, job).await?;
    let mut notes = plan.notes.clone();
    job.progress().set_phase("configuration");
    notes.extend(surroundings::capture(&mut connection, sink, job).await?);
    let order = transfers(&mut connection, &info, job).await?;
    drop(connection);
    let mut writer = sink.artifact(&artifact(DUMP)?).await?;
    let taken = take(&endpoint, &order, Some(&mut writer), Tally::new(), job).await?;
    writer.finish().await?;
    let (tally, summary) = (&taken.visitor, &taken.summary);
    let captured_at = check_time(&summary.header, started_ms)?;
    let keys = tally.keys();
    job.progress().add_items(keys);
    notes.extend(remarks(tally, summary));
    Ok(Captured {
        method: METHOD.to_owned(),
        server_version: info.version(),
        position: Position { start: None, end: taken.position.clone() },
        captured_at,
        watermark: watermark_of(&summary.header),
        fingerprint: tally.fingerprint(),
        detail: serde_json::to_value(Detail {
            header: summary.header.clone(),
            checksum: summary.checksum,
            transfer: taken.transfer.name().to_owned(),
            profile: tally.profile(),
        })
        .map_err(|e| Error::bug("write detail").because(e))?,
        notes,
    })
}

/// A snapshot that was taken and read to its end.
#[derive(Debug)]
pub struct Taken<V> {
    pub visitor: V,
    pub summary: Summary,
    pub position: String,
    pub transfer: Transfer,
}

/// Reads a fresh snapshot into `visitor` and, where there is one, into `writer`. The first way in `order` that the
/// server can go is taken.
pub async fn take<V: Visitor + Send + 'static>(
    endpoint: &Endpoint,
    order: &[Transfer],
    mut writer: Option<&mut Box<dyn ArtifactWriter>>,
    visitor: V,
    job: &JobContext,
) -> Result<Taken<V>> {
    job.progress().set_phase("snapshot");
    let (mut snapshot, transfer) = begin(endpoint, order, job).await?;
    if let Some(bytes) = snapshot.bytes {
        job.progress().set_total(bytes);
    }
    let mut parsing = Parsing::start(visitor, job);
    while let Some(chunk) = snapshot.next(job).await? {
        if let Some(writer) = &mut writer {
            job.run("store the snapshot", writer.write(chunk.clone())).await?;
        }
        parsing.push(chunk, job).await?;
    }
    let (visitor, summary) = parsing.finish(job).await?;
    Ok(Taken { visitor, summary, position: snapshot.position, transfer })
}

async fn begin(endpoint: &Endpoint, order: &[Transfer], job: &JobContext) -> Result<(Snapshot, Transfer)> {
    let mut refused = None;
    for transfer in order {
        match Snapshot::begin(endpoint, *transfer, job).await {
            Ok(snapshot) => return Ok((snapshot, *transfer)),
            // a server that cannot write to its disk can still send straight away, and the other way round
            Err(error) if error.kind() == ErrorKind::Failed => {
                tracing::debug!(%error, transfer = transfer.name(), "snapshot refused");
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::bug("take a snapshot in no way at all")))
}

/// Which way is faster here: straight from memory, but perhaps after a delay, or through the server's disk at once.
pub async fn transfers(
    connection: &mut super::connection::Connection,
    info: &Info,
    job: &JobContext,
) -> Result<[Transfer; 2]> {
    const DISKLESS_FIRST: [Transfer; 2] = [Transfer::Diskless, Transfer::Disk];
    wait_for_idle_child(connection, job).await?;
    let Some(config) = server::parameters(connection, "repl-diskless-sync*", job).await? else {
        return Ok(DISKLESS_FIRST);
    };
    let number = |name: &str| config.get(name).and_then(|v| v.parse::<u64>().ok());
    let delay_s = match number("repl-diskless-sync-max-replicas") {
        // the server starts as soon as one replica waits
        Some(1) => 0,
        _ => number("repl-diskless-sync-delay").unwrap_or(0),
    };
    let detour_s = info.number("used_memory").unwrap_or(0) / DISK_DETOUR_BYTES_PER_S;
    Ok(if delay_s <= detour_s { DISKLESS_FIRST } else { [Transfer::Disk, Transfer::Diskless] })
}

/// A replica that asks while another snapshot is being written waits for the whole diskless delay, whichever way it asked
/// for: so lets the other one end first, within a bound.
async fn wait_for_idle_child(connection: &mut super::connection::Connection, job: &JobContext) -> Result<()> {
    let mut waited = Duration::ZERO;
    while waited < CHILD_WAIT_MAX && Info::read(connection, job).await?.is("rdb_bgsave_in_progress", "1") {
        job.progress().set_phase("waiting for another snapshot");
        job.sleep("wait for another snapshot", CHILD_POLL).await?;
        waited += CHILD_POLL;
    }
    Ok(())
}

/// The instant of the snapshot; one from before the job began is not what was asked for.
fn check_time(header: &Header, started_ms: i64) -> Result<crate::domain::Timestamp> {
    let at = created_at(header).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "tell when the snapshot was taken").why("it carries no time")
    })?;
    if at.timestamp_millis() + CREATED_GRAIN_MS <= started_ms {
        return Err(Error::new(ErrorKind::Corrupt, "accept a stale snapshot")
            .with("taken", at)
            .with("asked_ms", started_ms)
            .retry_as(Retry::Later)
            .hint("another replica's snapshot was under way: take the backup again"));
    }
    Ok(at)
}

fn remarks(tally: &Tally, summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    let profile = tally.profile();
    let expired: u64 = profile.databases.values().map(|d| d.expired).sum();
    if expired > 0 {
        notes.push(format!("{expired} keys had expired but were still there; they do not count"));
    }
    if summary.checksum == Checksum::Disabled {
        notes.push(
            "the server writes no checksum (rdbchecksum no): only the structure was checked".to_owned(),
        );
    }
    if !summary.modules.is_empty() {
        let names = summary.modules.join(", ");
        notes.push(format!("modules keep data beside the keys, a restore needs them: {names}"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(created_s: Option<i64>) -> Header {
        Header { created_s, ..Header::default() }
    }

    #[test]
    fn a_snapshot_from_before_the_job_is_refused_as_stale() {
        let error = check_time(&header(Some(1_000)), 1_001_000).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Corrupt, Retry::Later));
        assert!(check_time(&header(Some(1_000)), 1_000_999).is_ok());
        assert_eq!(check_time(&header(None), 0).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
