//! Receives a scan on its blocking thread and turns it into archive, index, deletions and the cached index, in chunks.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::FilesSystem;
use super::backup::now;
use super::entry::{Entry, path_order};
use super::grab::{Change, Trouble};
use super::index::{INDEX_VERSION, IndexHead, IndexReader, end_line, line};
use super::scan::Visitor;
use super::tally::Tally;
use super::walk::Found;
use crate::archive::END;
use crate::domain::backup::BackupPlan;
use crate::error::{Error, ErrorKind, Result, io_kind};

const CHUNK_BYTES: usize = 1024 * 1024;
/// Archive bytes up to this size are collected, larger ones handed on as they are.
const COLLECTED_BYTES_MAX: usize = 128 * 1024;
/// Clocks of file systems tick slower than they can be asked: what changed within a tick before the parent began is
/// read again.
const TICK_NANOSECONDS: u32 = 20_000_000;

/// What the reading thread sends to the sink.
#[derive(Debug)]
pub(super) enum Flow {
    Archive(Bytes),
    Index(Bytes),
    Deleted(Bytes),
    /// Everything was sent: the artifacts are whole.
    Done,
}

impl FilesSystem {
    pub(super) fn recorder(&self, plan: &BackupPlan, to: mpsc::Sender<Flow>) -> Result<Recorder> {
        let parent = plan.parent.as_ref().map(|parent| self.cache.open(&parent.id)).transpose()?;
        let started = now()?;
        let mut index = Vec::new();
        let head = IndexHead {
            lifeboat_files_index: INDEX_VERSION,
            backup: plan.id.clone(),
            started,
            exclude: self.settings.exclude.clone(),
        };
        line(&mut index, &head)?;
        let mut tally = Tally::default();
        tally.detail.root = self.settings.path.to_string_lossy().into_owned();
        tally.detail.exclude.clone_from(&self.settings.exclude);
        Ok(Recorder {
            since: parent.as_ref().map_or((0, 0), |p| before_tick(p.head().started)),
            parent,
            to,
            archive: Vec::new(),
            index,
            deleted: Vec::new(),
            cache: self.cache.create(&plan.id)?,
            started,
            tally,
        })
    }
}

fn before_tick(time: (i64, u32)) -> (i64, u32) {
    match time.1.checked_sub(TICK_NANOSECONDS) {
        Some(nsec) => (time.0, nsec),
        None => (time.0 - 1, time.1 + 1_000_000_000 - TICK_NANOSECONDS),
    }
}

/// Receives the scan on the blocking side.
#[derive(Debug)]
pub(super) struct Recorder {
    to: mpsc::Sender<Flow>,
    parent: Option<IndexReader<File>>,
    /// Entries of the parent that changed later than this are read again.
    since: (i64, u32),
    archive: Vec<u8>,
    index: Vec<u8>,
    deleted: Vec<u8>,
    cache: File,
    started: (i64, u32),
    tally: Tally,
}

impl Recorder {
    fn send(&self, flow: Flow) -> Result<()> {
        self.to.blocking_send(flow).map_err(|_| Error::new(ErrorKind::Cancelled, "hand on files"))
    }

    fn flush_archive(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.archive);
        if bytes.is_empty() { Ok(()) } else { self.send(Flow::Archive(bytes.into())) }
    }

    fn flush_index(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.index);
        self.cache.write_all(&bytes).map_err(|e| {
            Error::new(io_kind(&e), "write index cache").because(e).hint("make room in the state directory")
        })?;
        self.send(Flow::Index(bytes.into()))
    }

    fn flush_deleted(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.deleted);
        if bytes.is_empty() { Ok(()) } else { self.send(Flow::Deleted(bytes.into())) }
    }

    /// Paths end in a NUL byte.
    fn delete(&mut self, path: &[u8]) -> Result<()> {
        self.tally.detail.deleted += 1;
        self.deleted.extend_from_slice(path);
        self.deleted.push(0);
        if self.deleted.len() >= CHUNK_BYTES { self.flush_deleted() } else { Ok(()) }
    }

    pub fn finish(mut self) -> Result<Tally> {
        while let Some(gone) = self.parent.as_mut().map(IndexReader::take).transpose()?.flatten() {
            self.delete(&gone.path.0)?;
        }
        self.archive.extend_from_slice(&END);
        self.flush_archive()?;
        let entries = self.tally.detail.entries;
        end_line(&mut self.index, entries)?;
        self.flush_index()?;
        self.flush_deleted()?;
        self.send(Flow::Done)?;
        Ok(self.tally)
    }
}

impl Visitor for Recorder {
    fn before(&mut self, found: &Found) -> Result<Option<Entry>> {
        let Some(parent) = &mut self.parent else {
            return Ok(None);
        };
        let mut gone = Vec::new();
        let known = parent.advance_to(&found.path, |entry| {
            gone.push(entry.path.0);
            Ok(())
        })?;
        for path in gone {
            self.delete(&path)?;
        }
        // a directory in the place of something else, or the other way round: the old must go first
        if let Some(entry) = &known
            && super::entry::kind_of(&found.stat) != Some(entry.kind)
        {
            self.delete(&found.path)?;
        }
        Ok(known)
    }

    fn carried(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        while let Some(next) = self.parent.as_ref().and_then(IndexReader::peek) {
            if path_order(&next.path.0, path).is_ge() {
                break;
            }
            let gone = self.parent.as_mut().map(IndexReader::take).transpose()?.flatten();
            if let Some(entry) = gone {
                self.delete(&entry.path.0)?;
            }
        }
        match &mut self.parent {
            Some(parent) => parent.take_within(path),
            None => Ok(None),
        }
    }

    fn holds(&self, known: &Entry, found: &Found) -> bool {
        known.holds_for(&found.stat, self.since)
    }

    fn bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        if bytes.len() > COLLECTED_BYTES_MAX {
            self.flush_archive()?;
            return self.send(Flow::Archive(bytes.into()));
        }
        self.archive.extend_from_slice(&bytes);
        if self.archive.len() >= CHUNK_BYTES { self.flush_archive() } else { Ok(()) }
    }

    fn entry(&mut self, entry: Entry, change: Change) -> Result<()> {
        self.tally.add(&entry, change, self.started);
        line(&mut self.index, &entry)?;
        if self.index.len() >= CHUNK_BYTES { self.flush_index() } else { Ok(()) }
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.tally.trouble(trouble);
    }
}
