//! Looks at production: does it answer, and is it fit to be backed up? Read-only and bounded.

use super::client::{Client, Connector};
use super::physical::VERSION_MIN;
use super::settings::{Method, WalKeeping};
use super::slot;
use crate::domain::id::SystemName;
use crate::domain::place::Place;
use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{Health, HealthState};

/// From this on the WAL that our slot keeps is worth a word.
const SLOT_BYTES_NOTED: u64 = 1 << 30;

pub async fn probe(connector: &Connector, system: &SystemName, job: &JobContext) -> Result<Health> {
    let settings = connector.settings();
    let client = match connector.connect(&Place::Production, &settings.database, job).await {
        Ok(client) => client,
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => {
            let state = if error.kind() == ErrorKind::Unreachable {
                HealthState::Down
            } else {
                HealthState::Degraded
            };
            return Ok(Health {
                state,
                version: None,
                summary: error.to_string(),
                findings: error.advice().map(str::to_owned).into_iter().collect(),
            });
        }
    };
    let mut obstacles = Vec::new();
    let mut findings = Vec::new();
    if settings.method == Method::Physical {
        physical(&client, settings.wal, system, &mut obstacles, &mut findings, job).await?;
    }
    let checksums = client.text(job, "read data_checksums", "SHOW data_checksums").await?;
    if checksums.as_deref() == Some("off") {
        findings.push("data_checksums is off: damage on disk can go unnoticed into backups".to_owned());
    }
    let state = if obstacles.is_empty() { HealthState::Healthy } else { HealthState::Degraded };
    let summary =
        obstacles.first().cloned().unwrap_or_else(|| format!("PostgreSQL {}", client.version_text()));
    obstacles.append(&mut findings);
    Ok(Health { state, version: Some(client.version_text().to_owned()), summary, findings: obstacles })
}

const STATE: &str = "SELECT pg_is_in_recovery(), current_setting('wal_level'), \
    current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication), \
    current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots), \
    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)";

async fn physical(
    client: &Client,
    wal: WalKeeping,
    system: &SystemName,
    obstacles: &mut Vec<String>,
    findings: &mut Vec<String>,
    job: &JobContext,
) -> Result<()> {
    let row = client.row(job, "read server state", STATE, &[]).await?;
    let slot_name = slot::name(system);
    let slot = slot::find(client, &slot_name, job).await?;
    if client.version() < VERSION_MIN {
        obstacles.push("physical backups need PostgreSQL 12 or newer: set method = \"logical\"".to_owned());
    }
    if row.get(0) {
        obstacles.push("this is a standby: point host and port at the primary".to_owned());
    }
    if row.get::<_, &str>(1) == "minimal" {
        obstacles.push("wal_level is minimal: set it to replica and restart the server".to_owned());
    }
    if row.get::<_, i64>(2) < 2 {
        obstacles.push("fewer than 2 connections for replication are free: raise max_wal_senders".to_owned());
    }
    if !row.get::<_, Option<bool>>(4).unwrap_or(false) {
        obstacles.push("the user lacks the REPLICATION attribute: ALTER ROLE ... REPLICATION".to_owned());
    }
    if wal == WalKeeping::Keep {
        return Ok(());
    }
    match slot {
        None if row.get::<_, i64>(3) < 1 => {
            obstacles.push("no replication slot is free: raise max_replication_slots".to_owned());
        }
        Some(slot) if slot.is_lost() => {
            findings.push(format!("slot {slot_name} has lost WAL: the next backup will be a full one"));
        }
        Some(slot) if slot.kept_bytes > SLOT_BYTES_NOTED => findings.push(format!(
            "slot {slot_name} keeps {} MiB of WAL on the server: take backups more often, or drop the slot",
            slot.kept_bytes >> 20
        )),
        None | Some(_) => {}
    }
    Ok(())
}
