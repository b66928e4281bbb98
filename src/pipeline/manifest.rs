//! Signing, opening and committing manifests.
//!
//! A manifest is believed only when a trusted key signed exactly these bytes and when it names the place it was read
//! from. Committing it, create-only and last, is what makes a backup exist.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::Deserialize;

use super::signing::{SigningKey, TrustedSigners, holds};
use super::{put_once, segment};
use crate::domain::backup::BackupKind;
use crate::domain::manifest::{Artifact, FORMAT_VERSION, MANIFEST_FILE, Manifest, SignedManifest};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::storage::{OBJECT_BYTES_MAX, Storage};

/// About 150 bytes for every segment: room for some 800,000 of them.
pub const MANIFEST_BYTES_MAX: u64 = 128 * 1024 * 1024;

const OTHER_COPY: &str = "restore from another destination's copy or from another backup";

/// The bytes of `manifest.json`.
pub fn sign(manifest: &Manifest, key: &SigningKey) -> Result<Vec<u8>> {
    check(manifest).map_err(|why| Error::bug("sign manifest").with("backup", &manifest.id).why(why))?;
    let unwritten = |e| Error::bug("write manifest as JSON").because(e);
    let text = serde_json::to_string(manifest).map_err(unwritten)?;
    let signed =
        SignedManifest { signature: key.sign(text.as_bytes()), signer: key.public_key(), manifest: text };
    let bytes = serde_json::to_vec_pretty(&signed).map_err(unwritten)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::new(ErrorKind::Exhausted, "sign manifest")
            .with("backup", &manifest.id)
            .with("bytes", bytes.len())
            .why("it is larger than a manifest may be")
            .hint("raise segment_bytes, so that the backup has fewer segments"));
    }
    Ok(bytes)
}

/// Reads what was stored at `key`, and believes it only if it is authentic and belongs there.
///
/// `Denied`: signed by a key that is not trusted. `Corrupt`: altered, moved, or nonsense. `Unsupported`: newer format.
pub fn open(bytes: &[u8], trusted: &TrustedSigners, key: &str) -> Result<Manifest> {
    let refused = |why: String| corrupt(key).why(why);
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(refused(format!("it is larger than {MANIFEST_BYTES_MAX} bytes")));
    }
    let signed: SignedManifest = serde_json::from_slice(bytes).map_err(|e| corrupt(key).because(e))?;
    if !trusted.trusts(&signed.signer) {
        return Err(Error::new(ErrorKind::Denied, "trust manifest")
            .with("key", key)
            .with("signer", &signed.signer)
            .why("it was signed by a key that is not among the trusted signers")
            .hint(
                "if that key is yours, add it to the signers file; if not, somebody else wrote this backup",
            ));
    }
    if !holds(&signed.signer, signed.manifest.as_bytes(), &signed.signature) {
        return Err(refused("it was altered after it was signed".to_owned()));
    }
    let manifest = parse(&signed.manifest, key)?;
    if manifest.key() != key {
        return Err(refused(format!("it was moved here and belongs at {}", manifest.key())));
    }
    check(&manifest).map_err(refused)?;
    Ok(manifest)
}

fn corrupt(key: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "accept manifest").with("key", key).hint(OTHER_COPY)
}

/// Only the version is read first: a newer format may have any other key.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn parse(text: &str, key: &str) -> Result<Manifest> {
    let version: Version = serde_json::from_str(text).map_err(|e| corrupt(key).because(e))?;
    if version.format != FORMAT_VERSION {
        return Err(Error::new(ErrorKind::Unsupported, "read manifest")
            .with("key", key)
            .with("format", version.format)
            .with("known", FORMAT_VERSION)
            .hint("use the version of lifeboat that wrote it, or a newer one"));
    }
    serde_json::from_str(text).map_err(|e| corrupt(key).because(e))
}

/// What must hold inside a manifest; the reason when it does not.
fn check(manifest: &Manifest) -> std::result::Result<(), String> {
    let encoding = &manifest.segment_encoding;
    if !(segment::SEGMENT_BYTES_MIN..=segment::SEGMENT_BYTES_MAX).contains(&encoding.segment_bytes) {
        return Err(format!("segments of {} bytes are not allowed", encoding.segment_bytes));
    }
    let full = manifest.kind == BackupKind::Full;
    if full != manifest.parent.is_none() || full != (manifest.root == manifest.id) {
        return Err("kind, parent and root contradict each other".to_owned());
    }
    let mut names = BTreeSet::new();
    for artifact in &manifest.artifacts {
        if names.last().is_some_and(|last| *last >= &artifact.name) {
            return Err("artifacts are not sorted by name, or one is there twice".to_owned());
        }
        names.insert(&artifact.name);
        check_artifact(artifact, encoding.segment_bytes)?;
    }
    Ok(())
}

fn check_artifact(artifact: &Artifact, segment_bytes: u64) -> std::result::Result<(), String> {
    let name = &artifact.name;
    let mut raw_bytes = 0u64;
    for (n, segment) in artifact.segments.iter().enumerate() {
        let number = n + 1;
        if !(1..=segment_bytes).contains(&segment.raw_bytes) {
            return Err(format!("segment {number} of {name} has {} raw bytes", segment.raw_bytes));
        }
        if !(1..=OBJECT_BYTES_MAX).contains(&segment.stored_bytes) {
            return Err(format!("segment {number} of {name} has {} stored bytes", segment.stored_bytes));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if segment.sha256.len() != 64 || !segment.sha256.bytes().all(hex) {
            return Err(format!("segment {number} of {name} has no SHA-256"));
        }
        raw_bytes = raw_bytes.saturating_add(segment.raw_bytes);
    }
    if raw_bytes != artifact.raw_bytes {
        return Err(format!(
            "the segments of {name} add up to {raw_bytes} bytes, not to {}",
            artifact.raw_bytes
        ));
    }
    Ok(())
}

/// Signs and stores the manifest: from now on the backup exists. Every segment must be durable before.
///
/// Unknown after `Cancelled`, `DeadlineExceeded` or `Unreachable`: whether the backup exists; committing again is safe.
pub async fn commit(
    storage: &dyn Storage,
    manifest: &Manifest,
    key: &SigningKey,
    job: &JobContext,
) -> Result<()> {
    // Ed25519 signs the same bytes the same way, so a second commit of the same manifest meets an equal object
    let bytes = Bytes::from(sign(manifest, key)?);
    put_once(storage, &manifest.key(), vec![bytes], job)
        .await
        .map_err(|e| e.during(format!("commit backup {}", manifest.id)))
}

/// Copies a committed manifest to another storage byte for byte, signature included; last, after its segments.
pub async fn commit_copy(
    storage: &dyn Storage,
    manifest: &Manifest,
    signed: Bytes,
    job: &JobContext,
) -> Result<()> {
    put_once(storage, &manifest.key(), vec![signed], job)
        .await
        .map_err(|e| e.during(format!("commit copy of backup {}", manifest.id)))
}

/// Reads and opens the manifest at `key`. `NotFound` when there is none.
pub async fn load(
    storage: &dyn Storage,
    trusted: &TrustedSigners,
    key: &str,
    job: &JobContext,
) -> Result<Manifest> {
    let bytes = load_signed(storage, key, job).await?;
    open(&bytes, trusted, key)
}

/// The bytes at `key`, not opened yet, of a size that a manifest may have.
pub async fn load_signed(storage: &dyn Storage, key: &str, job: &JobContext) -> Result<Bytes> {
    let missing = || {
        Error::new(ErrorKind::NotFound, "find manifest")
            .with("key", key)
            .with("storage", storage.location())
            .hint("without a manifest there is no backup; `lifeboat list` shows those that exist")
    };
    let meta = job.run("look for manifest", storage.stat(key, job)).await?;
    let meta = meta.ok_or_else(missing)?;
    if meta.bytes > MANIFEST_BYTES_MAX {
        return Err(corrupt(key).why(format!("it has {} bytes", meta.bytes)));
    }
    job.run("read manifest", storage.get(key, job)).await
}

/// Is `key` where a manifest would be?
pub fn is_manifest_key(key: &str) -> bool {
    key.rsplit('/').next() == Some(MANIFEST_FILE)
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
