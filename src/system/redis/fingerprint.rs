//! Fingerprint of a snapshot: per database the count of its keys and an order-free hash over key, type, value and expiry.
//!
//! Keys that have expired at a cutoff do not count: a server may still carry them, a restored one need not. The first
//! cutoff is the snapshot's own time; a second one allows comparing with a copy that is looked at later. lifeboat's own
//! keys never count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::rdb::{Header, Kind, Record, Visitor};
use crate::domain::backup::{Digest, Fingerprint};
use crate::error::Result;

pub const ALGORITHM: &str = "redis-value-xxh3-sum-1";
pub const UNIT: &str = "keys";
pub const FUNCTIONS: &str = "functions";
pub const CANARY_KEY: &[u8] = b"lifeboat:canary";
/// Stands in a server while a restore into it is under way; its value is the run.
pub const MARKER_KEY: &[u8] = b"lifeboat:restoring";

pub fn is_own_key(db: u64, key: &[u8]) -> bool {
    db == 0 && (key == CANARY_KEY || key == MARKER_KEY)
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    hash: u128,
}

impl Sum {
    fn add(&mut self, hash: u128) {
        self.count += 1;
        self.hash = self.hash.wrapping_add(hash);
    }

    fn digest(self) -> Digest {
        Digest { count: self.count, hash: format!("{:032x}", self.hash) }
    }
}

/// Counts of one database that explain its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Live keys with an expiry.
    pub expiring: u64,
    /// Keys by type.
    pub types: BTreeMap<Kind, u64>,
    /// Keys that had expired when the snapshot was taken; not in the digest.
    pub expired: u64,
    /// Collections without elements, which a server would drop; not in the digest.
    pub empty: u64,
}

#[derive(Debug, Default)]
struct Database {
    now: Sum,
    later: Sum,
    counts: Counts,
    types: [u64; Kind::ALL.len()],
}

/// What a tally found out besides the digests. Kept in the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub cutoff_ms: i64,
    /// The first instant after the cutoff at which something expires.
    pub next_expiry_ms: Option<i64>,
    pub databases: BTreeMap<String, Counts>,
}

#[derive(Debug, Default)]
pub struct Tally {
    cutoff_ms: i64,
    later_ms: Option<i64>,
    next_expiry_ms: Option<i64>,
    databases: BTreeMap<u64, Database>,
    functions: Sum,
    scratch: Vec<u8>,
    header: Header,
}

/// Everything that has expired when the snapshot was taken: its time is known to the second, so up to the end of it.
pub fn cutoff_of(header: &Header) -> i64 {
    header.created_s.unwrap_or(0).saturating_add(1).saturating_mul(1000)
}

impl Tally {
    pub fn new() -> Self {
        Self::default()
    }

    /// Also keeps digests of what is left at `later_ms`.
    pub fn and_at(later_ms: i64) -> Self {
        Self { later_ms: Some(later_ms), ..Self::default() }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn cutoff_ms(&self) -> i64 {
        self.cutoff_ms
    }

    pub fn add(&mut self, record: &Record<'_>) {
        if is_own_key(record.db, record.key) {
            return;
        }
        let (cutoff, later) = (self.cutoff_ms, self.later_ms);
        let now = self.hash_at(record, cutoff);
        let then = later.and_then(|later| self.hash_at(record, later));
        let database = self.databases.entry(record.db).or_default();
        let Some(hash) = now else {
            if record.expires_at_ms.is_some_and(|at| at <= cutoff) || !record.value.timed.is_empty() {
                database.counts.expired += 1;
            } else {
                database.counts.empty += 1;
            }
            return;
        };
        database.now.add(hash);
        database.types[record.value.kind as usize] += 1;
        if record.expires_at_ms.is_some() {
            database.counts.expiring += 1;
        }
        if let Some(hash) = then {
            database.later.add(hash);
        }
        let expiries = record.value.timed.iter().map(|(at, _)| *at);
        for at in expiries.chain(record.expires_at_ms).filter(|at| *at > cutoff) {
            self.next_expiry_ms = Some(self.next_expiry_ms.map_or(at, |next| next.min(at)));
        }
    }

    fn hash_at(&mut self, record: &Record<'_>, cutoff: i64) -> Option<u128> {
        if record.expires_at_ms.is_some_and(|at| at <= cutoff) {
            return None;
        }
        let value = record.value.at(cutoff)?;
        self.scratch.clear();
        self.scratch.push(record.value.kind as u8);
        self.scratch.extend((record.key.len() as u64).to_le_bytes());
        self.scratch.extend_from_slice(record.key);
        self.scratch.extend(value.to_le_bytes());
        if let Some(at) = record.expires_at_ms {
            self.scratch.extend(at.to_le_bytes());
        }
        Some(xxh3_128(&self.scratch))
    }

    pub fn add_function(&mut self, code: &[u8]) {
        self.functions.add(xxh3_128(code));
    }

    pub fn keys(&self) -> u64 {
        self.databases.values().map(|d| d.now.count).sum()
    }

    /// At the snapshot's own time.
    pub fn fingerprint(&self) -> Fingerprint {
        self.make(|database| database.now)
    }

    /// At the later cutoff.
    pub fn later_fingerprint(&self) -> Fingerprint {
        self.make(|database| database.later)
    }

    fn make(&self, pick: impl Fn(&Database) -> Sum) -> Fingerprint {
        let databases = self.databases.iter().map(|(n, d)| (format!("db{n}"), pick(d)));
        let functions = std::iter::once((FUNCTIONS.to_owned(), self.functions));
        Fingerprint {
            algorithm: ALGORITHM.to_owned(),
            unit: UNIT.to_owned(),
            items: databases
                .chain(functions)
                .filter(|(_, sum)| sum.count > 0)
                .map(|(name, sum)| (name, sum.digest()))
                .collect(),
        }
    }

    pub fn profile(&self) -> Profile {
        let counts = |d: &Database| Counts {
            types: Kind::ALL
                .into_iter()
                .map(|kind| (kind, d.types[kind as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            ..d.counts.clone()
        };
        Profile {
            cutoff_ms: self.cutoff_ms,
            next_expiry_ms: self.next_expiry_ms,
            databases: self.databases.iter().map(|(n, d)| (format!("db{n}"), counts(d))).collect(),
        }
    }
}

impl Visitor for Tally {
    fn begin(&mut self, header: &Header) -> Result<()> {
        self.header = header.clone();
        self.cutoff_ms = cutoff_of(header);
        Ok(())
    }

    fn key(&mut self, record: Record<'_>) -> Result<()> {
        self.add(&record);
        Ok(())
    }

    fn function(&mut self, code: &[u8]) -> Result<()> {
        self.add_function(code);
        Ok(())
    }
}
