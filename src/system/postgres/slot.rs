//! The replication slot that keeps WAL on the server between backups. It is moved only after a backup is committed.

use super::client::Client;
use super::lsn::Lsn;
use crate::domain::backup::{Lease, LeaseScope};
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

pub const LEASE_KIND: &str = "replication_slot";
/// Of the server: NAMEDATALEN - 1.
const SLOT_NAME_CHARS_MAX: usize = 63;

/// `lifeboat_<system>`; long names are cut and told apart by a hash.
pub fn name(system: &SystemName) -> String {
    let full = format!("lifeboat_{}", system.as_str().replace('-', "_"));
    // my-db and my_db must not share a slot
    if full.len() <= SLOT_NAME_CHARS_MAX && !(system.as_str().contains('-') && system.as_str().contains('_'))
    {
        return full;
    }
    let hash = xxhash_rust::xxh3::xxh3_64(system.as_str().as_bytes()) & 0xFFFF_FFFF;
    let kept: String = full.chars().take(SLOT_NAME_CHARS_MAX - 9).collect();
    format!("{kept}_{hash:08x}")
}

pub fn lease(system: &SystemName) -> Lease {
    Lease {
        system: system.clone(),
        kind: LEASE_KIND.to_owned(),
        name: name(system),
        scope: LeaseScope::Chain,
    }
}

/// What the server says about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The oldest WAL it keeps; `None` when it keeps none.
    pub keeps_from: Option<Lsn>,
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved`, `lost`; empty before version 13.
    pub wal_status: String,
    pub kept_bytes: u64,
}

impl Slot {
    pub fn is_lost(&self) -> bool {
        self.wal_status == "lost" || self.keeps_from.is_none()
    }
}

pub async fn find(client: &Client, name: &str, job: &JobContext) -> Result<Option<Slot>> {
    let status = if client.major() >= 13 { "COALESCE(wal_status, 'lost')" } else { "''" };
    let sql = format!(
        "SELECT restart_lsn::text, active_pid, {status}, CASE WHEN pg_is_in_recovery() THEN 0 \
         ELSE COALESCE(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::int8 END \
         FROM pg_replication_slots WHERE slot_name = $1"
    );
    let rows = client.rows(job, "read replication slot", &sql, &[&name]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let keeps_from: Option<String> = row.get(0);
    Ok(Some(Slot {
        keeps_from: keeps_from.map(|l| l.parse()).transpose()?,
        active_pid: row.get(1),
        wal_status: row.get(2),
        kept_bytes: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
    }))
}

/// Makes sure that the slot is there and keeps WAL from now on, or from earlier.
pub async fn ensure(client: &Client, name: &str, job: &JobContext) -> Result<()> {
    match find(client, name, job).await? {
        Some(slot) if slot.is_lost() => drop_slot(client, name, job).await?,
        Some(_) => return Ok(()),
        None => {}
    }
    let sql = "SELECT pg_create_physical_replication_slot($1, true)";
    client.rows(job, "create replication slot", sql, &[&name]).await.map_err(|e| {
        e.hint("a free slot is needed: raise max_replication_slots, drop unused slots, or set wal = \"keep\"")
    })?;
    Ok(())
}

/// Lets the server remove WAL older than `to`. A slot that is gone is fine: the next plan finds that out.
pub async fn advance(client: &Client, name: &str, to: Lsn, job: &JobContext) -> Result<()> {
    let Some(slot) = find(client, name, job).await? else {
        return Ok(());
    };
    if slot.is_lost() || slot.keeps_from.is_some_and(|from| from >= to) {
        return Ok(());
    }
    let sql = format!("SELECT pg_replication_slot_advance($1, '{to}'::pg_lsn)");
    client.rows(job, "advance replication slot", &sql, &[&name]).await.map(drop)
}

/// Removes the slot; fine when it is gone. A stream of ours that still holds it is ended, anybody else's is not.
pub async fn drop_slot(client: &Client, name: &str, job: &JobContext) -> Result<()> {
    let Some(slot) = find(client, name, job).await? else {
        return Ok(());
    };
    if let Some(pid) = slot.active_pid {
        let sql = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE pid = $1 AND application_name = 'lifeboat') ended";
        let ended: i64 = client.row(job, "end stream on slot", sql, &[&pid]).await?.get(0);
        if ended == 0 {
            return Err(Error::new(ErrorKind::Busy, "drop replication slot")
                .with("slot", name)
                .with("pid", pid)
                .why("another program streams from it"));
        }
    }
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    client.rows(job, "drop replication slot", sql, &[&name]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_different_systems_have_different_valid_names() {
        let names =
            ["orders", "my-db", "my_db", "a-b_c", "a_b-c"].map(|n| name(&SystemName::parse(n).unwrap()));
        assert_eq!(names[0], "lifeboat_orders");
        assert_eq!(names[1], "lifeboat_my_db");
        assert_ne!(names[3], names[4]);
        let long = name(&SystemName::parse("x".repeat(63)).unwrap());
        assert!(long.len() <= SLOT_NAME_CHARS_MAX, "{long}");
    }
}
