//! Reads files too large for memory: announced first, streamed, and stored once more when they changed meanwhile (the
//! later one of two members with the same path wins). Leaves holes out.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::entry::{Entry, EntryKind, EntryState, Sha, attributes_hash, kind_of};
use super::grab::{Change, Fresh, Keep, Trouble, TroubleKind, member, open_file, read_up_to, same};
use super::scan::{Scan, Visitor};
use super::walk::{Found, is_gone};
use crate::archive::{Extent, attributes_of, encode, pad};
use crate::error::Result;

/// A large file that changes is stored again so many times.
const LARGE_TRIES: u32 = 3;
const STREAM_BYTES: usize = 1024 * 1024;
/// A file with more parts is stored with its holes filled.
const EXTENTS_MAX: usize = 100_000;

impl Scan<'_> {
    pub(super) fn large(
        &mut self,
        fresh: Fresh,
        visitor: &mut impl Visitor,
    ) -> Result<Option<(Entry, Change)>> {
        let Fresh { mut found, parent } = fresh;
        let mut stored: Option<Entry> = None;
        for attempt in 1..=LARGE_TRIES {
            match self.stream(&found, attempt, visitor)? {
                Ok((entry, true)) => return Ok(Some((entry, Change::Written))),
                Ok((entry, false)) => stored = Some(entry),
                Err(error) => {
                    if !is_gone(&error) {
                        let (path, what) = (found.path.clone(), TroubleKind::Unreadable(error));
                        visitor.trouble(Trouble { path, what });
                    }
                    break;
                }
            }
            let still_file = found.look_again().is_ok() && kind_of(&found.stat) == Some(EntryKind::File);
            if !still_file {
                break;
            }
        }
        // what is in the archive is in the index too, whatever became of the file
        Ok(match (stored, parent) {
            (Some(mut entry), _) => {
                entry.state = EntryState::Torn;
                Some((entry, Change::Written))
            }
            (None, Some(mut entry)) if found.look_again().is_ok() => {
                entry.state = EntryState::Stale;
                Some((entry, Change::Unchanged))
            }
            (None, _) => None,
        })
    }

    /// Stores a large file once. The entry and whether the file held still; the inner error before anything was stored.
    fn stream(
        &self,
        found: &Found,
        attempt: u32,
        visitor: &mut impl Visitor,
    ) -> Result<io::Result<(Entry, bool)>> {
        let opened = open_file(found)
            .map_err(io::Error::from)
            .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, attributes_of(&fd)?, sparse_map(&fd)?, fd)));
        let (before, xattrs, sparse, fd) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if kind_of(&before) != Some(EntryKind::File) {
            return Ok(Err(Errno::NOENT.into()));
        }
        let mut entry = Entry::from_stat(&found.path, EntryKind::File, &before);
        entry.xattrs = attributes_hash(&xattrs);
        let mut file = member(&entry, xattrs);
        file.sparse = sparse;
        let mut chunk = Vec::new();
        if self.grabber.keep == Keep::Archive {
            encode(&file, &mut chunk);
        }
        let whole = [Extent { offset: 0, bytes: entry.size }];
        let extents = file.sparse.as_deref().unwrap_or(&whole);
        let (hash, complete) = self.content(&fd, extents, entry.size, chunk, visitor)?;
        entry.sha256 = Some(hash);
        if let Some(hook) = &self.grabber.hook {
            hook(&found.path, attempt);
        }
        let held = |after: Stat| complete && same(&before, &after);
        Ok(Ok((entry, rustix::fs::fstat(&fd).is_ok_and(held))))
    }

    /// Hands on the content and hashes it, holes as zeros. What the file lacks by now is filled up with zeros, because
    /// the header has announced it; then it is not complete.
    fn content(
        &self,
        fd: &OwnedFd,
        extents: &[Extent],
        size: u64,
        mut chunk: Vec<u8>,
        visitor: &mut impl Visitor,
    ) -> Result<(Sha, bool)> {
        let (mut hash, mut at, mut complete) = (Sha256::new(), 0, true);
        let keep = self.grabber.keep == Keep::Archive;
        let mut stored = 0;
        for extent in extents {
            hash_zeros(&mut hash, extent.offset - at);
            let mut offset = extent.offset;
            let mut left = extent.bytes;
            while left > 0 {
                self.job.check("read files")?;
                let n = usize::try_from(left).map_or(STREAM_BYTES, |left| left.min(STREAM_BYTES));
                let start = chunk.len();
                let read = read_up_to(fd, offset, n, &mut chunk).is_ok();
                complete &= read && chunk.len() == start + n;
                chunk.resize(start + n, 0);
                hash.update(&chunk[start..]);
                if keep {
                    visitor.bytes(std::mem::take(&mut chunk))?;
                } else {
                    self.job.progress().advance(n as u64);
                    chunk.clear();
                }
                left -= n as u64;
                offset += n as u64;
            }
            at = extent.offset + extent.bytes;
            stored += extent.bytes;
        }
        hash_zeros(&mut hash, size - at);
        if keep {
            chunk.extend_from_slice(pad(stored));
            visitor.bytes(chunk)?;
        }
        Ok((Sha(hash.finalize().into()), complete))
    }
}

fn hash_zeros(hash: &mut Sha256, mut bytes: u64) {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while bytes > 0 {
        let n = usize::try_from(bytes).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        hash.update(&ZEROS[..n]);
        bytes -= n as u64;
    }
}

/// Where the data of a file is, when it has holes worth leaving out.
fn sparse_map(fd: &OwnedFd) -> io::Result<Option<Vec<Extent>>> {
    let stat = rustix::fs::fstat(fd)?;
    let size = stat.st_size.cast_unsigned();
    if (stat.st_blocks as u64).saturating_mul(512) >= size {
        return Ok(None);
    }
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size && extents.len() <= EXTENTS_MAX {
        let start = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
            // only a hole is left
            Err(Errno::NXIO) => break,
            // a file system that knows no holes
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(None),
            result => result?,
        };
        let end = rustix::fs::seek(fd, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        extents.push(Extent { offset: start, bytes: end - start });
        at = end;
    }
    let whole = extents.len() == 1 && extents[0].bytes == size;
    if at < size {
        // GNU tar marks a hole at the end by an empty part there
        extents.push(Extent { offset: size, bytes: 0 });
    }
    Ok((!whole && extents.len() <= EXTENTS_MAX).then_some(extents))
}
