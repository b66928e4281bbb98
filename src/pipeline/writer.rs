//! Filling one artifact: cuts the bytes an engine writes into segments and hands each one over when it is full.
//!
//! Invariants: never waits for memory that only another open artifact could give back; a writer that was interrupted or
//! dropped before its end spoils the backup.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::block::{self, Block};
use super::sink::{CROWDED_BYTES, IN_FLIGHT_MAX, Shared, not_finished, units};
use crate::domain::id::ArtifactName;
use crate::domain::manifest::Artifact;
use crate::error::{Error, ErrorKind, Result};
use crate::system::ArtifactWriter;

/// Six digits in the name of a segment: sorting by name stays sorting by number.
const SEGMENTS_MAX: usize = 999_999;

/// A dropped `write` leaves [`Phase::Busy`] behind: how much of its chunk was taken is then unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    Busy,
    Finished,
}

pub(super) struct SegmentWriter {
    shared: Arc<Shared>,
    name: ArtifactName,
    filling: Vec<Block>,
    filled: usize,
    /// Held while the segment is larger than [`CROWDED_BYTES`].
    slot: Option<OwnedSemaphorePermit>,
    number: usize,
    raw_bytes: u64,
    phase: Phase,
}

#[async_trait]
impl ArtifactWriter for SegmentWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.begin()?;
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let room = self.room();
            if room == 0 {
                self.hand_over().await?;
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room));
            block::append(&mut self.filling, &self.shared.pool, now);
            self.filled += now.len();
            rest = later;
        }
        self.raw_bytes += chunk.len() as u64;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// The segments of the returned artifact are empty: they may still be on their way, and are known to
    /// [`super::sink::SegmentSink::finish`]. So a small artifact costs its writer no wait.
    async fn finish(mut self: Box<Self>) -> Result<Artifact> {
        self.begin()?;
        if self.filled > 0 {
            self.hand_over().await?;
        }
        self.shared.finished(&self.name, self.raw_bytes);
        self.phase = Phase::Finished;
        Ok(Artifact { name: self.name.clone(), raw_bytes: self.raw_bytes, segments: Vec::new() })
    }
}

impl SegmentWriter {
    pub(super) fn new(shared: Arc<Shared>, name: ArtifactName) -> Self {
        Self {
            shared,
            name,
            filling: Vec::new(),
            filled: 0,
            slot: None,
            number: 0,
            raw_bytes: 0,
            phase: Phase::Ready,
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.shared.check()?;
        if self.phase != Phase::Ready {
            return Err(
                Error::bug("write to an artifact after an interrupted write").with("artifact", &self.name)
            );
        }
        self.phase = Phase::Busy;
        Ok(())
    }

    /// Bytes that the segment may still take. Beyond [`CROWDED_BYTES`] only with a slot, and without waiting for one: the
    /// other open artifacts may be waiting for this very writer's engine.
    fn room(&mut self) -> usize {
        let full = self.shared.segment_bytes;
        let allowed = full.min(CROWDED_BYTES);
        if self.filled < allowed {
            return allowed - self.filled;
        }
        if self.slot.is_none() {
            self.slot = self.shared.filling.clone().try_acquire_owned().ok();
        }
        if self.slot.is_some() { full - self.filled } else { 0 }
    }

    /// Gives the filled segment to the workers; waits while too much is in flight. This is the backpressure.
    async fn hand_over(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        if self.number == SEGMENTS_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "add a segment to artifact")
                .with("artifact", &self.name)
                .with("segments", SEGMENTS_MAX)
                .hint("raise segment_bytes"));
        }
        let least = shared.in_flight_units.div_ceil(IN_FLIGHT_MAX);
        let weight = units(self.filled).max(least);
        let weight = u32::try_from(weight).map_err(|e| Error::bug("weigh segment").because(e))?;
        let enter = async {
            let permit = shared.in_flight.clone().acquire_many_owned(weight).await;
            permit.map_err(|e| Error::bug("enter the pipeline").because(e))
        };
        let permit = shared.job.run("wait for room in the pipeline", enter).await?;
        shared.check()?;
        self.number += 1;
        self.filled = 0;
        self.slot = None;
        let raw = std::mem::take(&mut self.filling);
        shared.start(&self.name, self.number, raw, permit).await;
        Ok(())
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if self.phase != Phase::Finished {
            self.shared.fail(not_finished(&self.name));
        }
    }
}
