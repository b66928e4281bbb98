//! Buffers that are used again. Fresh pages are dear on virtual machines, so a block goes back to its pool when the last
//! user of its bytes lets go of it, wherever that is.
//!
//! Blocks begin on a page boundary, so that a storage adapter may write whole ones with direct I/O. They are cut from
//! slabs that are large enough to be mapped by themselves: pages that were never touched cost nothing, and all of them
//! are given back to the system with the pool, which small allocations from the heap would not be.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// Large enough for efficient direct writes, small enough that thousands of small artifacts do not hurt.
pub const BLOCK_BYTES: usize = 1024 * 1024;
const PAGE_BYTES: usize = 4096;
/// More than 32 MiB, above which glibc always maps and unmaps.
const SLAB_BLOCKS: usize = 40;

#[derive(Default)]
pub struct BlockPool {
    free: Mutex<Vec<BytesMut>>,
    live: AtomicUsize,
    live_max: AtomicUsize,
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool").field("live", &self.live.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

impl BlockPool {
    /// An empty block. Never waits: the callers bound how many are in use.
    pub fn take(self: &Arc<Self>) -> Block {
        let memory = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.is_empty() {
                cut_slab(&mut free);
            }
            free.pop().unwrap_or_else(|| BytesMut::zeroed(BLOCK_BYTES))
        };
        let live = self.live.fetch_add(1, Ordering::Relaxed) + 1;
        self.live_max.fetch_max(live, Ordering::Relaxed);
        Block { filled: 0, memory, pool: self.clone() }
    }

    /// Most blocks ever in use at once.
    pub fn live_max(&self) -> usize {
        self.live_max.load(Ordering::Relaxed)
    }
}

fn cut_slab(free: &mut Vec<BytesMut>) {
    let mut slab = BytesMut::zeroed(SLAB_BLOCKS * BLOCK_BYTES + PAGE_BYTES);
    // `align_offset` may decline to answer; the blocks are then merely not aligned
    let start = slab.as_ptr().align_offset(PAGE_BYTES);
    drop(slab.split_to(if start < PAGE_BYTES { start } else { 0 }));
    free.extend((0..SLAB_BLOCKS).map(|_| slab.split_to(BLOCK_BYTES)));
    // the first pages are used first, and again first
    free.reverse();
}

/// Up to [`BLOCK_BYTES`] bytes, filled from the front.
pub struct Block {
    memory: BytesMut,
    filled: usize,
    pool: Arc<BlockPool>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("filled", &self.filled).finish_non_exhaustive()
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
        &mut self.memory[self.filled..]
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
        &self.memory[..self.filled]
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
        assert_eq!(blocks.iter().map(Block::len).collect::<Vec<_>>(), [BLOCK_BYTES, 3]);
        let bytes: Vec<Bytes> = blocks.into_iter().map(Block::into_bytes).collect();
        let reader = bytes[1].slice(1..);
        drop(bytes);
        assert_eq!(reader, [7, 7].as_slice());
        assert_eq!(pool.live.load(Ordering::Relaxed), 1);
        drop(reader);
        let again = pool.take();
        assert!(again.is_empty());
        assert_eq!((pool.live.load(Ordering::Relaxed), pool.live_max()), (1, 2));
        assert_eq!(pool.free.lock().unwrap().len(), SLAB_BLOCKS - 1);
    }

    #[test]
    fn blocks_begin_on_a_page() {
        let pool = Arc::new(BlockPool::default());
        for mut block in (0..2 * SLAB_BLOCKS).map(|_| pool.take()).collect::<Vec<_>>() {
            assert_eq!(block.spare().as_ptr().align_offset(PAGE_BYTES), 0);
            assert_eq!(block.spare().len(), BLOCK_BYTES);
        }
    }
}
