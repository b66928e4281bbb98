//! Buffers that are used again. Fresh pages are dear on virtual machines, so a block goes back to its pool when the last
//! user of its bytes lets go of it, wherever that is.
//!
//! Blocks begin on a page boundary, so that a storage adapter may write whole ones with direct I/O.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Large enough for efficient direct writes, small enough that thousands of small artifacts do not hurt.
pub const BLOCK_BYTES: usize = 1024 * 1024;
const PAGE_BYTES: usize = 4096;

#[derive(Default)]
pub struct BlockPool {
    free: Mutex<Vec<Vec<u8>>>,
    live: AtomicUsize,
    live_max: AtomicUsize,
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("live", &self.live.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl BlockPool {
    /// An empty block. Never waits: the callers bound how many are in use.
    pub fn take(self: &Arc<Self>) -> Block {
        let again = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = again.unwrap_or_else(|| vec![0; BLOCK_BYTES + PAGE_BYTES]);
        let live = self.live.fetch_add(1, Ordering::Relaxed) + 1;
        self.live_max.fetch_max(live, Ordering::Relaxed);
        // `align_offset` may decline to answer; the block is then merely not aligned
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        Block {
            start: if start < PAGE_BYTES { start } else { 0 },
            filled: 0,
            memory,
            pool: self.clone(),
        }
    }

    /// Most blocks ever in use at once.
    pub fn live_max(&self) -> usize {
        self.live_max.load(Ordering::Relaxed)
    }
}

/// Up to [`BLOCK_BYTES`] bytes, filled from the front.
pub struct Block {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
    pool: Arc<BlockPool>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl Block {
    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn is_full(&self) -> bool {
        self.filled == BLOCK_BYTES
    }

    /// The part that is not filled yet.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + self.filled..self.start + BLOCK_BYTES]
    }

    /// Counts the first `bytes` of the spare part as filled.
    pub fn grow(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(BLOCK_BYTES);
    }

    /// Copies as much of `bytes` as fits and says how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let fits = spare.len().min(bytes.len());
        spare[..fits].copy_from_slice(&bytes[..fits]);
        self.grow(fits);
        fits
    }

    /// The block goes back to its pool when the last clone of these bytes is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.live.fetch_sub(1, Ordering::Relaxed);
        let memory = std::mem::take(&mut self.memory);
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(memory);
    }
}

/// Appends `bytes` to a list of blocks.
pub fn append(blocks: &mut Vec<Block>, pool: &Arc<BlockPool>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match blocks.last_mut() {
            Some(last) if !last.is_full() => {
                let taken = last.fill(bytes);
                bytes = &bytes[taken..];
            }
            Some(_) | None => blocks.push(pool.take()),
        }
    }
}

pub fn total(blocks: &[Block]) -> usize {
    blocks.iter().map(Block::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_after_its_last_reader() {
        let pool = Arc::new(BlockPool::default());
        let mut blocks = Vec::new();
        append(&mut blocks, &pool, &vec![7; BLOCK_BYTES + 3]);
        assert_eq!(
            blocks.iter().map(Block::len).collect::<Vec<_>>(),
            [BLOCK_BYTES, 3]
        );
        let bytes: Vec<Bytes> = blocks.into_iter().map(Block::into_bytes).collect();
        let reader = bytes[1].slice(1..);
        drop(bytes);
        assert_eq!(reader, [7, 7].as_slice());
        assert_eq!(pool.live.load(Ordering::Relaxed), 1);
        drop(reader);
        let again = pool.take();
        assert!(again.is_empty());
        assert_eq!((pool.live.load(Ordering::Relaxed), pool.live_max()), (1, 2));
        assert_eq!(pool.free.lock().unwrap().len(), 1);
    }

    #[test]
    fn blocks_begin_on_a_page() {
        let mut block = Arc::new(BlockPool::default()).take();
        assert_eq!(block.spare().as_ptr().align_offset(PAGE_BYTES), 0);
        assert_eq!(block.spare().len(), BLOCK_BYTES);
    }
}
