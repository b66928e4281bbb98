//! The fingerprint of a tree: for every directory at the top, and for what is directly in the root, count and order-free
//! hash. Entries that are not clean, and the heartbeat file, are no part of it.

use std::collections::BTreeMap;

use super::canary::CANARY_FILE;
use super::entry::{Entry, EntryState};
use crate::archive::show;
use crate::domain::backup::{Digest, Fingerprint};

/// Names the record that is hashed and how hashes are added up.
pub(super) const ALGORITHM: &str = "sha256-sum64x4/files-1";
pub(super) const UNIT: &str = "files";
/// A tree with more directories at the top puts the rest together.
const ITEMS_MAX: usize = 256;
const REST: &str = "(others)";

#[derive(Clone, Debug, Default)]
pub(super) struct FingerprintBuilder {
    items: BTreeMap<String, Sum>,
    /// Item of the entry before: entries of one directory come together.
    last: Option<(Vec<u8>, String)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    lanes: [u64; 4],
}

/// Whether an entry takes part in comparisons.
pub(super) fn counts(entry: &Entry) -> bool {
    entry.state == EntryState::Clean && entry.path.0 != CANARY_FILE
}

impl FingerprintBuilder {
    /// In the order of a walk.
    pub fn add(&mut self, entry: &Entry) {
        if !counts(entry) {
            return;
        }
        let item = self.item(&entry.path.0);
        let sum = self.items.entry(item).or_default();
        sum.count += 1;
        for (lane, bytes) in sum.lanes.iter_mut().zip(entry.digest().chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            *lane = lane.wrapping_add(u64::from_le_bytes(word));
        }
    }

    fn item(&mut self, path: &[u8]) -> String {
        let Some(slash) = path.iter().position(|b| *b == b'/') else {
            return ".".to_owned();
        };
        let top = &path[..slash];
        if let Some((last, item)) = &self.last
            && last == top
        {
            return item.clone();
        }
        let mut item = show(top);
        if self.items.len() >= ITEMS_MAX && !self.items.contains_key(&item) {
            REST.clone_into(&mut item);
        }
        self.last = Some((top.to_vec(), item.clone()));
        item
    }

    pub fn finish(self) -> Fingerprint {
        let digest = |sum: Sum| Digest {
            count: sum.count,
            hash: sum.lanes.iter().map(|lane| hex::encode(lane.to_le_bytes())).collect(),
        };
        Fingerprint {
            algorithm: ALGORITHM.to_owned(),
            unit: UNIT.to_owned(),
            items: self.items.into_iter().map(|(k, s)| (k, digest(s))).collect(),
        }
    }
}
