//! A moving window over the bytes of an RDB, with the checksum of what was consumed.
//!
//! Memory holds what has come and is not consumed, and from a mark on what was consumed too. A length read from the data
//! never decides an allocation: buffers grow only with bytes that have really come.

use bytes::Bytes;
use crc::{CRC_64_REDIS, Crc, Digest, Table};

use super::{corrupt, decimal, lzf};
use crate::error::Result;

pub(super) static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// Where the bytes come from; may block.
pub trait Chunks {
    /// `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>>;
}

impl<I: Iterator<Item = Bytes>> Chunks for I {
    fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(Iterator::next(self))
    }
}

pub struct Window<C> {
    chunks: C,
    buffer: Vec<u8>,
    at: usize,
    mark: Option<usize>,
    /// Before this index everything is in the checksum.
    summed: usize,
    sum: Digest<'static, u64, Table<16>>,
    /// Bytes that were dropped from the front of the buffer.
    dropped: u64,
    packed: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Plain(u64),
    /// A string in a special encoding.
    Encoded(u8),
}

impl<C: Chunks> Window<C> {
    pub fn new(chunks: C) -> Self {
        Self {
            chunks,
            buffer: Vec::new(),
            at: 0,
            mark: None,
            summed: 0,
            sum: CRC.digest(),
            dropped: 0,
            packed: Vec::new(),
        }
    }

    fn sum_up(&mut self) {
        self.sum.update(&self.buffer[self.summed..self.at]);
        self.summed = self.at;
    }

    /// Drops what is not needed and takes the next chunk. `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        let Some(chunk) = self.chunks.next()? else {
            return Ok(false);
        };
        self.sum_up();
        let keep = self.mark.unwrap_or(self.at);
        let kept = self.buffer.len() - keep;
        // moving no more than is dropped keeps the cost of a long marked value linear
        if keep >= kept {
            self.buffer.copy_within(keep.., 0);
            self.buffer.truncate(kept);
            self.at -= keep;
            self.summed -= keep;
            self.mark = self.mark.map(|m| m - keep);
            self.dropped += keep as u64;
        }
        self.buffer.extend_from_slice(&chunk);
        Ok(true)
    }

    fn need(&mut self, n: usize) -> Result<()> {
        while self.buffer.len() - self.at < n {
            if !self.fill()? {
                return Err(corrupt("it ends early"));
            }
        }
        Ok(())
    }

    pub fn byte(&mut self) -> Result<u8> {
        self.need(1)?;
        let byte = self.buffer[self.at];
        self.at += 1;
        Ok(byte)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.need(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.buffer[self.at..self.at + N]);
        self.at += N;
        Ok(array)
    }

    /// Appends `n` raw bytes to `out`.
    pub fn append(&mut self, n: u64, out: &mut Vec<u8>) -> Result<()> {
        let mut left = n;
        while left > 0 {
            self.need(1)?;
            let here = (self.buffer.len() - self.at).min(usize::try_from(left).unwrap_or(usize::MAX));
            out.extend_from_slice(&self.buffer[self.at..self.at + here]);
            self.at += here;
            left -= here as u64;
        }
        Ok(())
    }

    pub fn length(&mut self) -> Result<Length> {
        let first = self.byte()?;
        let low = first & 0x3f;
        Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(u64::from(low)),
            (1, _) => Length::Plain(u64::from(low) << 8 | u64::from(self.byte()?)),
            (3, _) => Length::Encoded(low),
            (_, 0x80) => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            (_, 0x81) => Length::Plain(u64::from_be_bytes(self.array()?)),
            _ => return Err(corrupt("a length is encoded in an unknown way")),
        })
    }

    pub fn plain_length(&mut self) -> Result<u64> {
        match self.length()? {
            Length::Plain(n) => Ok(n),
            Length::Encoded(_) => Err(corrupt("a string stands where a length must be")),
        }
    }

    /// Milliseconds since 1970 as the server stores them.
    pub fn milliseconds(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Appends one string, whatever its encoding, to `out`.
    pub fn append_string(&mut self, out: &mut Vec<u8>) -> Result<()> {
        match self.length()? {
            Length::Plain(n) => self.append(n, out),
            Length::Encoded(0) => {
                let n = i8::from_le_bytes(self.array()?);
                decimal::push(i64::from(n), out);
                Ok(())
            }
            Length::Encoded(1) => {
                let n = i16::from_le_bytes(self.array()?);
                decimal::push(i64::from(n), out);
                Ok(())
            }
            Length::Encoded(2) => {
                let n = i32::from_le_bytes(self.array()?);
                decimal::push(i64::from(n), out);
                Ok(())
            }
            Length::Encoded(3) => {
                let packed_len = self.plain_length()?;
                let len = self.plain_length()?;
                let mut packed = std::mem::take(&mut self.packed);
                packed.clear();
                let read = self.append(packed_len, &mut packed);
                let result = read.and_then(|()| lzf::decompress(&packed, len, out));
                self.packed = packed;
                result
            }
            Length::Encoded(_) => Err(corrupt("a string is encoded in an unknown way")),
        }
    }

    /// From here on consumed bytes are kept, until the mark is taken away.
    pub fn set_mark(&mut self) {
        self.mark = Some(self.at);
    }

    pub fn marked(&self) -> &[u8] {
        &self.buffer[self.mark.unwrap_or(self.at)..self.at]
    }

    pub fn clear_mark(&mut self) {
        self.mark = None;
    }

    /// Checksum of everything consumed so far.
    pub fn checksum(&mut self) -> u64 {
        self.sum_up();
        self.sum.clone().finalize()
    }

    /// Bytes consumed so far.
    pub fn offset(&self) -> u64 {
        self.dropped + self.at as u64
    }

    pub fn is_at_end(&mut self) -> Result<bool> {
        while self.at == self.buffer.len() {
            if !self.fill()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(bytes: &[u8], size: usize) -> Window<impl Chunks> {
        let parts: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        Window::new(parts.into_iter())
    }

    #[test]
    fn marked_bytes_survive_across_chunks_and_the_checksum_covers_everything() {
        let all: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for size in [1, 7, 1024, 5000] {
            let mut w = window(&all, size);
            let mut out = Vec::new();
            w.append(100, &mut out).unwrap();
            w.set_mark();
            w.append(3000, &mut out).unwrap();
            assert_eq!(w.marked(), &all[100..3100]);
            w.clear_mark();
            w.append(1900, &mut out).unwrap();
            assert_eq!(out, all);
            assert_eq!(w.checksum(), CRC.checksum(&all));
            assert!(w.is_at_end().unwrap());
            assert_eq!(w.offset(), 5000);
        }
    }

    #[test]
    fn a_huge_claimed_length_ends_with_the_data() {
        let mut out = Vec::new();
        let mut bytes = vec![0x81];
        bytes.extend(u64::MAX.to_be_bytes());
        bytes.extend([1, 2, 3]);
        assert!(window(&bytes, 4).append_string(&mut out).is_err());
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn the_checksum_is_the_one_that_redis_uses() {
        assert_eq!(CRC.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }
}
