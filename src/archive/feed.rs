//! A bridge from a stream of bytes to blocking code that reads: a bounded queue of chunks.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// Chunks are up to a mebibyte or so.
const CHUNKS_MAX: usize = 8;

pub type Feeder = mpsc::Sender<Result<Option<Bytes>>>;

/// The reading end, for a blocking thread only. Errors of the stream come out as the source of an `io::Error`; a feeder
/// that vanishes without a word is an error too, never an end.
#[derive(Debug)]
pub struct FeedReader {
    from: mpsc::Receiver<Result<Option<Bytes>>>,
    chunk: Bytes,
    ended: bool,
}

pub fn feed() -> (Feeder, FeedReader) {
    let (to, from) = mpsc::channel(CHUNKS_MAX);
    let reader = FeedReader { from, chunk: Bytes::new(), ended: false };
    (to, reader)
}

/// Moves `stream` into the feed up to its end. Ends early, without an error, when the reader has gone.
pub async fn pump(
    mut stream: impl Stream<Item = Result<Bytes>> + Unpin,
    to: Feeder,
    job: &JobContext,
) -> Result<()> {
    loop {
        let item = job.run("read artifact", async { stream.next().await.transpose() }).await;
        let (last, message) = match item {
            Ok(Some(chunk)) => (None, Ok(Some(chunk))),
            Ok(None) => (Some(Ok(())), Ok(None)),
            Err(error) => {
                let copy = Error::new(error.kind(), "read artifact").why(error.to_string());
                (Some(Err(error)), Err(copy))
            }
        };
        let sent =
            job.run("hand on artifact", async { Ok::<_, Error>(to.send(message).await.is_ok()) }).await?;
        match (last, sent) {
            (Some(end), _) => return end,
            (None, false) => return Ok(()),
            (None, true) => {}
        }
    }
}

impl FeedReader {
    fn more(&mut self) -> io::Result<()> {
        match self.from.blocking_recv() {
            Some(Ok(Some(chunk))) => self.chunk = chunk,
            Some(Ok(None)) => self.ended = true,
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => {
                return Err(io::Error::other(Error::new(ErrorKind::Cancelled, "read artifact to its end")));
            }
        }
        Ok(())
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended && !buffer.is_empty() {
            self.more()?;
        }
        let n = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
