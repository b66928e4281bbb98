//! Planning a restore: as a file where no server runs, key by key where one does; and refusing what would do harm.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::backup::Detail;
use super::connection::{Connection, Endpoint};
use super::fingerprint::{CANARY_KEY, MARKER_KEY, is_own_key};
use super::resp::Reply;
use super::server::{self, Info};
use super::{DUMP, KIND, RedisSystem, artifact, dump_in, rdb, restore_file, restore_keys};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestorePlan, RestoreRequest, Restored};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

const SCAN_COUNT: &str = "1000";
/// What a server with an append-only file keeps beside, or instead of, the dump.
const APPEND_ONLY: [&str; 2] = ["appendonlydir", "appendonly.aof"];

/// How the data gets into the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "way")]
pub enum Way {
    File { path: PathBuf },
    Keys,
}

pub async fn plan(system: &RedisSystem, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
    let manifest = point(&request.chain)?.clone();
    if manifest.engine != KIND {
        return Err(Error::new(ErrorKind::Conflict, "restore a backup of another kind")
            .with("backup", &manifest.id)
            .with("kind", &manifest.engine));
    }
    let bytes = manifest.artifact(&artifact(DUMP)?).map(|a| a.raw_bytes).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "find the dump in the backup").with("backup", &manifest.id)
    })?;
    let mut plan = RestorePlan {
        actions: Vec::new(),
        bytes,
        free_bytes: None,
        missing: Vec::new(),
        unknown: Vec::new(),
        detail: serde_json::Value::Null,
        request,
    };
    let way = match (&plan.request.place.clone(), system.endpoint(&plan.request.place)) {
        (Place::Directory { path }, _) => plan_file(&mut plan, &manifest, &dump_in(path), job).await?,
        (Place::Server(_), Some(endpoint)) => plan_keys(&mut plan, &manifest, &endpoint, job).await?,
        (Place::Production, Some(endpoint)) => {
            plan_production(system, &mut plan, &manifest, &endpoint, job).await?
        }
        (Place::Server(_) | Place::Production, None) => return Err(Error::bug("reach a server")),
    };
    plan.detail = serde_json::to_value(way).map_err(|e| Error::bug("write plan").because(e))?;
    Ok(plan)
}

async fn plan_production(
    system: &RedisSystem,
    plan: &mut RestorePlan,
    manifest: &Manifest,
    endpoint: &Endpoint,
    job: &JobContext,
) -> Result<Way> {
    match plan_keys(plan, manifest, endpoint, job).await {
        Err(error) if error.kind() == ErrorKind::Unreachable => {}
        Err(error) if error.kind() == ErrorKind::Denied => {
            plan.missing.push(error.to_string());
            return Ok(Way::Keys);
        }
        other => return other,
    }
    match &system.settings.data_dir {
        Some(directory) => {
            let path = directory.join(&system.settings.dbfilename);
            let way = plan_file(plan, manifest, &path, job).await?;
            plan.actions.push("start the server afterwards: it loads the file".to_owned());
            Ok(way)
        }
        None => {
            plan.missing.push(format!(
                "no server answers at {}: start it for a restore key by key, or set data_dir for a restore as a file",
                endpoint.address()
            ));
            Ok(Way::Keys)
        }
    }
}

async fn plan_file(
    plan: &mut RestorePlan,
    manifest: &Manifest,
    path: &Path,
    job: &JobContext,
) -> Result<Way> {
    let expected = expected_header(manifest);
    let (target, bytes) = (path.to_owned(), plan.bytes);
    let look = move || look_at_directory(&target, bytes, expected.as_ref());
    let found = job.run("look at target", job.workers().block("look at target", look)).await?;
    if found.dump == Dump::Other {
        match plan.request.existing {
            Existing::Refuse => {
                return Err(Error::new(ErrorKind::Conflict, "restore over an existing dump")
                    .with("path", path.display())
                    .hint("allow replacing what is there, or choose an empty directory"));
            }
            Existing::Replace => plan.actions.push(format!(
                "keep {} as {}",
                path.display(),
                restore_file::old_name(path, &plan.request.run).display()
            )),
        }
    }
    if let Some(name) = found.append_only {
        plan.missing.push(format!(
            "{name} stands beside the dump: with appendonly yes the server would ignore the dump. Move it away, start with \
             appendonly no, then switch it on with CONFIG SET appendonly yes"
        ));
    }
    plan.free_bytes = found.free_bytes;
    match found.free_bytes {
        Some(free) if free < plan.bytes => plan.missing.push(format!(
            "{} bytes are free and {} are needed at {}",
            free,
            plan.bytes,
            path.display()
        )),
        Some(_) => {}
        None => plan.unknown.push(format!("free space at {}", path.display())),
    }
    let what = if plan.request.selection.is_everything() { "the dump" } else { "a dump of the chosen keys" };
    plan.actions.push(format!("write {what} to {}", path.display()));
    Ok(Way::File { path: path.to_owned() })
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    None,
    /// The very snapshot to be restored: a dead attempt got that far.
    Same,
    Other,
}

#[derive(Debug)]
struct Found {
    dump: Dump,
    append_only: Option<&'static str>,
    free_bytes: Option<u64>,
}

fn expected_header(manifest: &Manifest) -> Option<rdb::Header> {
    let detail: Detail = serde_json::from_value(manifest.captured.detail.clone()).ok()?;
    Some(detail.header)
}

fn look_at_directory(path: &Path, bytes: u64, expected: Option<&rdb::Header>) -> Result<Found> {
    let directory = path.parent().ok_or_else(|| Error::bug("find the directory of a dump"))?;
    let dump = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Dump::None,
        Err(e) => return Err(e).or_io("look at target", path),
        Ok(meta) if meta.len() == bytes && header_of(path).as_ref() == expected => Dump::Same,
        Ok(_) => Dump::Other,
    };
    let mut append_only = None;
    for name in APPEND_ONLY {
        if directory.join(name).try_exists().or_io("look at target", directory)? {
            append_only = Some(name);
        }
    }
    let free_bytes = rustix::fs::statvfs(directory).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    Ok(Found { dump, append_only, free_bytes })
}

fn header_of(path: &Path) -> Option<rdb::Header> {
    let begin = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(begin, 4096), &mut bytes).ok()?;
    rdb::read_header(std::iter::once(bytes::Bytes::from(bytes))).ok()
}

async fn plan_keys(
    plan: &mut RestorePlan,
    manifest: &Manifest,
    endpoint: &Endpoint,
    job: &JobContext,
) -> Result<Way> {
    let mut connection = endpoint.connect(job).await?;
    let info = Info::read(&mut connection, job).await?;
    if info.is("role", "slave") {
        plan.missing
            .push("the server is a replica: restore into its master, or REPLICAOF NO ONE first".to_owned());
    }
    if info.is("loading", "1") {
        plan.missing.push("the server is loading its data: wait".to_owned());
    }
    plan.missing.extend(too_few_databases(&mut connection, manifest, job).await?);
    let others = occupied(&mut connection, &info, &plan.request, job).await?;
    match (&others, plan.request.existing) {
        (Occupied::Free | Occupied::Ours, _) => {}
        (Occupied::By(what), Existing::Refuse) => {
            return Err(Error::new(ErrorKind::Conflict, "restore into a server that holds keys")
                .with("server", endpoint.address())
                .why(what.clone())
                .hint("allow replacing what is there, or choose an empty server"));
        }
        (Occupied::By(_), Existing::Replace) if plan.request.selection.is_everything() => {
            plan.actions.push(format!("read the whole backup once, then FLUSHALL at {}", endpoint.address()));
        }
        (Occupied::By(what), Existing::Replace) => {
            plan.actions.push(format!("replace what is there: {what}"));
        }
    }
    plan.actions.push(format!(
        "RESTORE {} into {}",
        match plan.request.selection.patterns.join(" ") {
            all if all.is_empty() => "every key".to_owned(),
            some => format!("the keys that match {some}"),
        },
        endpoint.address()
    ));
    Ok(Way::Keys)
}

async fn too_few_databases(
    connection: &mut Connection,
    manifest: &Manifest,
    job: &JobContext,
) -> Result<Option<String>> {
    let numbers = manifest.captured.fingerprint.items.keys();
    let highest: Option<u64> = numbers.filter_map(|name| name.strip_prefix("db")?.parse().ok()).max();
    let config = server::parameters(connection, "databases", job).await?.unwrap_or_default();
    let databases = config.get("databases").and_then(|n| n.parse::<u64>().ok());
    Ok(match (highest, databases) {
        (Some(highest), Some(databases)) if highest >= databases => Some(format!(
            "the backup uses database {highest} and the server has {databases}: raise `databases` in its configuration"
        )),
        _ => None,
    })
}

/// What stands in the way at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupied {
    Free,
    /// Only what a dead attempt of the same run left.
    Ours,
    /// Other keys, or keys that the selection names.
    By(String),
}

pub async fn occupied(
    connection: &mut Connection,
    info: &Info,
    request: &RestoreRequest,
    job: &JobContext,
) -> Result<Occupied> {
    let marker = connection.call(&[b"GET", MARKER_KEY], job).await?;
    if marker == Reply::Bulk(request.run.as_str().to_owned().into()) {
        return Ok(Occupied::Ours);
    }
    let keys = info.keys();
    if request.selection.is_everything() {
        let mut own = 0;
        for key in [CANARY_KEY, MARKER_KEY] {
            own += u64::from(server::exists(connection, key, job).await?);
        }
        let others = keys.values().sum::<u64>().saturating_sub(own);
        return Ok(match others {
            0 => Occupied::Free,
            n => Occupied::By(format!("it holds {n} keys")),
        });
    }
    for db in keys.keys() {
        server::select(connection, *db, job).await?;
        for pattern in &request.selection.patterns {
            if let Some(key) = first_match(connection, *db, pattern, job).await? {
                return Ok(Occupied::By(format!("key {key} of db{db} is there already")));
            }
        }
    }
    server::select(connection, 0, job).await?;
    Ok(Occupied::Free)
}

async fn first_match(
    connection: &mut Connection,
    db: u64,
    pattern: &str,
    job: &JobContext,
) -> Result<Option<String>> {
    let mut cursor = "0".to_owned();
    loop {
        let command = ["SCAN", &cursor, "MATCH", pattern, "COUNT", SCAN_COUNT];
        let reply = connection.ask(&command, job).await?;
        let [next, keys] = reply.items() else {
            return Err(Error::new(ErrorKind::Failed, "scan keys"));
        };
        for key in keys.items() {
            if let Reply::Bulk(key) = key
                && !is_own_key(db, key)
            {
                return Ok(Some(rdb::shown(key)));
            }
        }
        cursor = next.to_text();
        if cursor == "0" {
            return Ok(None);
        }
        job.progress().beat();
    }
}

pub async fn run(
    system: &RedisSystem,
    plan: &RestorePlan,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Restored> {
    if let Some(first) = plan.missing.first() {
        return Err(Error::new(ErrorKind::Conflict, "restore as planned").why(first.clone()));
    }
    let way: Way =
        serde_json::from_value(plan.detail.clone()).map_err(|e| Error::bug("read plan").because(e))?;
    match (way, system.endpoint(&plan.request.place)) {
        (Way::File { path }, endpoint) => {
            if let Some(endpoint) = endpoint
                && endpoint.connect(job).await.map_or_else(|e| e.kind() != ErrorKind::Unreachable, |_| true)
            {
                return Err(Error::new(ErrorKind::Conflict, "replace the file of a running server")
                    .with("server", endpoint.address())
                    .hint(
                        "stop the server first, or plan again: it can be restored key by key while it runs",
                    ));
            }
            restore_file::run(system, &path, &plan.request, source, job).await
        }
        (Way::Keys, Some(endpoint)) => restore_keys::run(&endpoint, &plan.request, source, job).await,
        (Way::Keys, None) => Err(Error::bug("restore keys into files")),
    }
}
