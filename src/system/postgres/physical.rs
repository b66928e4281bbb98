//! Physical backups: a base backup, then the WAL since, each ending at an exact WAL position.
//!
//! The position of a backup is `start..end`: a restore replays every record that begins before `end`. WAL is stored in
//! whole segments, so neighbours overlap in one. Nothing moves the slot before a backup is committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::client::{Client, Connector};
use super::lsn::{Lsn, Segmentation};
use super::notes;
use super::replication::{Identity, Replication};
use super::settings::{Settings, WalKeeping};
use super::{slot, wal};
use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Lease};
use crate::domain::id::SystemName;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::usable_chain;

/// Oldest supported server: recovery is configured differently before.
pub const VERSION_MIN: u32 = 120_000;
pub const FILES_ALGORITHM: &str = "sha256-of-backup-manifest/1";
/// Key of the one item of a fingerprint over files.
pub const FILES_ITEM: &str = "base";

#[derive(Clone, Copy, Debug)]
pub struct Physical<'a> {
    pub settings: &'a Settings,
    pub connector: &'a Connector,
    pub system: &'a SystemName,
}

/// `Captured::detail` of a physical backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    pub system_identifier: String,
    pub timeline: u32,
    pub segment_bytes: u64,
    /// 15 for 15.18.
    pub major: u32,
    /// WAL in this backup begins with the segment of this position.
    pub wal_start: String,
    /// And ends here; behind it are zeros.
    pub wal_end: String,
    pub slot: Option<String>,
    /// OID to location on the server, those of the base backup.
    pub tablespaces: BTreeMap<String, String>,
}

impl Detail {
    pub fn of(manifest: &Manifest) -> Result<Self> {
        serde_json::from_value(manifest.captured.detail.clone()).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "read detail of physical backup")
                .with("backup", &manifest.id)
                .because(e)
        })
    }

    pub fn shape(&self) -> Segmentation {
        Segmentation { timeline: self.timeline, segment_bytes: self.segment_bytes }
    }
}

/// The server as seen through both kinds of connection.
#[derive(Debug)]
pub struct Server {
    pub control: Client,
    pub identity: Identity,
    pub shape: Segmentation,
}

impl Physical<'_> {
    pub async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        let server = self.look(job).await?;
        let mut notes = Vec::new();
        let mut parent = None;
        if let Some(candidate) = usable_chain(request.kind, &request.chain).last() {
            match self.obstacle(&server, candidate, job).await? {
                None => parent = Some(candidate.clone()),
                Some(why) => notes.push(format!("a full backup instead of an incremental: {why}")),
            }
        } else if request.kind != BackupKind::Full {
            notes.push("a full backup instead of an incremental: there is none to build on".to_owned());
        }
        let (kind, leases, bytes_estimate) = match &parent {
            // the slot was leased by the full and stays leased: a failed incremental must not end the chain
            Some(parent) => {
                let since: Lsn = parent.captured.position.end.parse()?;
                (request.kind, Vec::new(), Some(server.identity.flushed.0.saturating_sub(since.0)))
            }
            None => (BackupKind::Full, self.leases(), notes::database_bytes(&server.control, job).await),
        };
        Ok(BackupPlan {
            id: request.id.clone(),
            kind,
            parent,
            leases,
            bytes_estimate,
            notes,
            detail: serde_json::Value::Null,
        })
    }

    pub fn leases(&self) -> Vec<Lease> {
        match self.settings.wal {
            WalKeeping::Slot => vec![slot::lease(self.system)],
            WalKeeping::Keep => Vec::new(),
        }
    }

    pub async fn look(&self, job: &JobContext) -> Result<Server> {
        let control = self.connector.connect(&Place::Production, &self.settings.database, job).await?;
        if control.version() < VERSION_MIN {
            return Err(Error::new(ErrorKind::Unsupported, "back up this server physically")
                .with("version", control.version_text())
                .hint("physical backups need PostgreSQL 12 or newer; set method = \"logical\""));
        }
        let op = "read server state";
        let row = control
            .row(
                job,
                op,
                "SELECT pg_is_in_recovery(), setting::int8, current_setting('wal_level') \
                 FROM pg_settings WHERE name = 'wal_segment_size'",
                &[],
            )
            .await?;
        if row.get(0) {
            return Err(Error::new(ErrorKind::Unsupported, "back up a standby physically")
                .hint("point host and port at the primary: a recovery point is marked in its WAL"));
        }
        if row.get::<_, &str>(2) == "minimal" {
            return Err(Error::new(ErrorKind::Unsupported, "back up a server with wal_level = minimal")
                .hint("set wal_level = replica and restart the server"));
        }
        let segment_bytes = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        let identity = Replication::open(self.connector, job).await?.identify(job).await?;
        let shape = Segmentation { timeline: identity.timeline, segment_bytes: segment_bytes.max(1 << 20) };
        Ok(Server { control, identity, shape })
    }

    /// Why no backup can build on `parent`; `None` when one can.
    async fn obstacle(&self, server: &Server, parent: &Manifest, job: &JobContext) -> Result<Option<String>> {
        if parent.captured.method != "physical" {
            return Ok(Some("the newest backup is a logical one".to_owned()));
        }
        let detail = Detail::of(parent)?;
        if detail.system_identifier != server.identity.system_identifier {
            return Ok(Some("the server is another one than before (system identifier)".to_owned()));
        }
        if detail.timeline != server.identity.timeline {
            return Ok(Some(format!(
                "the server went from timeline {} to {}: it was promoted or restored",
                detail.timeline, server.identity.timeline
            )));
        }
        if detail.tablespaces != tablespaces(&server.control, job).await? {
            return Ok(Some("tablespaces were created or dropped".to_owned()));
        }
        let end: Lsn = parent.captured.position.end.parse()?;
        if server.identity.flushed < end {
            return Ok(Some("the server is behind the newest backup".to_owned()));
        }
        match wal::is_available(self.connector, end, server.shape, job).await {
            Ok(()) => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Ok(Some("the server has removed WAL since the newest backup".to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    /// Moves the slot up to the end of a committed backup.
    pub async fn committed(&self, manifest: &Manifest, job: &JobContext) -> Result<()> {
        let Some(slot) = Detail::of(manifest)?.slot else {
            return Ok(());
        };
        let to: Lsn = manifest.captured.position.end.parse()?;
        let control = self.connector.connect(&Place::Production, &self.settings.database, job).await?;
        slot::advance(&control, &slot, to, job).await
    }

    /// Drops the slot. `Unreachable` when the server is down: then it is still there.
    pub async fn release(&self, lease: &Lease, job: &JobContext) -> Result<()> {
        if lease.kind != slot::LEASE_KIND {
            return Err(Error::bug("release a lease of unknown kind").with("kind", &lease.kind));
        }
        let control = self.connector.connect(&Place::Production, &self.settings.database, job).await?;
        slot::drop_slot(&control, &lease.name, job).await
    }
}

/// OID to location of every tablespace but the built-in ones.
pub async fn tablespaces(control: &Client, job: &JobContext) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid NOT IN (1663, 1664)";
    let rows = control.rows(job, "list tablespaces", sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| (row.get::<_, u32>(0).to_string(), row.get::<_, String>(1)))
        // directories right inside the data directory are part of the base
        .filter(|(_, location)| location.starts_with('/'))
        .collect())
}
