//! Hands bytes that arrive asynchronously to the RDB reader, which runs on a blocking thread of its own.
//!
//! The queue between them is short, so the slower side holds the faster one back and memory stays bounded.

use std::io::Read;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::rdb::{self, Chunks, Header, Summary, Visitor};
use crate::error::{Error, IoContext, Result, io_kind};
use crate::runtime::JobContext;
use crate::runtime::workers::Task;
use crate::system::ByteStream;

const QUEUE_CHUNKS: usize = 16;
const FILE_CHUNK_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub struct Feed(mpsc::Receiver<Bytes>);

impl Chunks for Feed {
    fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.blocking_recv())
    }
}

/// An RDB reader at work. Dropping it ends the reading.
#[derive(Debug)]
pub struct Parsing<V> {
    chunks: Option<mpsc::Sender<Bytes>>,
    task: Task<(V, Summary)>,
}

impl<V: Visitor + Send + 'static> Parsing<V> {
    pub fn start(visitor: V, job: &JobContext) -> Self {
        let (chunks, feed) = mpsc::channel(QUEUE_CHUNKS);
        let workers = job.workers().clone();
        let task = job.workers().spawn("parse rdb", async move {
            let work = move || {
                let mut visitor = visitor;
                let summary = rdb::read(Feed(feed), &mut visitor)?;
                Ok((visitor, summary))
            };
            // not among the CPU-bound work: it waits for bytes that may themselves wait for the CPU's workers
            workers.block("parse rdb", work).await
        });
        Self { chunks: Some(chunks), task }
    }

    /// Takes the next bytes. When the reader has given up, its error.
    pub async fn push(&mut self, chunk: Bytes, job: &JobContext) -> Result<()> {
        let Some(chunks) = &self.chunks else {
            return Err(Error::bug("feed a reader that has given up"));
        };
        let sent = job.run("parse rdb", async { Ok::<_, Error>(chunks.send(chunk).await) });
        if sent.await?.is_err() {
            self.chunks = None;
            return Err(self.failure(job).await);
        }
        Ok(())
    }

    async fn failure(&mut self, job: &JobContext) -> Error {
        let nothing = job.workers().spawn("replace task", async { Err(Error::bug("read twice")) });
        let task = std::mem::replace(&mut self.task, nothing);
        match job.run("parse rdb", task.join()).await {
            Err(error) => error,
            Ok(_) => rdb::corrupt("bytes follow its end"),
        }
    }

    /// No more bytes come: what the reader made of them.
    pub async fn finish(mut self, job: &JobContext) -> Result<(V, Summary)> {
        self.chunks = None;
        job.run("parse rdb", self.task.join()).await
    }
}

/// Reads a whole RDB from a stream.
pub async fn parse_stream<V: Visitor + Send + 'static>(
    mut stream: ByteStream,
    visitor: V,
    job: &JobContext,
) -> Result<(V, Summary)> {
    let mut parsing = Parsing::start(visitor, job);
    while let Some(chunk) = next_of(&mut stream, job).await? {
        parsing.push(chunk, job).await?;
    }
    parsing.finish(job).await
}

pub async fn next_of(stream: &mut ByteStream, job: &JobContext) -> Result<Option<Bytes>> {
    job.run("read the backup", async { stream.next().await.transpose() }).await
}

struct FileChunks {
    file: std::fs::File,
    path: std::path::PathBuf,
    job: JobContext,
}

impl Chunks for FileChunks {
    fn next(&mut self) -> Result<Option<Bytes>> {
        self.job.check("read RDB")?;
        let mut chunk = BytesMut::zeroed(FILE_CHUNK_BYTES);
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    chunk.truncate(n);
                    return Ok(Some(chunk.freeze()));
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::new(io_kind(&e), "read RDB")
                        .with("path", self.path.display())
                        .because(e));
                }
            }
        }
    }
}

fn open(path: &Path, job: &JobContext) -> Result<FileChunks> {
    Ok(FileChunks {
        file: std::fs::File::open(path).or_io("open RDB", path)?,
        path: path.to_owned(),
        job: job.clone(),
    })
}

/// Reads a whole RDB from a file.
pub async fn parse_file<V: Visitor + Send + 'static>(
    path: &Path,
    visitor: V,
    job: &JobContext,
) -> Result<(V, Summary)> {
    let (path, inner) = (path.to_owned(), job.clone());
    let work = move || {
        let mut visitor = visitor;
        let summary = rdb::read(open(&path, &inner)?, &mut visitor)?;
        Ok((visitor, summary))
    };
    job.run("read RDB", job.workers().block("read rdb", work)).await
}

/// What stands before the first key of a file.
pub async fn file_header(path: &Path, job: &JobContext) -> Result<Header> {
    let (path, inner) = (path.to_owned(), job.clone());
    let work = move || rdb::read_header(open(&path, &inner)?);
    job.run("read RDB", job.workers().block("read rdb header", work)).await
}
