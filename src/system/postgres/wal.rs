//! Streams WAL into the sink, one artifact per segment, whole segments only.
//!
//! What lies behind the wanted end in the last segment is zeros, as in a segment that the server has just begun.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::client::Connector;
use super::lsn::{Lsn, Segmentation};
use super::replication::{Replication, Streamed};
use crate::domain::id::ArtifactName;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{ArtifactWriter, BackupSink};

/// How long the server may send nothing although it has said that the WAL is there.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Received bytes between two reports to the server.
const REPORT_BYTES: u64 = 16 << 20;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

pub fn segment_artifact(name: &str) -> String {
    format!("wal/{name}")
}

/// One message of a WAL stream.
enum WalMessage {
    Data { start: Lsn, bytes: Bytes },
    Keepalive,
}

fn read_message(mut bytes: Bytes) -> Result<WalMessage> {
    match bytes.first() {
        Some(b'w') if bytes.len() >= 25 => {
            let start = Lsn((&bytes[1..9]).get_u64());
            bytes.advance(25);
            Ok(WalMessage::Data { start, bytes })
        }
        Some(b'k') if bytes.len() >= 18 => Ok(WalMessage::Keepalive),
        _ => {
            Err(Error::new(ErrorKind::Failed, "stream WAL").why("the server sent a message of unknown type"))
        }
    }
}

/// Can WAL be streamed from `from` on? Opens a stream and drops it.
pub async fn is_available(
    connector: &Connector,
    from: Lsn,
    shape: Segmentation,
    job: &JobContext,
) -> Result<()> {
    let mut connection = Replication::open(connector, job).await?;
    let start = shape.start(shape.number(from));
    let limited = job.child(SILENCE_MAX);
    connection.start_wal(start, shape.timeline, &limited).await?;
    connection.next(&limited).await.map(drop)
}

/// Stores all segments that hold `from..to`. `to` must have been flushed by the server.
///
/// Errors: `NotFound` when the server has already removed WAL, `Conflict` when its timeline ended before `to`.
pub async fn store(
    connector: &Connector,
    sink: &dyn BackupSink,
    shape: Segmentation,
    from: Lsn,
    to: Lsn,
    job: &JobContext,
) -> Result<()> {
    let mut connection = Replication::open(connector, job).await?;
    let start = shape.start(shape.number(from));
    connection.start_wal(start, shape.timeline, job).await.map_err(gone)?;
    let mut segments = Segments { sink, shape, job, at: start, open: None };
    let mut reported = start;
    while segments.at < to {
        let streamed = connection.next(&job.child(SILENCE_MAX)).await.map_err(gone)?;
        let Streamed::Data(bytes) = streamed else {
            return Err(Error::new(ErrorKind::Conflict, "stream WAL")
                .with("timeline", shape.timeline)
                .with("at", segments.at)
                .why("the timeline ended there")
                .hint("the server was promoted or restored: take a full backup"));
        };
        match read_message(bytes)? {
            WalMessage::Keepalive => connection.report(segments.at, job).await?,
            WalMessage::Data { start, bytes } => {
                if start != segments.at {
                    return Err(Error::new(ErrorKind::Corrupt, "stream WAL")
                        .with("expected", segments.at)
                        .with("received", start));
                }
                segments.take(bytes, to).await?;
            }
        }
        if segments.at.0 - reported.0 >= REPORT_BYTES {
            reported = segments.at;
            connection.report(reported, job).await?;
        }
    }
    segments.pad().await
}

fn gone(error: Error) -> Error {
    if error.kind() == ErrorKind::NotFound {
        return error
            .during("stream WAL that the server has already removed")
            .hint("take a full backup; use wal = \"slot\" or raise wal_keep_size so that it stays");
    }
    error
}

struct Segments<'a> {
    sink: &'a dyn BackupSink,
    shape: Segmentation,
    job: &'a JobContext,
    at: Lsn,
    open: Option<Box<dyn ArtifactWriter>>,
}

impl Segments<'_> {
    /// Cuts what arrived at segment boundaries and at `to`.
    async fn take(&mut self, mut bytes: Bytes, to: Lsn) -> Result<()> {
        bytes.truncate(usize::try_from(to.0 - self.at.0).unwrap_or(usize::MAX));
        while !bytes.is_empty() {
            let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
            let part = bytes.split_to(bytes.len().min(room));
            self.job.progress().advance(part.len() as u64);
            self.write(part).await?;
        }
        Ok(())
    }

    /// Bytes up to the end of the segment that `at` is in.
    fn room(&self) -> u64 {
        self.shape.segment_bytes - self.at.0 % self.shape.segment_bytes
    }

    async fn write(&mut self, part: Bytes) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let name = segment_artifact(&self.shape.name(self.shape.number(self.at)));
                let name = ArtifactName::parse(name).map_err(|e| Error::bug("name artifact").because(e))?;
                self.sink.artifact(&name).await?
            }
        };
        self.at.0 += part.len() as u64;
        self.job.run("store WAL", open.write(part)).await?;
        if self.at.0.is_multiple_of(self.shape.segment_bytes) {
            self.job.run("finish WAL segment", open.finish()).await?;
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    async fn pad(&mut self) -> Result<()> {
        while self.open.is_some() {
            let length = usize::try_from(self.room()).map_or(ZEROS.len(), |room| room.min(ZEROS.len()));
            self.write(Bytes::from_static(&ZEROS[..length])).await?;
        }
        Ok(())
    }
}
