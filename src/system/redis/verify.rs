//! Verification: a fresh snapshot of the copy, digested the same way, against the fingerprint of the backup.
//!
//! The keys themselves are never read, so idle times and expiry stay untouched. Keys that have expired since the capture
//! are told apart from lost ones by digesting the backup once more at the later instant.

use std::collections::BTreeSet;

use super::backup::{self, Detail};
use super::connection::Endpoint;
use super::feed;
use super::fingerprint::{ALGORITHM, FUNCTIONS, Tally, UNIT};
use super::rdb::{Checksum, Summary};
use super::server::Info;
use super::{DUMP, RedisSystem, artifact, dump_in};
use crate::domain::backup::{Digest, Fingerprint};
use crate::domain::evidence::EvidenceLevel::{E2, E3, E4};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

pub async fn verify(
    system: &RedisSystem,
    chain: &[Manifest],
    place: &Place,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Verification> {
    let manifest = point(chain)?;
    let mut found = Verification::new(UNIT);
    job.progress().set_phase("verify");
    let looked = match (place, system.endpoint(place)) {
        (_, Some(endpoint)) => look_at_server(&endpoint, &mut found, job).await,
        (Place::Directory { path }, None) => feed::parse_file(&dump_in(path), Tally::new(), job).await,
        (Place::Production | Place::Server(_), None) => return Err(Error::bug("reach a server")),
    };
    let (copy, summary) = match looked {
        Ok(read) => read,
        Err(error) => {
            found.push(what_failed(error)?);
            return Ok(found);
        }
    };
    found.push(Check::passed("snapshot read to its end", E2, format!("{} bytes", summary.bytes)));
    found.push(integrity(&summary));
    compare(manifest, &copy, source, &mut found, job).await?;
    Ok(found)
}

async fn look_at_server(
    endpoint: &Endpoint,
    found: &mut Verification,
    job: &JobContext,
) -> Result<(Tally, Summary)> {
    let mut connection = endpoint.connect(job).await?;
    let info = Info::read(&mut connection, job).await?;
    let order = backup::transfers(&mut connection, &info, job).await?;
    found.push(Check::passed("server answers", E2, info.version()));
    drop(connection);
    let taken = backup::take(endpoint, &order, None, Tally::new(), job).await?;
    Ok((taken.visitor, taken.summary))
}

/// A copy that cannot be read is a finding; anything else stays an error.
fn what_failed(error: Error) -> Result<Check> {
    match error.kind() {
        ErrorKind::Unreachable | ErrorKind::NotFound => {
            Ok(Check::failed("copy can be read", E2, "a snapshot", error.to_string()))
        }
        ErrorKind::Corrupt => Ok(Check::failed("structure and checksum", E3, "sound", error.to_string())),
        ErrorKind::Config
        | ErrorKind::Denied
        | ErrorKind::Conflict
        | ErrorKind::Busy
        | ErrorKind::Exhausted
        | ErrorKind::Unsupported
        | ErrorKind::Failed
        | ErrorKind::Unproven
        | ErrorKind::Cancelled
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Bug => Err(error),
    }
}

fn integrity(summary: &Summary) -> Check {
    let text = match summary.checksum {
        Checksum::Held => "every value decoded, checksum held",
        Checksum::Disabled => "every value decoded, the server writes no checksum",
    };
    Check::passed("structure and checksum", E3, text)
}

async fn compare(
    manifest: &Manifest,
    copy: &Tally,
    source: &dyn BackupSource,
    found: &mut Verification,
    job: &JobContext,
) -> Result<()> {
    let captured = &manifest.captured.fingerprint;
    if captured.algorithm != ALGORITHM {
        let why =
            format!("the backup was hashed as {}, this lifeboat hashes as {ALGORITHM}", captured.algorithm);
        found.push(Check::inconclusive("content", E4, why));
        return Ok(());
    }
    let detail: Detail = serde_json::from_value(manifest.captured.detail.clone()).map_err(|e| {
        Error::new(ErrorKind::Corrupt, "read the notes of the backup").with("backup", &manifest.id).because(e)
    })?;
    let expired_since = detail.profile.next_expiry_ms.is_some_and(|at| at <= copy.cutoff_ms());
    let expected = if expired_since {
        expected_at(manifest, copy.cutoff_ms(), source, found, job).await?
    } else {
        captured.clone()
    };
    let seen = copy.fingerprint();
    if expected.items.is_empty() && seen.items.is_empty() {
        let why = if captured.items.is_empty() {
            "the backup holds nothing, and neither does the copy"
        } else {
            "everything in the backup has expired meanwhile"
        };
        found.push(Check::inconclusive("content", E4, why));
        return Ok(());
    }
    compare_items(&expected, &seen, found);
    let profile = copy.profile();
    let counts = profile.databases.iter().map(|(name, c)| format!("{name} {}", c.expiring));
    let expiring = counts.collect::<Vec<_>>().join(", ");
    found.push(Check::passed("keys with an expiry", E3, expiring));
    Ok(())
}

/// What must be left of the backup at `cutoff_ms`, from its own bytes.
async fn expected_at(
    manifest: &Manifest,
    cutoff_ms: i64,
    source: &dyn BackupSource,
    found: &mut Verification,
    job: &JobContext,
) -> Result<Fingerprint> {
    let stream = source.open(&manifest.id, &artifact(DUMP)?, job).await?;
    let (tally, _) = feed::parse_stream(stream, Tally::and_at(cutoff_ms), job).await?;
    let captured = &manifest.captured.fingerprint;
    if tally.fingerprint().items != captured.items {
        found.push(Check::failed(
            "backup is what was captured",
            E3,
            captured.total().to_string(),
            tally.fingerprint().total().to_string(),
        ));
    }
    let left = tally.later_fingerprint();
    let gone = captured.total().saturating_sub(left.total());
    found.push(Check::passed("expired since the capture", E3, format!("{gone} keys, not lost")));
    Ok(left)
}

fn compare_items(expected: &Fingerprint, seen: &Fingerprint, found: &mut Verification) {
    let names: BTreeSet<&String> = expected.items.keys().chain(seen.items.keys()).collect();
    for name in names {
        let (before, after) = (expected.items.get(name), seen.items.get(name));
        if name != FUNCTIONS {
            found.compared += after.map_or(0, |d| d.count);
        }
        found.push(Check::equal(name.as_str(), E4, text(name, before), text(name, after)));
    }
}

fn text(name: &str, digest: Option<&Digest>) -> String {
    let unit = if name == FUNCTIONS { "libraries" } else { UNIT };
    match digest {
        Some(d) => format!("{} {unit}, {}", d.count, d.hash),
        None => format!("no {unit}"),
    }
}
