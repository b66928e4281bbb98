//! Small but complete values that the suite stores.

use super::refused;
use crate::catalog::{Catalog, NewRun};
use crate::domain::Timestamp;
use crate::domain::backup::{BackupKind, Captured, Digest, Fingerprint, Lease, LeaseScope, Position};
use crate::domain::id::{ArtifactName, BackupId, DestinationName, InvalidName, RunId, StepId, SystemName};
use crate::domain::manifest::{Artifact, FORMAT_VERSION, Manifest, Segment, SegmentEncoding};
use crate::domain::run::{Owner, RunEvent, RunKind};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn named<T>(name: Result<T, InvalidName>) -> Result<T> {
    name.map_err(|e| Error::bug("name an example").because(e))
}

pub(in crate::catalog) fn instant(second: u32) -> Result<Timestamp> {
    chrono::DateTime::from_timestamp(1_790_000_000 + i64::from(second), 123_456_789)
        .ok_or_else(|| Error::bug("make an example instant"))
}

pub(in crate::catalog) fn destination(name: &str) -> Result<DestinationName> {
    named(DestinationName::parse(name))
}

pub(super) fn system(name: &str) -> Result<SystemName> {
    named(SystemName::parse(name))
}

/// A small but complete manifest; a higher `n` started later.
pub(in crate::catalog) fn manifest(of: &str, n: u32) -> Result<Manifest> {
    let at = instant(n)?;
    let id = BackupId::new(at, n);
    let digest = Digest { count: 3, hash: "c0ffee".to_owned() };
    Ok(Manifest {
        format: FORMAT_VERSION,
        id: id.clone(),
        system: system(of)?,
        engine: "example".to_owned(),
        tier: None,
        kind: BackupKind::Full,
        parent: None,
        root: id,
        started_at: at,
        finished_at: at,
        lifeboat_version: "0".to_owned(),
        host: "here".to_owned(),
        captured: Captured {
            method: "tar".to_owned(),
            server_version: "1".to_owned(),
            position: Position { start: None, end: "0/1".to_owned() },
            captured_at: at,
            watermark: None,
            fingerprint: Fingerprint {
                algorithm: "none".to_owned(),
                unit: "rows".to_owned(),
                items: [("größe \"t\"".to_owned(), digest)].into(),
            },
            detail: serde_json::json!({"n": n}),
            notes: Vec::new(),
        },
        segment_encoding: SegmentEncoding { segment_bytes: 1, zstd_level: 3, recipients: Vec::new() },
        artifacts: vec![Artifact {
            name: named(ArtifactName::parse("base.tar"))?,
            raw_bytes: u64::from(n),
            segments: vec![Segment { raw_bytes: u64::from(n), stored_bytes: 1, sha256: "00".to_owned() }],
        }],
    })
}

/// Opens a run that started at second `n`.
pub(super) async fn opened(catalog: &dyn Catalog, n: u32) -> Result<RunId> {
    let run = NewRun {
        id: RunId::new(instant(n)?, n),
        kind: RunKind::Recover,
        system: None,
        subject: Some("full-disaster".to_owned()),
        started_at: instant(n)?,
        owner: owner(n),
        detail: serde_json::json!({"plan": [1, 2]}),
    };
    catalog.open_run(&run).await?;
    refused(catalog.open_run(&run).await, ErrorKind::Conflict, "a second run of one id")?;
    Ok(run.id)
}

pub(super) fn owner(pid: u32) -> Owner {
    Owner { pid, started: format!("{pid}@boot"), host: "here".to_owned() }
}

pub(super) fn intent() -> Result<RunEvent> {
    let step = named(StepId::parse("pg.restore"))?;
    Ok(RunEvent::Intent { step, attempt: 1 })
}

pub(super) fn lease(name: &str, scope: LeaseScope) -> Result<Lease> {
    Ok(Lease { system: system("orders")?, kind: "replication_slot".to_owned(), name: name.to_owned(), scope })
}
