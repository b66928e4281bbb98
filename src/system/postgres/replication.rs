//! A small client of PostgreSQL's physical replication protocol: ask and stream. The common driver has no such mode.
//!
//! One connection carries one conversation; after an error it is of no more use. Payloads are handed over as slices of the
//! read buffer, without a copy.

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::client::refused;
use super::lsn::Lsn;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// Room made before each read: several of the server's messages (at most 128 KiB each) per system call.
const READ_BYTES: usize = 256 * 1024;
/// No message of this protocol is larger; a longer one means that something else answers.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
const COPY_BOTH_TAG: u8 = b'W';

/// What a conversation runs over: TCP, a Unix socket, or TLS.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One connection in replication mode.
pub struct Replication {
    stream: Box<dyn Duplex>,
    buffer: BytesMut,
    version_text: String,
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication").field("version", &self.version_text).finish_non_exhaustive()
    }
}

/// Who the server is and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub system_identifier: String,
    pub timeline: u32,
    pub flushed: Lsn,
}

/// What comes next in a conversation.
pub enum Incoming {
    Known(Message),
    CopyBoth,
}

/// One answer row; absent values are empty.
pub type AnswerRow = Vec<String>;

/// What a streaming command sends.
#[derive(Debug)]
pub enum Streamed {
    Data(Bytes),
    /// One COPY has ended; more may follow.
    CopyEnd,
    Row(AnswerRow),
    /// The server is through with one result set.
    ResultEnd,
    /// The whole command has ended.
    End,
}

impl Replication {
    /// A connection on which nothing was said yet.
    pub fn over(stream: Box<dyn Duplex>) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(READ_BYTES), version_text: String::new() }
    }

    pub async fn identify(&mut self, job: &JobContext) -> Result<Identity> {
        let rows = self.ask(job, "IDENTIFY_SYSTEM").await?;
        let row = rows.first().ok_or_else(|| unexpected("identify system", "no answer"))?;
        let field = |n: usize| row.get(n).map(String::as_str).unwrap_or_default();
        Ok(Identity {
            system_identifier: field(0).to_owned(),
            timeline: field(1).parse().map_err(|_| unexpected("identify system", "no timeline"))?,
            flushed: field(2).parse()?,
        })
    }

    /// Name and content of the history file of `timeline`.
    pub async fn timeline_history(&mut self, timeline: u32, job: &JobContext) -> Result<(String, Bytes)> {
        let op = "read timeline history";
        self.send(job, &format!("TIMELINE_HISTORY {timeline}")).await?;
        let mut found = None;
        loop {
            match self.message(job).await? {
                Incoming::Known(Message::DataRow(row)) => {
                    let ranges: Vec<_> = row.ranges().collect().map_err(|e| broken(op, e))?;
                    let part = |n: usize| {
                        let range = ranges.get(n).cloned().flatten().unwrap_or(0..0);
                        row.buffer_bytes().slice(range)
                    };
                    found = Some((String::from_utf8_lossy(&part(0)).into_owned(), part(1)));
                }
                Incoming::Known(Message::ReadyForQuery(_)) => break,
                Incoming::Known(_) => {}
                Incoming::CopyBoth => return Err(unexpected(op, "a stream")),
            }
        }
        found.ok_or_else(|| unexpected(op, "no answer"))
    }

    /// Runs a command that answers with rows.
    pub async fn ask(&mut self, job: &JobContext, command: &str) -> Result<Vec<AnswerRow>> {
        self.send(job, command).await?;
        let mut rows = Vec::new();
        loop {
            match self.next(job).await? {
                Streamed::Row(row) => rows.push(row),
                Streamed::End => return Ok(rows),
                Streamed::ResultEnd => {}
                Streamed::Data(_) | Streamed::CopyEnd => return Err(unexpected("ask", "a stream")),
            }
        }
    }

    /// Sends a command; its answer is read by `next`.
    pub async fn send(&mut self, job: &JobContext, command: &str) -> Result<()> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out).map_err(|e| broken("send command", e))?;
        self.put(job, &out).await
    }

    /// Starts streaming WAL from `from`; then `next` gives the stream's messages as `Data`.
    pub async fn start_wal(&mut self, from: Lsn, timeline: u32, job: &JobContext) -> Result<()> {
        self.send(job, &format!("START_REPLICATION PHYSICAL {from} TIMELINE {timeline}")).await?;
        match self.message(job).await? {
            Incoming::CopyBoth => Ok(()),
            Incoming::Known(_) => Err(unexpected("start streaming WAL", "no stream")),
        }
    }

    /// Tells the server how far the stream was received. It frees nothing: no slot is bound to this stream.
    pub async fn report(&mut self, received: Lsn, job: &JobContext) -> Result<()> {
        let mut status = Vec::with_capacity(34);
        status.push(b'r');
        for position in [received, received, Lsn(0)] {
            status.extend_from_slice(&position.0.to_be_bytes());
        }
        // microseconds since 2000-01-01
        let micros = job.now().timestamp_micros() - 946_684_800_000_000;
        status.extend_from_slice(&micros.to_be_bytes());
        status.push(0);
        let mut out = BytesMut::new();
        frontend::CopyData::new(&status[..]).map_err(|e| broken("report progress", e))?.write(&mut out);
        self.put(job, &out).await
    }

    /// The next part of a streaming command's answer.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver's list of messages is open; the rest says nothing here"
    )]
    pub async fn next(&mut self, job: &JobContext) -> Result<Streamed> {
        loop {
            let Incoming::Known(message) = self.message(job).await? else {
                return Err(unexpected("read answer", "an unasked stream"));
            };
            match message {
                Message::CopyData(body) => return Ok(Streamed::Data(body.into_bytes())),
                Message::CopyDone => return Ok(Streamed::CopyEnd),
                Message::DataRow(row) => return Ok(Streamed::Row(texts(&row)?)),
                Message::CommandComplete(_) => return Ok(Streamed::ResultEnd),
                Message::ReadyForQuery(_) => return Ok(Streamed::End),
                _ => {}
            }
        }
    }

    /// The next message. Notices and parameters are taken here; an error of the server becomes an error.
    pub async fn message(&mut self, job: &JobContext) -> Result<Incoming> {
        loop {
            if let Some(incoming) = self.parse()? {
                match &incoming {
                    Incoming::Known(Message::ErrorResponse(body)) => return Err(reported(body.fields())),
                    Incoming::Known(Message::NoticeResponse(body)) => {
                        tracing::debug!(notice = %reported(body.fields()), "server notice");
                    }
                    Incoming::Known(Message::ParameterStatus(body)) => {
                        if body.name().is_ok_and(|n| n == "server_version") {
                            self.version_text = body.value().unwrap_or_default().to_owned();
                        }
                    }
                    Incoming::Known(_) | Incoming::CopyBoth => return Ok(incoming),
                }
                continue;
            }
            self.buffer.reserve(READ_BYTES);
            let read = async {
                let n = self.stream.read_buf(&mut self.buffer).await;
                n.map_err(|e| Error::new(ErrorKind::Unreachable, "read from server").because(e))
            };
            if job.run("read from server", read).await? == 0 {
                return Err(
                    Error::new(ErrorKind::Unreachable, "read from server").why("it closed the connection")
                );
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Incoming>> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        let length =
            u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(unexpected("read from server", "a message of impossible length"));
        }
        if self.buffer.len() < length + 1 {
            return Ok(None);
        }
        if self.buffer[0] == COPY_BOTH_TAG {
            drop(self.buffer.split_to(length + 1));
            return Ok(Some(Incoming::CopyBoth));
        }
        let message = Message::parse(&mut self.buffer).map_err(|e| broken("read from server", e))?;
        Ok(message.map(Incoming::Known))
    }

    pub async fn put(&mut self, job: &JobContext, bytes: &[u8]) -> Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let write = async {
            write.await.map_err(|e| Error::new(ErrorKind::Unreachable, "write to server").because(e))
        };
        job.run("write to server", write).await
    }
}

fn texts(row: &postgres_protocol::message::backend::DataRowBody) -> Result<AnswerRow> {
    let op = "read answer";
    let ranges: Vec<_> = row.ranges().collect().map_err(|e| broken(op, e))?;
    let text = |range: Option<std::ops::Range<usize>>| {
        range
            .and_then(|r| row.buffer().get(r))
            .map(|b| String::from_utf8_lossy(b).into_owned())
            .unwrap_or_default()
    };
    Ok(ranges.into_iter().map(text).collect())
}

fn reported(mut fields: ErrorFields<'_>) -> Error {
    let (mut code, mut message, mut detail, mut hint) = (String::new(), String::new(), None, None);
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = value,
            b'M' => message = value,
            b'D' => detail = Some(value),
            b'H' => hint = Some(value),
            _ => {}
        }
    }
    refused("get an answer of the server".to_owned(), &code, &message, detail.as_deref(), hint.as_deref())
}

pub fn broken(op: &'static str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, op).because(error)
}

pub fn unexpected(op: &'static str, what: &str) -> Error {
    Error::new(ErrorKind::Failed, op).why(format!("the server sent {what}"))
}
