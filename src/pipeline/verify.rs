//! Reading a stored backup back: sizes and checksums (evidence level E1, no key needed), or decoding everything as well.
//! Findings are data; an error means that the storage could not be asked.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block::BlockPool;
use super::keys::Identities;
use super::manifest::load_signed;
use super::segment::Decoder;
use super::source::fetch_checked;
use crate::domain::evidence::EvidenceLevel::E1;
use crate::domain::manifest::{Manifest, Segment, SignedManifest};
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::storage::Storage;

/// Damaged segments named one by one; the rest is counted.
const NAMED_MAX: usize = 100;

/// How deep to look.
#[derive(Clone, Debug)]
enum Depth {
    Stored,
    Decoded(Arc<Decoder>),
}

/// Reads back the manifest and every segment and compares size and SHA-256.
pub async fn verify_stored(
    manifest: &Manifest,
    storage: &Arc<dyn Storage>,
    job: &JobContext,
) -> Result<Verification> {
    verify(manifest, storage, &Depth::Stored, job).await
}

/// As [`verify_stored`], and decrypts and decompresses every segment, to nothing.
pub async fn verify_decoded(
    manifest: &Manifest,
    storage: &Arc<dyn Storage>,
    identities: Arc<Identities>,
    job: &JobContext,
) -> Result<Verification> {
    let decoder = Decoder::new(identities, Arc::new(BlockPool::default()));
    verify(manifest, storage, &Depth::Decoded(Arc::new(decoder)), job).await
}

/// Every segment with its key, in order.
fn segments(manifest: &Manifest) -> Vec<(String, Segment)> {
    let mut all = Vec::new();
    for artifact in &manifest.artifacts {
        for (n, segment) in artifact.segments.iter().enumerate() {
            all.push((manifest.segment_key(&artifact.name, n + 1), segment.clone()));
        }
    }
    all
}

/// Checks only: no rows, keys or files are compared here, so `compared` stays 0 and without a unit.
async fn verify(
    manifest: &Manifest,
    storage: &Arc<dyn Storage>,
    depth: &Depth,
    job: &JobContext,
) -> Result<Verification> {
    let mut verification = Verification::default();
    verification.push(check_manifest(manifest, &**storage, job).await?);
    let encoding = Arc::new(manifest.segment_encoding.clone());
    let mut pending = segments(manifest).into_iter();
    let mut looking = VecDeque::new();
    let look_at = |(key, segment): (String, Segment)| {
        let (storage, depth, encoding, own) = (storage.clone(), depth.clone(), encoding.clone(), job.clone());
        job.workers().spawn("verify segment", async move {
            let bytes = segment.stored_bytes;
            let seen = look(&*storage, &key, segment, encoding, depth, &own).await;
            own.progress().advance(bytes);
            Ok((key, bytes, seen))
        })
    };
    looking.extend(pending.by_ref().take(job.workers().cores() + 1).map(look_at));
    let (mut whole, mut bytes, mut damaged) = (0u64, 0u64, 0usize);
    while let Some(task) = looking.pop_front() {
        let (key, stored_bytes, seen) = job.run("verify segments", task.join()).await?;
        looking.extend(pending.next().map(look_at));
        match seen {
            Ok(()) => {
                whole += 1;
                bytes += stored_bytes;
            }
            Err(error) if is_damage(&error) => {
                damaged += 1;
                if damaged <= NAMED_MAX {
                    verification.push(Check::failed(
                        format!("segment {key}"),
                        E1,
                        "as in the manifest",
                        error.to_string(),
                    ));
                }
            }
            Err(error) => return Err(error),
        }
    }
    let name = match depth {
        Depth::Stored => "stored segments",
        Depth::Decoded(_) => "decoded segments",
    };
    verification.push(if damaged > 0 {
        let all = whole + damaged as u64;
        Check::failed(name, E1, format!("{all} whole"), format!("{damaged} damaged, {whole} whole"))
    } else {
        Check::passed(name, E1, format!("{whole} segments, {bytes} bytes read back"))
    });
    Ok(verification)
}

fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt)
}

async fn look(
    storage: &dyn Storage,
    key: &str,
    segment: Segment,
    encoding: Arc<crate::domain::manifest::SegmentEncoding>,
    depth: Depth,
    job: &JobContext,
) -> Result<()> {
    let bytes = fetch_checked(storage, key, &segment, job).await?;
    match depth {
        Depth::Stored => Ok(()),
        Depth::Decoded(decoder) => {
            let decode = move || decoder.decode(&encoding, &segment, &bytes).map(drop);
            let decode = job.workers().compute("decode segment", decode);
            let decoded = job.run("decode segment", decode).await;
            decoded.map_err(|e| e.during(format!("use segment {key}")))
        }
    }
}

/// The manifest must still be there and say the same; its signature was checked when it was opened.
async fn check_manifest(manifest: &Manifest, storage: &dyn Storage, job: &JobContext) -> Result<Check> {
    let stored = match load_signed(storage, &manifest.key(), job).await {
        Ok(stored) => stored,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Ok(Check::failed("manifest", E1, "present", error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let same = serde_json::from_slice::<SignedManifest>(&stored)
        .and_then(|signed| serde_json::from_str::<Manifest>(&signed.manifest))
        .is_ok_and(|found| found == *manifest);
    Ok(if same {
        Check::passed("manifest", E1, "present and unchanged")
    } else {
        Check::failed("manifest", E1, "unchanged", "it differs from what was read before")
    })
}

#[cfg(test)]
mod tests {
    use super::super::manifest;
    use super::super::testing::{DirStorage, Fixture};
    use super::*;
    use crate::storage::Overwrite;

    async fn both(fixture: &Fixture, storage: &Arc<DirStorage>, manifest: &Manifest) -> [Verification; 2] {
        let job = JobContext::plain();
        let storage: Arc<dyn Storage> = storage.clone();
        [
            verify_stored(manifest, &storage, &job).await.unwrap(),
            verify_decoded(manifest, &storage, fixture.identities.clone(), &job).await.unwrap(),
        ]
    }

    #[tokio::test]
    async fn verification_turns_red_for_every_kind_of_damage() {
        let (job, fixture) = (JobContext::plain(), Fixture::new());
        let storage = DirStorage::new();
        let backup =
            fixture.backup(&storage, 1, &[("a", &[1; 200_000]), ("b", b""), ("c", b"gamma")], &job).await;
        manifest::commit(&*storage, &backup, &fixture.signing, &job).await.unwrap();
        for verification in both(&fixture, &storage, &backup).await {
            assert_eq!(verification.level(), Some(E1), "{verification:?}");
        }
        let key = backup.segment_key(&backup.artifacts[0].name, 2);
        let whole = storage.get(&key, &job).await.unwrap();
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        for damage in [Some(flipped), Some(whole[..whole.len() - 1].to_vec()), Some(Vec::new()), None] {
            match damage {
                Some(bytes) => storage.put(&key, vec![bytes.into()], Overwrite::Allow, &job).await.unwrap(),
                None => storage.delete(&key, &job).await.unwrap(),
            }
            for verification in both(&fixture, &storage, &backup).await {
                assert!(verification.is_red());
                assert_eq!(verification.level(), None);
                assert!(verification.failures().any(|c| c.name.contains(&key)), "{verification:?}");
            }
        }
        storage.put(&key, vec![whole], Overwrite::Allow, &job).await.unwrap();
        storage.delete(&backup.key(), &job).await.unwrap();
        for verification in both(&fixture, &storage, &backup).await {
            assert!(verification.is_red(), "a backup without its manifest");
        }
    }

    #[tokio::test]
    async fn stored_bytes_are_verified_without_a_key_and_decoded_only_with_it() {
        let (job, fixture) = (JobContext::plain(), Fixture::new());
        let storage = DirStorage::new();
        let backup = fixture.backup(&storage, 1, &[("a", b"alpha")], &job).await;
        manifest::commit(&*storage, &backup, &fixture.signing, &job).await.unwrap();
        let storage: Arc<dyn Storage> = storage;
        assert!(!verify_stored(&backup, &storage, &job).await.unwrap().is_red());
        let other = Fixture::new().identities;
        let error = verify_decoded(&backup, &storage, other, &job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}
