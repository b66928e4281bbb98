//! The heartbeat record written into every protected system, so that RPO is read from restored data.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// How many records a system keeps; older ones are removed by the write.
pub const CANARIES_KEPT: usize = 512;

/// One heartbeat. `mac` is the signer and its Ed25519 signature over system, seq and utc, so that a record
/// cannot be made up and a clean host with the public key can check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRecord {
    pub seq: u64,
    pub utc: Timestamp,
    pub mac: String,
}

/// What the canaries of a restored copy say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReading {
    /// Newest record that carries a valid mac.
    pub newest: Option<CanaryRecord>,
    /// Sequence numbers missing between the oldest and the newest record.
    pub holes: u64,
    /// Records whose mac does not hold.
    pub forged: u64,
}

impl CanaryReading {
    /// `records` in any order; `valid` checks a mac.
    pub fn read(mut records: Vec<CanaryRecord>, valid: impl Fn(&CanaryRecord) -> bool) -> Self {
        let before = records.len();
        records.retain(|r| valid(r));
        let forged = (before - records.len()) as u64;
        records.sort_by_key(|r| r.seq);
        records.dedup_by_key(|r| r.seq);
        let holes = match (records.first(), records.last()) {
            (Some(first), Some(last)) => (last.seq - first.seq + 1).saturating_sub(records.len() as u64),
            _ => 0,
        };
        Self { newest: records.pop(), holes, forged }
    }
}
