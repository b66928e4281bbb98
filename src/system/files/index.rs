//! The index artifact: a line with what it belongs to, a line for every entry in the order of a walk, a line with their
//! number. JSON lines, so that a person can read it with common tools.

use std::io::{BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};

use super::entry::{Entry, is_within, path_order};
use crate::domain::id::BackupId;
use crate::error::{Error, ErrorKind, Result};

pub(super) const INDEX_VERSION: u32 = 1;
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// First line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexHead {
    pub lifeboat_files_index: u32,
    pub backup: BackupId,
    /// When the walk began, by the clock of this machine: seconds and nanoseconds.
    pub started: (i64, u32),
    /// Patterns of what was left out.
    pub exclude: Vec<String>,
}

/// Last line; without it the index is not whole.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexEnd {
    entries: u64,
}

pub(super) fn line(out: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(|e| Error::bug("write index line").because(e))?;
    out.push(b'\n');
    Ok(())
}

pub(super) fn end_line(out: &mut Vec<u8>, entries: u64) -> Result<()> {
    line(out, &IndexEnd { entries })
}

/// Entries one by one. Errors: `Corrupt` for anything that is not a whole index.
#[derive(Debug)]
pub(super) struct IndexReader<R> {
    from: BufReader<R>,
    buffer: Vec<u8>,
    head: IndexHead,
    next: Option<Entry>,
    entries: u64,
}

impl<R: Read> IndexReader<R> {
    pub fn open(from: R) -> Result<Self> {
        let mut from = BufReader::with_capacity(256 * 1024, from);
        let mut buffer = Vec::new();
        read_line(&mut from, &mut buffer)?;
        let head: IndexHead = parse(&buffer)?;
        if head.lifeboat_files_index != INDEX_VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "read index")
                .with("version", head.lifeboat_files_index)
                .hint("it was written by a newer lifeboat; use that version"));
        }
        let mut reader = Self { from, buffer, head, next: None, entries: 0 };
        reader.next = reader.read()?;
        Ok(reader)
    }

    pub fn head(&self) -> &IndexHead {
        &self.head
    }

    pub fn peek(&self) -> Option<&Entry> {
        self.next.as_ref()
    }

    pub fn take(&mut self) -> Result<Option<Entry>> {
        let Some(entry) = self.next.take() else {
            return Ok(None);
        };
        self.next = self.read()?;
        if let Some(next) = &self.next
            && path_order(&entry.path.0, &next.path.0).is_ge()
        {
            return Err(corrupt("its entries are not in order"));
        }
        Ok(Some(entry))
    }

    /// Takes the entry at `path`, giving every entry before it to `skipped`.
    pub fn advance_to(
        &mut self,
        path: &[u8],
        mut skipped: impl FnMut(Entry) -> Result<()>,
    ) -> Result<Option<Entry>> {
        while let Some(next) = &self.next {
            match path_order(&next.path.0, path) {
                std::cmp::Ordering::Less => {
                    if let Some(entry) = self.take()? {
                        skipped(entry)?;
                    }
                }
                std::cmp::Ordering::Equal => return self.take(),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Takes the next entry if it is `dir` or below it.
    pub fn take_within(&mut self, dir: &[u8]) -> Result<Option<Entry>> {
        match &self.next {
            Some(next) if is_within(&next.path.0, dir) => self.take(),
            Some(_) | None => Ok(None),
        }
    }

    fn read(&mut self) -> Result<Option<Entry>> {
        read_line(&mut self.from, &mut self.buffer)?;
        if self.buffer.starts_with(b"{\"entries\"") {
            let end: IndexEnd = parse(&self.buffer)?;
            // to the end of the stream, so that an error behind the last line is seen
            read_to_end(&mut self.from)?;
            return match end.entries == self.entries {
                true => Ok(None),
                false => Err(corrupt("entries are missing")),
            };
        }
        self.entries += 1;
        parse(&self.buffer).map(Some)
    }
}

fn read_line(from: &mut impl BufRead, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    let read = from.take(LINE_BYTES_MAX).read_until(b'\n', buffer);
    read.map_err(|e| read_failed(&e))?;
    if buffer.last() == Some(&b'\n') { Ok(()) } else { Err(corrupt("it ends early")) }
}

fn read_to_end(from: &mut impl Read) -> Result<()> {
    std::io::copy(from, &mut std::io::sink()).map_err(|e| read_failed(&e))?;
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T> {
    serde_json::from_slice(line).map_err(|e| corrupt("a line is malformed").because(e))
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read index of files").why(why)
}

fn read_failed(error: &std::io::Error) -> Error {
    let kind = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<Error>())
        .map_or_else(|| crate::error::io_kind(error), Error::kind);
    Error::new(kind, "read index of files").why(error.to_string())
}
