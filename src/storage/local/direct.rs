//! Writing a file past the page cache. Owns the aligned buffers and the way from `O_DIRECT` back to buffered writing.
//!
//! A buffered write costs several times the CPU of a direct one on virtual machines, most of it for fresh pages.
//! So large bodies are gathered in reused, aligned buffers and written with `O_DIRECT`; where the file system refuses
//! that, the same bytes are written through the page cache.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::OFlags;

/// Alignment of memory, offset and length that every block device accepts.
const ALIGN_BYTES: usize = 4096;
/// One write call; large enough that the call itself costs nothing.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// Bodies below this are written through the page cache: the padded tail would cost more than it saves.
pub(super) const DIRECT_BYTES_MIN: usize = 1024 * 1024;
/// Idle buffers kept for the next object.
const BUFFERS_KEPT_MAX: usize = 4;

/// `PIECE_BYTES` of memory that begin at a multiple of `ALIGN_BYTES`.
struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let bytes = vec![0; PIECE_BYTES + ALIGN_BYTES];
        let start = (ALIGN_BYTES - bytes.as_ptr().addr() % ALIGN_BYTES) % ALIGN_BYTES;
        Self { bytes, start }
    }

    fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + PIECE_BYTES]
    }
}

/// Buffers between two objects. Fresh memory is what makes writing expensive, so they are kept.
#[derive(Default)]
pub(super) struct BufferPool {
    idle: Mutex<Vec<AlignedBuffer>>,
}

impl std::fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("BufferPool").field("idle", &idle).finish()
    }
}

impl BufferPool {
    fn take(&self) -> AlignedBuffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(AlignedBuffer::new)
    }

    fn give(&self, buffer: AlignedBuffer) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < BUFFERS_KEPT_MAX {
            idle.push(buffer);
        }
    }
}

/// Creates `path`, which must not exist, and writes `parts` into it, durable on return.
/// `between` runs before every piece and may stop the writing with an error.
pub(super) fn write_new(
    path: &Path,
    parts: &[Bytes],
    pool: &BufferPool,
    between: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length < DIRECT_BYTES_MIN {
        return write_buffered(&mut create(path, OFlags::empty())?, parts, between);
    }
    let mut file = match create(path, OFlags::DIRECT) {
        Err(e) if is_refusal(&e) => {
            // some file systems make the file and refuse to open it
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
            return write_buffered(&mut create(path, OFlags::empty())?, parts, between);
        }
        other => other?,
    };
    let mut buffer = pool.take();
    let written = write_direct(&mut file, parts, length, &mut buffer, between);
    pool.give(buffer);
    written
}

fn is_refusal(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::INVAL, rustix::io::Errno::OPNOTSUPP]
        .iter()
        .any(|refusal| code == Some(refusal.raw_os_error()))
}

fn create(path: &Path, extra: OFlags) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    #[expect(clippy::cast_possible_wrap, reason = "open flags are bits; the kernel takes them as int")]
    options.custom_flags(flags.bits() as i32);
    options.open(path)
}

fn write_buffered(
    file: &mut File,
    parts: &[Bytes],
    between: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    for part in parts {
        for piece in part.chunks(PIECE_BYTES) {
            between()?;
            file.write_all(piece)?;
        }
    }
    file.sync_all()
}

fn write_direct(
    file: &mut File,
    parts: &[Bytes],
    length: usize,
    buffer: &mut AlignedBuffer,
    between: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut filled = 0;
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let space = &mut buffer.space()[filled..];
            let taken = rest.len().min(space.len());
            space[..taken].copy_from_slice(&rest[..taken]);
            (rest, filled) = (&rest[taken..], filled + taken);
            if filled == PIECE_BYTES {
                between()?;
                write_piece(file, buffer.space())?;
                filled = 0;
            }
        }
    }
    if filled > 0 {
        between()?;
        let padded = filled.next_multiple_of(ALIGN_BYTES);
        let space = buffer.space();
        space[filled..padded].fill(0);
        write_piece(file, &space[..padded])?;
        file.set_len(length as u64)?;
    }
    file.sync_all()
}

/// Writes all of `piece`, going on through the page cache when the file system refuses direct writing.
fn write_piece(file: &mut File, piece: &[u8]) -> io::Result<()> {
    let mut rest = piece;
    let mut direct = is_direct(file)?;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // also where a short write left an unaligned rest
            Err(e) if direct && is_refusal(&e) => {
                stop_direct(file)?;
                direct = false;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn is_direct(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fcntl_getfl(file)?.contains(OFlags::DIRECT))
}

fn stop_direct(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags.difference(OFlags::DIRECT))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 251 + n) as u8).collect()
    }

    fn cut(body: &[u8], at: usize) -> Vec<Bytes> {
        body.chunks(at).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn every_length_around_the_block_and_piece_limits_comes_back_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let pool = BufferPool::default();
        let mut lengths = vec![0, 1, 4095, 4096, 4097];
        for edge in [DIRECT_BYTES_MIN, PIECE_BYTES, 2 * PIECE_BYTES] {
            lengths.extend([edge - 1, edge, edge + 1, edge + 4096]);
        }
        for length in lengths {
            let body = body(length);
            let path = dir.path().join(length.to_string());
            write_new(&path, &cut(&body, 300_007), &pool, &mut || Ok(())).unwrap();
            assert!(std::fs::read(&path).unwrap() == body, "{length}");
        }
    }

    #[test]
    fn a_reused_buffer_never_leaks_the_object_before_into_the_tail() {
        let dir = tempfile::tempdir().unwrap();
        let pool = BufferPool::default();
        let first = vec![0xff; PIECE_BYTES];
        write_new(&dir.path().join("a"), &[first.into()], &pool, &mut || Ok(())).unwrap();
        let second = vec![1; DIRECT_BYTES_MIN + 1];
        let path = dir.path().join("b");
        write_new(&path, &[second.clone().into()], &pool, &mut || Ok(())).unwrap();
        assert!(std::fs::read(path).unwrap() == second);
        assert_eq!(pool.idle.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_refused_direct_write_goes_on_through_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = create(&path, OFlags::DIRECT).unwrap();
        // an unaligned piece is what a file system refuses
        let odd = body(5000);
        write_piece(&mut file, &odd[1..]).unwrap();
        assert!(!is_direct(&file).unwrap());
        assert_eq!(std::fs::read(path).unwrap(), &odd[1..]);
    }
}
