//! Turning captured bytes into stored segments and back (`docs/formats.md`, format 1).
//!
//! Owns compression, encryption, checksums, signatures, parallelism and the bound on memory. Engines see a sink and a
//! source, storage sees objects; neither sees the other.

pub mod block;
pub mod inventory;
pub mod keys;
pub mod manifest;
mod seal;
pub mod segment;
pub mod signing;
pub mod sink;
pub mod source;
pub mod verify;
mod writer;

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod testing;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::storage::{Overwrite, Storage};

/// Stores an object that must not exist yet.
///
/// A repeated request whose first answer was lost meets its own object: one with exactly these bytes counts as stored.
async fn put_once(storage: &dyn Storage, key: &str, parts: Vec<Bytes>, job: &JobContext) -> Result<()> {
    match storage.put(key, parts.clone(), Overwrite::Forbid, job).await {
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let found = storage.get(key, job).await?;
            let same = found.len() == parts.iter().map(Bytes::len).sum::<usize>()
                && digest(&[found]) == digest(&parts);
            if same { Ok(()) } else { Err(error) }
        }
        result => result,
    }
}

/// SHA-256, lowercase hex.
fn digest(parts: &[Bytes]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hex::encode(hash.finalize())
}
