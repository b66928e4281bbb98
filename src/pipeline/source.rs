//! Where an engine reads a chain of backups from: segments are fetched, checked and decoded ahead, in parallel, and come
//! out in order. No byte leaves here before the checksum of its whole segment held.
//!
//! Memory: one segment for every open artifact, and one more segment for every core for all of them together; each counts twice
//! while it is decoded (stored and raw).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::block::{Block, BlockPool};
use super::keys::Identities;
use super::segment::{Decoder, check_stored};
use crate::domain::id::{ArtifactName, BackupId};
use crate::domain::manifest::{Manifest, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::workers::Task;
use crate::storage::Storage;
use crate::system::{BackupSource, ByteStream};

/// Segments of one artifact that are fetched or decoded at once, the one that is being read included.
fn ahead_of_one(job: &JobContext) -> usize {
    job.workers().cores() + 1
}

/// Reads the backups of a chain; each may be in a storage of its own.
pub struct SegmentSource {
    backups: BTreeMap<BackupId, Stored>,
    decoder: Arc<Decoder>,
    pool: Arc<BlockPool>,
    /// For segments beyond the first of every open artifact.
    ahead: Arc<Semaphore>,
}

#[derive(Clone)]
struct Stored {
    manifest: Arc<Manifest>,
    storage: Arc<dyn Storage>,
}

impl fmt::Debug for SegmentSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentSource")
            .field("backups", &self.backups.keys())
            .field("decoder", &self.decoder)
            .finish_non_exhaustive()
    }
}

impl SegmentSource {
    /// `chain`: manifests that were opened (so they are authentic) and the storage that holds each one's segments.
    pub fn new(
        chain: impl IntoIterator<Item = (Manifest, Arc<dyn Storage>)>,
        identities: Arc<Identities>,
        job: &JobContext,
    ) -> Self {
        let pool = Arc::new(BlockPool::default());
        let stored = |(manifest, storage): (Manifest, Arc<dyn Storage>)| {
            let manifest = Arc::new(manifest);
            (manifest.id.clone(), Stored { manifest, storage })
        };
        Self {
            backups: chain.into_iter().map(stored).collect(),
            decoder: Arc::new(Decoder::new(identities, pool.clone())),
            pool,
            ahead: Arc::new(Semaphore::new(ahead_of_one(job) - 1)),
        }
    }

    /// Most bytes of decoded segments ever held at once.
    pub fn held_bytes_max(&self) -> usize {
        self.pool.live_max() * super::block::BLOCK_BYTES
    }
}

#[async_trait]
impl BackupSource for SegmentSource {
    async fn open(&self, backup: &BackupId, artifact: &ArtifactName, job: &JobContext) -> Result<ByteStream> {
        let missing = |what: &'static str| {
            Error::new(ErrorKind::NotFound, what).with("backup", backup).with("artifact", artifact)
        };
        let stored = self.backups.get(backup).ok_or_else(|| missing("find backup in chain"))?;
        let found = stored.manifest.artifact(artifact);
        let found = found.ok_or_else(|| missing("find artifact in backup"))?;
        let reading = Reading {
            stored: stored.clone(),
            artifact: artifact.clone(),
            segments: found.segments.clone(),
            next: 0,
            coming: VecDeque::new(),
            blocks: Vec::new().into_iter(),
            decoder: self.decoder.clone(),
            ahead: self.ahead.clone(),
            job: job.clone(),
        };
        Ok(stream::try_unfold(reading, |mut reading| async move {
            let next = reading.next().await?;
            Ok(next.map(|bytes| (bytes, reading)))
        })
        .boxed())
    }
}

/// One artifact being read.
struct Reading {
    stored: Stored,
    artifact: ArtifactName,
    segments: Vec<Segment>,
    /// Index of the first segment that was not asked for yet.
    next: usize,
    coming: VecDeque<Coming>,
    /// What is left of the segment that is being handed out.
    blocks: std::vec::IntoIter<Block>,
    decoder: Arc<Decoder>,
    ahead: Arc<Semaphore>,
    job: JobContext,
}

struct Coming {
    task: Task<Vec<Block>>,
    /// Held until the segment's turn comes; the segment whose turn it is needs none.
    ahead: Option<OwnedSemaphorePermit>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(block) = self.blocks.next() {
                return Ok(Some(block.into_bytes()));
            }
            self.ask_ahead();
            let Some(Coming { task, ahead }) = self.coming.pop_front() else {
                return Ok(None);
            };
            self.blocks = self.job.run("read segment", task.join()).await?.into_iter();
            drop(ahead);
            self.job.progress().beat();
            // its place is free: the workers go on while the engine applies this segment
            self.ask_ahead();
        }
    }

    /// Starts what may be started. Never waits, so that streams opened side by side cannot wait for each other.
    fn ask_ahead(&mut self) {
        while self.next < self.segments.len() && self.coming.len() < ahead_of_one(&self.job) {
            let permit = if self.coming.is_empty() && self.blocks.len() == 0 {
                None
            } else {
                match self.ahead.clone().try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => return,
                }
            };
            let (stored, decoder, job) = (self.stored.clone(), self.decoder.clone(), self.job.clone());
            let (artifact, index) = (self.artifact.clone(), self.next);
            self.next += 1;
            let task = self.job.workers().spawn("read segment", async move {
                let Some(found) = stored.manifest.artifact(&artifact) else {
                    return Err(Error::bug("find artifact again").with("artifact", artifact));
                };
                let segment = found.segments[index].clone();
                let key = stored.manifest.segment_key(&artifact, index + 1);
                let bytes = fetch(&*stored.storage, &key, &job).await?;
                let decode = move || decoder.decode(&stored.manifest.segment_encoding, &segment, &bytes);
                let decoded = job.workers().compute("decode segment", decode).await;
                decoded.map_err(|e| e.during(format!("use segment {key}")))
            });
            self.coming.push_back(Coming { task, ahead: permit });
        }
    }
}

/// The stored bytes of a segment that a manifest names: that it is missing means damage.
pub(super) async fn fetch(storage: &dyn Storage, key: &str, job: &JobContext) -> Result<Bytes> {
    let read = job.run("read segment", storage.get(key, job)).await;
    read.map_err(|error| {
        if error.kind() != ErrorKind::NotFound {
            return error.during(format!("read segment {key}"));
        }
        Error::new(ErrorKind::Corrupt, "find segment")
            .with("key", key)
            .with("storage", storage.location())
            .because(error)
            .hint("the manifest names it, so this copy is damaged: restore from another destination's copy or from another backup")
    })
}

/// Fetches a segment and compares it with the manifest; gives its bytes. Needs no key.
pub(super) async fn fetch_checked(
    storage: &dyn Storage,
    key: &str,
    segment: &Segment,
    job: &JobContext,
) -> Result<Bytes> {
    let bytes = fetch(storage, key, job).await?;
    let (segment, stored) = (segment.clone(), bytes.clone());
    let check = job.workers().compute("check segment", move || check_stored(&segment, &stored));
    job.run("check segment", check).await.map_err(|e| e.during(format!("use segment {key}")))?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
