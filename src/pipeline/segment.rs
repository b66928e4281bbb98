//! One segment: raw bytes → one zstd frame → one age file → SHA-256 of what is stored; and back.
//!
//! Encoding is one pass that frees raw blocks as it goes. Decoding checks size and checksum of the stored bytes first and
//! never makes more than the raw size that the manifest announced.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use age::Decryptor;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective::{ZSTD_e_continue, ZSTD_e_end};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective, get_error_name};

use super::block::{self, Block, BlockPool};
use super::digest;
use super::keys::{EncryptionKeys, Identities};
use super::seal::Sealer;
use crate::domain::manifest::{Segment, SegmentEncoding};
use crate::error::{Error, ErrorKind, Result};

pub const SEGMENT_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;
/// Below this, framing and one object per segment cost more than the data.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
pub const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
pub const ZSTD_LEVEL_DEFAULT: i32 = 3;
pub const ZSTD_LEVEL_MIN: i32 = -7;
pub const ZSTD_LEVEL_MAX: i32 = 22;
/// What zstd can emit in one step: one block and its header.
const FRAME_STEP_BYTES: usize = 128 * 1024 + 512;
const DECRYPT_STEP_BYTES: usize = 64 * 1024;

/// Every problem of an encoding at once, as `(key, message)`.
pub fn check_encoding(encoding: &SegmentEncoding) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let (bytes, level) = (encoding.segment_bytes, encoding.zstd_level);
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
        let allowed = format!("{bytes} is not in {SEGMENT_BYTES_MIN}..={SEGMENT_BYTES_MAX}");
        problems.push(("segment_bytes".to_owned(), allowed));
    }
    if !(ZSTD_LEVEL_MIN..=ZSTD_LEVEL_MAX).contains(&level) || level == 0 {
        let allowed = format!("{level} is not in {ZSTD_LEVEL_MIN}..={ZSTD_LEVEL_MAX} without 0");
        problems.push(("zstd_level".to_owned(), allowed));
    }
    if let Err(error) = EncryptionKeys::parse(&encoding.recipients) {
        problems.push(("recipients".to_owned(), error.to_string()));
    }
    problems
}

/// What one segment became.
#[derive(Debug)]
pub struct Encoded {
    pub parts: Vec<Bytes>,
    pub segment: Segment,
}

/// Encodes segments of one backup; used from several threads at once.
pub struct Encoder {
    level: i32,
    keys: EncryptionKeys,
    pool: Arc<BlockPool>,
    /// Contexts at rest. Making one costs megabytes of fresh pages.
    contexts: Mutex<Vec<Compressor>>,
}

struct Compressor {
    context: CCtx<'static>,
    step: Vec<u8>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("level", &self.level)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// `Config` naming every problem when the encoding is not allowed.
    pub fn new(encoding: &SegmentEncoding, pool: Arc<BlockPool>) -> Result<Self> {
        let problems = check_encoding(encoding);
        if !problems.is_empty() {
            let all: Vec<String> = problems.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            return Err(Error::new(ErrorKind::Config, "use segment encoding").why(all.join("; ")));
        }
        Ok(Self {
            level: encoding.zstd_level,
            keys: EncryptionKeys::parse(&encoding.recipients)?,
            pool,
            contexts: Mutex::default(),
        })
    }

    /// Encodes one segment; CPU-bound.
    pub fn encode(&self, raw: Vec<Block>) -> Result<Encoded> {
        let raw_bytes = block::total(&raw) as u64;
        let resting = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = resting.map_or_else(|| Compressor::new(self.level), Ok)?;
        let output = self
            .through(&mut compressor, raw, raw_bytes)
            .map_err(|e| Error::new(ErrorKind::Failed, "encode segment").because(e))?;
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        let segment = Segment {
            raw_bytes,
            stored_bytes: block::total(&output.blocks) as u64,
            sha256: hex::encode(output.hash.finalize()),
        };
        let parts = output.blocks.into_iter().map(Block::into_bytes).collect();
        Ok(Encoded { parts, segment })
    }

    fn through(&self, compressor: &mut Compressor, raw: Vec<Block>, raw_bytes: u64) -> io::Result<Output> {
        let mut output = Output { blocks: Vec::new(), hash: Sha256::new(), pool: self.pool.clone() };
        if self.keys.is_empty() {
            compressor.frame(raw, raw_bytes, &mut output)?;
            return Ok(output);
        }
        let mut sealer = Sealer::new(&self.keys, output)?;
        compressor.frame(raw, raw_bytes, &mut sealer)?;
        sealer.finish()
    }
}

impl Compressor {
    fn new(level: i32) -> Result<Self> {
        let failed = |code| Error::new(ErrorKind::Failed, "set up compression").why(get_error_name(code));
        let mut context = CCtx::try_create()
            .ok_or_else(|| Error::new(ErrorKind::Exhausted, "allocate memory for compression"))?;
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
        ] {
            context.set_parameter(parameter).map_err(failed)?;
        }
        Ok(Self { context, step: vec![0; FRAME_STEP_BYTES] })
    }

    /// Writes one whole frame. Raw blocks are let go as soon as they are compressed.
    fn frame(&mut self, raw: Vec<Block>, raw_bytes: u64, mut to: impl Write) -> io::Result<()> {
        let failed = |code| io::Error::other(get_error_name(code));
        self.context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        self.context.set_pledged_src_size(Some(raw_bytes)).map_err(failed)?;
        let count = raw.len();
        for (n, block) in raw.into_iter().enumerate() {
            let last = n + 1 == count;
            let directive = if last { ZSTD_e_end } else { ZSTD_e_continue };
            let mut input = InBuffer::around(block.as_ref());
            loop {
                let mut out = OutBuffer::around(&mut self.step[..]);
                let left = self.context.compress_stream2(&mut out, &mut input, directive).map_err(failed)?;
                to.write_all(out.as_slice())?;
                let done = if last { left == 0 } else { input.pos() == block.len() };
                if done {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Collects stored bytes and hashes them while they are in the cache.
struct Output {
    blocks: Vec<Block>,
    hash: Sha256,
    pool: Arc<BlockPool>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        block::append(&mut self.blocks, &self.pool, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn corrupt(op: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, op).hint(
        "this copy of the segment is damaged: restore from another destination's copy or from another backup; `lifeboat verify` lists every damaged segment",
    )
}

/// Compares stored bytes with what the manifest says. Needs no key.
pub fn check_stored(segment: &Segment, stored: &Bytes) -> Result<()> {
    let found = stored.len() as u64;
    if found != segment.stored_bytes {
        return Err(corrupt("accept size of segment")
            .with("expected", segment.stored_bytes)
            .with("found", found));
    }
    let sum = digest(std::slice::from_ref(stored));
    if sum != segment.sha256 {
        return Err(corrupt("accept checksum of segment")
            .with("expected", &segment.sha256)
            .with("found", sum));
    }
    Ok(())
}

/// Decodes segments; used from several threads at once.
pub struct Decoder {
    identities: Arc<Identities>,
    pool: Arc<BlockPool>,
    contexts: Mutex<Vec<DCtx<'static>>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("identities", &self.identities).finish_non_exhaustive()
    }
}

impl Decoder {
    pub fn new(identities: Arc<Identities>, pool: Arc<BlockPool>) -> Self {
        Self { identities, pool, contexts: Mutex::default() }
    }

    /// Checks, decrypts and decompresses one segment; CPU-bound.
    ///
    /// `Corrupt` when anything is not as the manifest says, `Denied` when no identity fits.
    pub fn decode(
        &self,
        encoding: &SegmentEncoding,
        segment: &Segment,
        stored: &Bytes,
    ) -> Result<Vec<Block>> {
        check_stored(segment, stored)?;
        if encoding.recipients.is_empty() {
            return self.decompress(segment, &stored[..]);
        }
        let decryptor = Decryptor::new_buffered(&stored[..])
            .map_err(|e| corrupt("read encryption header of segment").because(e))?;
        match decryptor.decrypt(self.identities.all()) {
            Ok(reader) => self.decompress(segment, reader),
            Err(age::DecryptError::NoMatchingKeys) => Err(self.no_key(encoding)),
            Err(error) => Err(corrupt("decrypt segment").because(error)),
        }
    }

    fn no_key(&self, encoding: &SegmentEncoding) -> Error {
        let held = match self.identities.public_keys() {
            [] => "none".to_owned(),
            keys => keys.join(", "),
        };
        Error::new(ErrorKind::Denied, "decrypt segment")
            .with("keys held", held)
            .why("no key at hand fits")
            .hint(format!("give the identity file of one of: {}", encoding.recipients.join(", ")))
    }

    fn decompress(&self, segment: &Segment, from: impl Read) -> Result<Vec<Block>> {
        let resting = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut context = match resting {
            Some(context) => context,
            None => DCtx::try_create()
                .ok_or_else(|| Error::new(ErrorKind::Exhausted, "allocate memory for decompression"))?,
        };
        context
            .reset(ResetDirective::SessionOnly)
            .map_err(|code| Error::bug("reset decompression").why(get_error_name(code)))?;
        let blocks = self.unframe(&mut context, segment.raw_bytes, from)?;
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).push(context);
        Ok(blocks)
    }

    /// Reads exactly one frame of exactly `raw_bytes`, to the end of `from`.
    fn unframe(
        &self,
        context: &mut DCtx<'static>,
        raw_bytes: u64,
        mut from: impl Read,
    ) -> Result<Vec<Block>> {
        let mut step = vec![0; DECRYPT_STEP_BYTES];
        let mut blocks: Vec<Block> = Vec::new();
        let mut left = usize::try_from(raw_bytes).map_err(|e| corrupt("hold segment").because(e))?;
        // catches what a frame holds beyond the announced size
        let mut excess = [0; 1];
        'read: loop {
            let read = read_step(&mut from, &mut step)?;
            if read == 0 {
                return Err(corrupt("decompress segment").why("it ends within the frame"));
            }
            let mut input = InBuffer::around(&step[..read]);
            loop {
                if left > 0 && blocks.last().is_none_or(Block::is_full) {
                    blocks.push(self.pool.take());
                }
                let spare = match blocks.last_mut() {
                    Some(last) if left > 0 => {
                        let spare = last.spare();
                        let fits = spare.len().min(left);
                        &mut spare[..fits]
                    }
                    Some(_) | None => &mut excess[..],
                };
                let room = spare.len();
                let mut out = OutBuffer::around(spare);
                let hint = context
                    .decompress_stream(&mut out, &mut input)
                    .map_err(|code| corrupt("decompress segment").why(get_error_name(code)))?;
                let made = out.pos();
                if made > left {
                    return Err(corrupt("accept size of segment")
                        .with("announced", raw_bytes)
                        .why("it holds more raw bytes than the manifest announces"));
                }
                left -= made;
                if let Some(last) = blocks.last_mut() {
                    last.grow(made);
                }
                if hint == 0 {
                    if input.pos() < read || read_step(&mut from, &mut step)? > 0 {
                        return Err(corrupt("decompress segment").why("bytes follow the frame"));
                    }
                    break 'read;
                }
                if input.pos() == read && made < room {
                    break;
                }
            }
        }
        if left > 0 {
            return Err(corrupt("accept size of segment")
                .with("announced", raw_bytes)
                .with("missing", left)
                .why("it holds fewer raw bytes than the manifest announces"));
        }
        Ok(blocks)
    }
}

fn read_step(from: &mut impl Read, step: &mut [u8]) -> Result<usize> {
    loop {
        match from.read(step) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(corrupt("decrypt segment").because(e)),
            Ok(read) => return Ok(read),
        }
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
