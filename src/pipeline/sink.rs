//! Where an engine's bytes go: artifacts are cut into segments, encoded over all cores and stored in parallel.
//!
//! Invariants: nothing here commits (the manifest does); the first failure stops every writer with that error; a writer
//! dropped before its end spoils the backup. Memory is bounded by [`FILLING_MAX`] segments being filled, the segments in
//! flight (cores + [`STORING_MAX`]), and one [`CROWDED_BYTES`] for every further artifact that is open at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::block::{BLOCK_BYTES, Block, BlockPool};
use super::put_once;
use super::segment::Encoder;
use super::writer::SegmentWriter;
use crate::domain::id::{ArtifactName, BackupId, SystemName};
use crate::domain::manifest::{
    Artifact, MANIFEST_FILE, Segment, SegmentEncoding, backup_prefix, segment_key,
};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::workers::Task;
use crate::storage::Storage;
use crate::system::{ArtifactWriter, BackupSink};

/// Segments that may grow to full size at once. Artifacts beyond that are cut at [`CROWDED_BYTES`].
const FILLING_MAX: usize = 2;
/// Segments being stored, besides those being encoded.
const STORING_MAX: usize = 2;
/// Small segments in flight at once, whatever they weigh.
pub(super) const IN_FLIGHT_MAX: usize = 32;
/// One block: what every open artifact may hold without asking.
pub(super) const CROWDED_BYTES: usize = BLOCK_BYTES;
const DELETES_MAX: usize = 8;

/// The sink of one backup.
#[derive(Debug)]
pub struct SegmentSink {
    shared: Arc<Shared>,
}

/// What [`SegmentSink::abort`] could do.
#[derive(Debug, Default)]
pub struct Aborted {
    pub deleted: u64,
    /// Objects that may still be there. They are not part of any backup.
    pub left: Vec<(String, Error)>,
}

pub(super) struct Shared {
    prefix: String,
    suffix: &'static str,
    pub(super) segment_bytes: usize,
    storage: Arc<dyn Storage>,
    encoder: Encoder,
    pub(super) pool: Arc<BlockPool>,
    pub(super) job: JobContext,
    pub(super) filling: Arc<Semaphore>,
    /// In units of [`CROWDED_BYTES`].
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) in_flight_units: usize,
    failed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    artifacts: BTreeMap<ArtifactName, Cut>,
    failure: Option<Arc<Error>>,
    tasks: Vec<Task<()>>,
}

/// One artifact: its segments by number, and its size once its writer has finished.
#[derive(Default)]
struct Cut {
    segments: Vec<Option<Segment>>,
    raw_bytes: Option<u64>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("prefix", &self.prefix)
            .field("encoder", &self.encoder)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl SegmentSink {
    /// `Config` when the encoding is not allowed. Stores nothing yet.
    pub fn new(
        system: &SystemName,
        id: &BackupId,
        storage: Arc<dyn Storage>,
        encoding: &SegmentEncoding,
        job: JobContext,
    ) -> Result<Self> {
        let pool = Arc::new(BlockPool::default());
        let encoder = Encoder::new(encoding, pool.clone())?;
        let segment_bytes =
            usize::try_from(encoding.segment_bytes).map_err(|e| Error::bug("size segments").because(e))?;
        let in_flight_units = (job.workers().cores() + STORING_MAX) * units(segment_bytes);
        Ok(Self {
            shared: Arc::new(Shared {
                prefix: backup_prefix(system, id),
                suffix: encoding.suffix(),
                segment_bytes,
                storage,
                encoder,
                pool,
                job,
                filling: Arc::new(Semaphore::new(FILLING_MAX)),
                in_flight: Arc::new(Semaphore::new(in_flight_units)),
                in_flight_units,
                failed: AtomicBool::new(false),
                state: Mutex::default(),
            }),
        })
    }

    /// Waits until every segment is durable and gives the artifacts, sorted by name. Fails with the first failure, and
    /// when a writer did not finish. The caller then calls [`SegmentSink::abort`].
    pub async fn finish(&self) -> Result<Vec<Artifact>> {
        let shared = &self.shared;
        shared.settle(&shared.job).await?;
        shared.check()?;
        let state = shared.state();
        let artifact = |(name, cut): (&ArtifactName, &Cut)| {
            let raw_bytes = cut.raw_bytes.ok_or_else(|| not_finished(name))?;
            let segments: Option<Vec<Segment>> = cut.segments.iter().cloned().collect();
            Ok(Artifact {
                name: name.clone(),
                raw_bytes,
                segments: segments
                    .ok_or_else(|| Error::bug("account for every segment").with("artifact", name))?,
            })
        };
        state.artifacts.iter().map(artifact).collect()
    }

    /// Stops everything and deletes what was stored so far, as far as the storage lets it. `job` is that of the cleaning
    /// up: the backup's own may be cancelled already.
    pub async fn abort(&self, job: &JobContext) -> Aborted {
        let shared = &self.shared;
        shared.fail(Error::new(ErrorKind::Cancelled, "go on with an aborted backup"));
        let mut aborted = Aborted::default();
        if let Err(error) = shared.settle(job).await {
            tracing::debug!(%error, "segments in flight were abandoned");
        }
        let keys: Vec<String> = {
            let state = shared.state();
            let keys = state
                .artifacts
                .iter()
                .flat_map(|(name, cut)| (1..=cut.segments.len()).map(|number| shared.key(name, number)));
            keys.collect()
        };
        let mut deletes = stream::iter(keys.into_iter().map(|key| async move {
            let result = job.run("delete segment", shared.storage.delete(&key, job)).await;
            (key, result)
        }))
        .buffer_unordered(DELETES_MAX);
        while let Some((key, result)) = deletes.next().await {
            match result {
                Ok(()) => aborted.deleted += 1,
                Err(error) => aborted.left.push((key, error)),
            }
        }
        aborted
    }

    /// Most bytes of segments ever held at once.
    pub fn held_bytes_max(&self) -> usize {
        self.shared.pool.live_max() * BLOCK_BYTES
    }
}

#[async_trait]
impl BackupSink for SegmentSink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactWriter>> {
        self.shared.check()?;
        let refused =
            |why: &str| Err(Error::new(ErrorKind::Conflict, "open artifact").with("artifact", name).why(why));
        if name.as_str().split('/').next() == Some(MANIFEST_FILE) {
            return refused("the name belongs to the manifest");
        }
        let mut state = self.shared.state();
        if state.artifacts.contains_key(name) {
            return refused("the backup has an artifact of this name");
        }
        state.artifacts.insert(name.clone(), Cut::default());
        Ok(Box::new(SegmentWriter::new(self.shared.clone(), name.clone())))
    }
}

pub(super) fn units(bytes: usize) -> usize {
    bytes.div_ceil(CROWDED_BYTES).max(1)
}

pub(super) fn not_finished(name: &ArtifactName) -> Error {
    Error::bug("finish backup").with("artifact", name).why("artifact was not finished")
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, name: &ArtifactName, number: usize) -> String {
        segment_key(&self.prefix, name, number, self.suffix)
    }

    /// The writer of an artifact has given its last byte.
    pub(super) fn finished(&self, name: &ArtifactName, raw_bytes: u64) {
        if let Some(cut) = self.state().artifacts.get_mut(name) {
            cut.raw_bytes = Some(raw_bytes);
        }
    }

    /// Remembers the first failure; later ones follow from it.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state();
        if state.failure.is_none() {
            state.failure = Some(Arc::new(error));
            self.failed.store(true, Ordering::Release);
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match &self.state().failure {
            Some(first) => Err(repeat(first)),
            None => Ok(()),
        }
    }

    /// Waits for everything in flight. A failure of a segment is in `failure` then, a panic too.
    async fn settle(&self, job: &JobContext) -> Result<()> {
        loop {
            let tasks = std::mem::take(&mut self.state().tasks);
            if tasks.is_empty() {
                return Ok(());
            }
            for task in tasks {
                let joined = async { Ok::<_, Error>(task.join().await) };
                if let Err(error) = job.run("wait for segments in flight", joined).await? {
                    self.fail(error);
                }
            }
        }
    }

    /// Starts encoding and storing; the permit is held until both are done.
    pub(super) async fn start(
        self: &Arc<Self>,
        name: &ArtifactName,
        number: usize,
        raw: Vec<Block>,
        permit: OwnedSemaphorePermit,
    ) {
        let (shared, of) = (self.clone(), name.clone());
        let done: Vec<Task<()>> = {
            let mut state = self.state();
            if let Some(cut) = state.artifacts.get_mut(name) {
                cut.segments.push(None);
            }
            let task = self.job.workers().spawn("store segment", async move {
                let stored = shared.encode_and_store(&of, number, raw).await;
                drop(permit);
                if let Err(error) = stored {
                    shared.fail(error);
                }
                Ok(())
            });
            state.tasks.push(task);
            state.tasks.extract_if(.., |task| task.is_finished()).collect()
        };
        for task in done {
            if let Err(error) = task.join().await {
                self.fail(error);
            }
        }
    }

    async fn encode_and_store(
        self: &Arc<Self>,
        name: &ArtifactName,
        number: usize,
        raw: Vec<Block>,
    ) -> Result<()> {
        self.check()?;
        let (shared, key) = (self.clone(), self.key(name, number));
        let encode = self.job.workers().compute("encode segment", move || shared.encoder.encode(raw));
        let encoded = self.job.run("encode segment", encode).await?;
        self.check()?;
        let stored = put_once(&*self.storage, &key, encoded.parts, &self.job).await;
        stored.map_err(|e| e.during(format!("store segment {key}")))?;
        self.job.progress().beat();
        if let Some(cut) = self.state().artifacts.get_mut(name) {
            cut.segments[number - 1] = Some(encoded.segment);
        }
        Ok(())
    }
}

/// The first failure once more, for another caller: kind, hint and text are those of the original.
fn repeat(first: &Arc<Error>) -> Error {
    let again =
        Error::new(first.kind(), "go on with backup").retry_as(first.retry()).because(First(first.clone()));
    match first.advice() {
        Some(hint) => again.hint(hint),
        None => again,
    }
}

#[derive(Debug)]
struct First(Arc<Error>);

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for First {}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
