//! Restoring key by key into a running server: every value goes in as the server's own DUMP would give it.
//!
//! Expiry is absolute, so that time spent restoring shifts nothing. Every reply is read; one refused key makes the whole
//! restore a failure. A marker key holds the run while it is under way, so that the same run may begin again.

use std::ops::Range;
use std::time::Instant;

use tokio::sync::mpsc;

use super::connection::{Connection, Endpoint};
use super::fingerprint::{MARKER_KEY, Tally, is_own_key};
use super::rdb::{self, Header, RawValues, Record, Usage, Visitor, decimal};
use super::resp::{self, Reply};
use super::restore::{self, Occupied};
use super::restore_file::check_content;
use super::server::{self, Info};
use super::{DUMP, artifact, feed, glob, watermark_of};
use crate::domain::manifest::Manifest;
use crate::domain::restore::{Existing, Phase, RestoreRequest, Restored};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_COMMANDS: usize = 2000;
const QUEUE_BATCHES: usize = 2;
const REFUSED_NAMED: usize = 5;

pub async fn run(
    endpoint: &Endpoint,
    request: &RestoreRequest,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Restored> {
    let manifest = point(&request.chain)?;
    let mut connection = endpoint.connect(job).await?;
    let mut phases = Vec::new();
    let began = Instant::now();
    let existing = make_room(&mut connection, request, manifest, source, job).await?;
    phases.push(Phase { name: "prepare".to_owned(), took: began.elapsed() });
    let began = Instant::now();
    job.progress().set_phase("load");
    let run = request.run.as_str().as_bytes();
    connection.call(&[b"SET", MARKER_KEY, run], job).await?;
    let now_ms = server::clock_ms(&mut connection, job).await?;
    let (loader, sent) = load(&mut connection, request, existing, source, now_ms, job).await?;
    check_content(&loader.tally, &manifest.captured.fingerprint)?;
    sent.check()?;
    server::select(&mut connection, 0, job).await?;
    connection.call(&[b"DEL", MARKER_KEY], job).await?;
    phases.push(Phase { name: "load".to_owned(), took: began.elapsed() });
    Ok(Restored {
        point: Some(manifest.id.clone()),
        items: sent.keys,
        bytes: sent.bytes,
        watermark: watermark_of(loader.tally.header()),
        phases,
        notes: loader.notes(),
    })
}

/// Empties the server when everything is to be replaced, but never before the backup was seen to be whole. Gives what may
/// happen to keys that are there when their turn comes.
async fn make_room(
    connection: &mut Connection,
    request: &RestoreRequest,
    manifest: &Manifest,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Existing> {
    let info = Info::read(connection, job).await?;
    let occupied = restore::occupied(connection, &info, request, job).await?;
    match (occupied, request.existing) {
        (Occupied::By(what), Existing::Refuse) => {
            Err(Error::new(ErrorKind::Conflict, "restore into a server that holds keys").why(what))
        }
        (Occupied::By(_), Existing::Replace) if request.selection.is_everything() => {
            job.progress().set_phase("read the backup");
            let stream = source.open(&manifest.id, &artifact(DUMP)?, job).await?;
            let (tally, _) = feed::parse_stream(stream, Tally::new(), job).await?;
            check_content(&tally, &manifest.captured.fingerprint)?;
            empty(connection, &info, job).await?;
            Ok(Existing::Replace)
        }
        // a dead attempt got through some of the keys
        (Occupied::Ours, _) | (_, Existing::Replace) => Ok(Existing::Replace),
        (Occupied::Free, Existing::Refuse) => Ok(Existing::Refuse),
    }
}

async fn empty(connection: &mut Connection, info: &Info, job: &JobContext) -> Result<()> {
    connection.ask(&["FLUSHALL"], job).await?;
    if info.major().is_some_and(|major| major >= 7) {
        connection.ask(&["FUNCTION", "FLUSH"], job).await?;
    }
    Ok(())
}

async fn load(
    connection: &mut Connection,
    request: &RestoreRequest,
    existing: Existing,
    source: &dyn BackupSource,
    now_ms: i64,
    job: &JobContext,
) -> Result<(Loader, Sent)> {
    let manifest = point(&request.chain)?;
    let stream = source.open(&manifest.id, &artifact(DUMP)?, job).await?;
    let (out, batches) = mpsc::channel(QUEUE_BATCHES);
    let loader = Loader {
        out: Some(out),
        batch: Batch::default(),
        patterns: request.selection.patterns.clone(),
        existing,
        now_ms,
        version: 0,
        tally: Tally::new(),
        expired: 0,
        functions_left_out: 0,
    };
    let reading = async {
        let (mut loader, _) = feed::parse_stream(stream, loader, job).await?;
        let last = std::mem::take(&mut loader.batch);
        if let Some(out) = loader.out.take()
            && out.send(last).await.is_err()
        {
            return Err(Error::new(ErrorKind::Cancelled, "send the last keys"));
        }
        Ok(loader)
    };
    futures_util::try_join!(reading, send_all(connection, batches, job))
}

#[derive(Debug, Default)]
struct Batch {
    db: u64,
    bytes: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Debug)]
enum Item {
    /// Where the key's name stands in the batch.
    Key(Range<usize>),
    Function,
}

/// Turns records into batches of commands, on the parser's thread.
#[derive(Debug)]
struct Loader {
    out: Option<mpsc::Sender<Batch>>,
    batch: Batch,
    patterns: Vec<String>,
    existing: Existing,
    now_ms: i64,
    version: u16,
    tally: Tally,
    expired: u64,
    functions_left_out: u64,
}

impl Loader {
    fn hand_over(&mut self, next_db: u64) -> Result<()> {
        let full = std::mem::take(&mut self.batch);
        self.batch.db = next_db;
        self.batch.bytes.reserve(BATCH_BYTES);
        if full.items.is_empty() {
            return Ok(());
        }
        let sent = self.out.as_ref().map(|out| out.blocking_send(full));
        match sent {
            Some(Ok(())) => Ok(()),
            // the sending side has ended and knows why
            Some(Err(_)) | None => Err(Error::new(ErrorKind::Cancelled, "hand keys over")),
        }
    }

    fn hand_over_if_full(&mut self) -> Result<()> {
        if self.batch.bytes.len() < BATCH_BYTES && self.batch.items.len() < BATCH_COMMANDS {
            return Ok(());
        }
        self.hand_over(self.batch.db)
    }

    fn restore_command(&mut self, record: &Record<'_>) {
        let own = is_own_key(record.db, record.key);
        let replace = own || self.existing == Existing::Replace;
        let mut number = Vec::with_capacity(20);
        let usage: Option<&[u8]> = match record.usage {
            Usage::Unknown => None,
            Usage::IdleSeconds(seconds) => {
                decimal::push(i64::try_from(seconds).unwrap_or(i64::MAX), &mut number);
                Some(b"IDLETIME")
            }
            Usage::Frequency(counter) => {
                decimal::push(i64::from(counter), &mut number);
                Some(b"FREQ")
            }
        };
        let words = 5 + usize::from(replace) + 2 * usize::from(usage.is_some());
        let out = &mut self.batch.bytes;
        resp::encode_start(words, out);
        resp::encode_word(b"RESTORE", out);
        resp::encode_word(record.key, out);
        let name_end = out.len() - 2;
        let name = name_end - record.key.len()..name_end;
        let mut expiry = [0; 20];
        resp::encode_word(decimal::format(record.expires_at_ms.unwrap_or(0), &mut expiry), out);
        let trailer = rdb::dump_trailer(record.encoding, record.raw, self.version);
        resp::encode_word_start(1 + record.raw.len() + trailer.len(), out);
        out.push(record.encoding);
        out.extend_from_slice(record.raw);
        out.extend_from_slice(&trailer);
        out.extend_from_slice(b"\r\n");
        resp::encode_word(b"ABSTTL", out);
        if replace {
            resp::encode_word(b"REPLACE", out);
        }
        if let Some(option) = usage {
            resp::encode_word(option, out);
            resp::encode_word(&number, out);
        }
        self.batch.items.push(Item::Key(name));
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.expired > 0 {
            notes.push(format!("{} keys had expired meanwhile and were left out", self.expired));
        }
        if self.functions_left_out > 0 {
            notes.push("function libraries were left out: only keys were chosen".to_owned());
        }
        notes
    }
}

impl Visitor for Loader {
    fn begin(&mut self, header: &Header) -> Result<()> {
        self.version = header.version;
        self.tally.begin(header)
    }

    fn key(&mut self, record: Record<'_>) -> Result<()> {
        self.tally.add(&record);
        let marker = record.db == 0 && record.key == MARKER_KEY;
        if marker || !glob::matches_any(&self.patterns, record.key) {
            return Ok(());
        }
        if record.expires_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.expired += 1;
            return Ok(());
        }
        if record.db != self.batch.db {
            self.hand_over(record.db)?;
        }
        self.restore_command(&record);
        self.hand_over_if_full()
    }

    fn function(&mut self, code: &[u8]) -> Result<()> {
        self.tally.add_function(code);
        if !self.patterns.is_empty() {
            self.functions_left_out += 1;
            return Ok(());
        }
        resp::encode(&[b"FUNCTION", b"LOAD", b"REPLACE", code], &mut self.batch.bytes);
        self.batch.items.push(Item::Function);
        self.hand_over_if_full()
    }

    fn keeps_raw(&self) -> RawValues {
        RawValues::Kept
    }
}

/// What the server made of it.
#[derive(Debug, Default)]
struct Sent {
    keys: u64,
    bytes: u64,
    refused: u64,
    named: Vec<String>,
}

impl Sent {
    fn check(&self) -> Result<()> {
        if self.refused == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Failed, "restore every key")
            .with("restored", self.keys)
            .with("refused", self.refused)
            .why(self.named.join("; "))
            .hint("the restored keys are there; a server of the backup's version or newer takes all of them"))
    }
}

async fn send_all(
    connection: &mut Connection,
    mut batches: mpsc::Receiver<Batch>,
    job: &JobContext,
) -> Result<Sent> {
    let (mut sent, mut selected) = (Sent::default(), 0);
    while let Some(batch) = job.run("wait for keys", async { Ok::<_, Error>(batches.recv().await) }).await? {
        if batch.db != selected {
            server::select(connection, batch.db, job).await?;
            selected = batch.db;
        }
        connection.send(&batch.bytes, job).await?;
        for item in &batch.items {
            let reply = connection.receive(job).await?;
            note_reply(&mut sent, &batch, item, reply);
        }
        sent.bytes += batch.bytes.len() as u64;
        job.progress().add_items(batch.items.len() as u64);
    }
    Ok(sent)
}

fn note_reply(sent: &mut Sent, batch: &Batch, item: &Item, reply: Reply) {
    let Reply::Error(text) = reply else {
        sent.keys += u64::from(matches!(item, Item::Key(_)));
        return;
    };
    sent.refused += 1;
    if sent.named.len() < REFUSED_NAMED {
        let name = match item {
            Item::Key(range) => format!("db{} {}", batch.db, rdb::shown(&batch.bytes[range.clone()])),
            Item::Function => "function library".to_owned(),
        };
        sent.named.push(format!("{name}: {text}"));
    }
}
