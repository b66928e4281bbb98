//! Takes the bytes of a stream on a thread of its own, while the next ones are fetched.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::direct::{Block, NewFile};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::ByteStream;

/// Chunks between the stream and the thread.
const CHUNKS_MAX: usize = 8;

/// What is done with the bytes.
pub trait Consume: Send + 'static {
    type Out: Send + 'static;
    fn feed(&mut self, bytes: &[u8]) -> Result<()>;
    fn finish(self) -> Result<Self::Out>;
}

enum Feed {
    Chunk(Bytes),
    /// The stream ended as it should: not the same as the sender going away.
    End,
}

/// Feeds `stream` to `consumer`, which finishes only if the stream ended as it should.
pub async fn consume<C: Consume>(
    mut stream: ByteStream,
    mut consumer: C,
    job: &JobContext,
) -> Result<C::Out> {
    let (tx, mut rx) = mpsc::channel(CHUNKS_MAX);
    let write = job.workers().block("write restored files", move || {
        loop {
            match rx.blocking_recv() {
                Some(Feed::Chunk(bytes)) => consumer.feed(&bytes)?,
                Some(Feed::End) => return consumer.finish(),
                None => return Err(Error::new(ErrorKind::Cancelled, "write restored files")),
            }
        }
    });
    let feed = async move {
        loop {
            let next = async { stream.next().await.transpose() };
            let chunk: Option<Bytes> = job.run("read backup", next).await?;
            let (length, last) = (chunk.as_ref().map_or(0, Bytes::len), chunk.is_none());
            let sent = tx.send(chunk.map_or(Feed::End, Feed::Chunk)).await;
            // nobody listens any more: the writer has failed, and its error is the one that counts
            if sent.is_err() || last {
                return Ok::<(), Error>(());
            }
            job.progress().advance(length as u64);
        }
    };
    let (fed, written) = tokio::join!(feed, write);
    fed.and(written)
}

struct WholeFile {
    file: NewFile,
    path: PathBuf,
    left: u64,
    block: Block,
}

impl Consume for WholeFile {
    type Out = ();

    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| wrong_size(&self.path))?;
        self.file.write(bytes, &mut self.block)
    }

    fn finish(mut self) -> Result<()> {
        if self.left > 0 {
            return Err(wrong_size(&self.path));
        }
        self.file.finish(&mut self.block)
    }
}

/// Writes `stream` to a new file; anything but `bytes` bytes is `Corrupt`.
pub async fn store(stream: ByteStream, path: PathBuf, bytes: u64, job: &JobContext) -> Result<()> {
    let file = NewFile::create(&path, bytes)?;
    let whole = WholeFile { file, path, left: bytes, block: Block::default() };
    consume(stream, whole, job).await
}

fn wrong_size(path: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, "restore file")
        .with("file", path.display())
        .why("the backup holds another number of bytes than it says")
        .hint("this backup is damaged: restore an older one and verify the others")
}
