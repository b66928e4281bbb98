//! Writes files whose size is known: large ones past the page cache, which costs a fraction of the processor time.
//!
//! Where the file system refuses that, the same bytes go the usual way. A file is created here or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{IoContext, Result};

/// Enough for every block size in use.
const ALIGNMENT_BYTES: usize = 4096;
const BLOCK_BYTES: usize = 1 << 20;
/// Smaller files are not worth the set-up.
const DIRECT_BYTES_MIN: u64 = 256 * 1024;
const FILE_MODE: u32 = 0o600;

/// Room for one block at an aligned address; used for one file after the other.
#[derive(Debug)]
pub struct Block {
    room: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Default for Block {
    fn default() -> Self {
        let room = vec![0; BLOCK_BYTES + ALIGNMENT_BYTES];
        let start = room.as_ptr().align_offset(ALIGNMENT_BYTES).min(ALIGNMENT_BYTES);
        Self { room, start, filled: 0 }
    }
}

impl Block {
    /// Takes what fits of `bytes` and gives how much that was.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(BLOCK_BYTES - self.filled);
        let at = self.start + self.filled;
        self.room[at..at + n].copy_from_slice(&bytes[..n]);
        self.filled += n;
        n
    }

    fn is_full(&self) -> bool {
        self.filled == BLOCK_BYTES
    }

    fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.filled]
    }
}

/// One file being written.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Only whole aligned blocks may be written.
    Direct,
    Cached,
}

impl NewFile {
    /// Fails when something is there already, a link included.
    pub fn create(path: &Path, bytes_expected: u64) -> Result<Self> {
        if bytes_expected >= DIRECT_BYTES_MIN
            && let Ok(file) = open(path, OFlags::DIRECT | OFlags::NOFOLLOW)
        {
            return Ok(Self { file, path: path.to_owned(), way: Way::Direct });
        }
        // a file system that refuses direct writes may have created the file before it refused
        let file = match open(path, OFlags::NOFOLLOW) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && bytes_expected >= DIRECT_BYTES_MIN => {
                let empty = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0);
                if empty {
                    std::fs::remove_file(path).or_io("create file", path)?;
                }
                open(path, OFlags::NOFOLLOW)
            }
            other => other,
        };
        Ok(Self { file: file.or_io("create file", path)?, path: path.to_owned(), way: Way::Cached })
    }

    pub fn write(&mut self, mut bytes: &[u8], block: &mut Block) -> Result<()> {
        if self.way == Way::Cached {
            return self.file.write_all(bytes).or_io("write file", &self.path);
        }
        while !bytes.is_empty() {
            bytes = &bytes[block.take(bytes)..];
            if block.is_full() {
                self.flush(block)?;
            }
        }
        Ok(())
    }

    /// Writes the rest. Nothing is durable yet: callers sync the file system once.
    pub fn finish(mut self, block: &mut Block) -> Result<()> {
        self.flush(block)
    }

    fn flush(&mut self, block: &mut Block) -> Result<()> {
        if block.filled == 0 {
            return Ok(());
        }
        if self.way == Way::Direct && !block.filled.is_multiple_of(ALIGNMENT_BYTES) {
            self.go_cached()?;
        }
        let written = self.file.write_all(block.bytes());
        block.filled = 0;
        written.or_io("write file", &self.path)
    }

    fn go_cached(&mut self) -> Result<()> {
        let io = |e: rustix::io::Errno| std::io::Error::from(e);
        let flags = rustix::fs::fcntl_getfl(&self.file).map_err(io).or_io("write file", &self.path)?;
        rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)
            .map_err(io)
            .or_io("write file", &self.path)?;
        self.way = Way::Cached;
        Ok(())
    }
}

fn open(path: &Path, flags: OFlags) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_length_come_out_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let mut block = Block::default();
        for length in [0, 1, 4096, 300_000, BLOCK_BYTES, 3 * BLOCK_BYTES + 4097] {
            let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let path = dir.path().join(length.to_string());
            let mut file = NewFile::create(&path, length as u64).unwrap();
            for part in content.chunks(70_001) {
                file.write(part, &mut block).unwrap();
            }
            file.finish(&mut block).unwrap();
            assert!(std::fs::read(&path).unwrap() == content, "length {length}");
        }
    }

    #[test]
    fn a_file_or_link_that_is_there_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("outside"), &path).unwrap();
        assert!(NewFile::create(&path, 1).is_err());
        assert!(NewFile::create(&path, 1 << 20).is_err());
        assert!(!dir.path().join("outside").try_exists().unwrap());
    }
}
