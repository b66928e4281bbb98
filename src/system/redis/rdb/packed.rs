//! Elements inside packed encodings: listpack, ziplist, intset, zipmap.
//!
//! Everything is checked while walking: sizes, back links, counts and the end mark. Nothing is taken on trust, and
//! nothing is copied.

use super::{corrupt, decimal};
use crate::error::Result;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element<'a> {
    Bytes(&'a [u8]),
    Integer(i64),
}

impl Element<'_> {
    /// The text that a client would see.
    pub fn with_bytes<T>(self, work: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::Bytes(bytes) => work(bytes),
            Self::Integer(n) => work(decimal::format(n, &mut [0; 20])),
        }
    }

    pub fn integer(self) -> Result<i64> {
        match self {
            Self::Integer(n) => Ok(n),
            Self::Bytes(_) => Err(corrupt("a text stands where a number must be")),
        }
    }
}

type Sink<'a> = dyn FnMut(Element<'_>) -> Result<()> + 'a;

fn slice(blob: &[u8], at: usize, len: usize) -> Result<&[u8]> {
    at.checked_add(len)
        .and_then(|end| blob.get(at..end))
        .ok_or_else(|| corrupt("a packed value reaches beyond its end"))
}

fn array<const N: usize>(blob: &[u8], at: usize) -> Result<[u8; N]> {
    let mut array = [0; N];
    array.copy_from_slice(slice(blob, at, N)?);
    Ok(array)
}

/// Little-endian signed number of 1 to 8 bytes.
fn signed(blob: &[u8], at: usize, bytes: usize) -> Result<i64> {
    let mut wide = [0; 8];
    wide[8 - bytes..].copy_from_slice(slice(blob, at, bytes)?);
    Ok(i64::from_le_bytes(wide) >> (64 - 8 * bytes))
}

fn u32_at(blob: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array(blob, at)?))
}

fn u16_at(blob: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array(blob, at)?))
}

const LISTPACK_HEADER: usize = 6;
const COUNT_UNKNOWN: u16 = u16::MAX;
const END: u8 = 0xff;

/// Calls `sink` for every element of a listpack.
pub fn listpack(blob: &[u8], sink: &mut Sink<'_>) -> Result<()> {
    if u32_at(blob, 0)? as usize != blob.len() {
        return Err(corrupt("a listpack lies about its size"));
    }
    let (count, mut at, mut seen) = (u16_at(blob, 4)?, LISTPACK_HEADER, 0u64);
    while slice(blob, at, 1)?[0] != END {
        let (element, len) = listpack_entry(blob, at)?;
        at = check_backlink(blob, at, len)?;
        seen += 1;
        sink(element)?;
    }
    if at + 1 != blob.len() || (count != COUNT_UNKNOWN && u64::from(count) != seen) {
        return Err(corrupt("a listpack lies about its count"));
    }
    Ok(())
}

/// The element at `at` and how many bytes it takes, its back link not counted.
fn listpack_entry(blob: &[u8], at: usize) -> Result<(Element<'_>, usize)> {
    let first = slice(blob, at, 1)?[0];
    let text = |head: usize, len: usize| -> Result<(Element<'_>, usize)> {
        Ok((Element::Bytes(slice(blob, at + head, len)?), head + len))
    };
    let number = |bytes: usize| -> Result<(Element<'_>, usize)> {
        Ok((Element::Integer(signed(blob, at + 1, bytes)?), 1 + bytes))
    };
    match first {
        0x00..=0x7f => Ok((Element::Integer(i64::from(first)), 1)),
        0x80..=0xbf => text(1, usize::from(first & 0x3f)),
        0xc0..=0xdf => {
            let raw = i64::from(first & 0x1f) << 8 | i64::from(slice(blob, at + 1, 1)?[0]);
            Ok((Element::Integer(if raw >= 1 << 12 { raw - (1 << 13) } else { raw }), 2))
        }
        0xe0..=0xef => {
            let len = usize::from(first & 0x0f) << 8 | usize::from(slice(blob, at + 1, 1)?[0]);
            text(2, len)
        }
        0xf0 => text(5, u32_at(blob, at + 1)? as usize),
        0xf1 => number(2),
        0xf2 => number(3),
        0xf3 => number(4),
        0xf4 => number(8),
        0xf5..=0xff => Err(corrupt("a listpack holds an unknown encoding")),
    }
}

/// Checks that the back link behind an entry of `len` bytes says so; gives where the next entry begins.
fn check_backlink(blob: &[u8], at: usize, len: usize) -> Result<usize> {
    let size = match len {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    };
    let link = slice(blob, at + len, size)?;
    let told = link.iter().fold(0usize, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
    if told != len {
        return Err(corrupt("a back link of a listpack is wrong"));
    }
    Ok(at + len + size)
}

const ZIPLIST_HEADER: usize = 10;

/// Calls `sink` for every element of a ziplist.
pub fn ziplist(blob: &[u8], sink: &mut Sink<'_>) -> Result<()> {
    if u32_at(blob, 0)? as usize != blob.len() {
        return Err(corrupt("a ziplist lies about its size"));
    }
    let (tail, count) = (u32_at(blob, 4)? as usize, u16_at(blob, 8)?);
    let (mut at, mut last, mut previous, mut seen) = (ZIPLIST_HEADER, ZIPLIST_HEADER, 0, 0u64);
    while slice(blob, at, 1)?[0] != END {
        let (told, head) = match blob[at] {
            0xfe => (u32_at(blob, at + 1)? as usize, 5),
            short => (usize::from(short), 1),
        };
        if told != previous {
            return Err(corrupt("a back link of a ziplist is wrong"));
        }
        let (element, len) = ziplist_entry(blob, at + head)?;
        last = at;
        previous = head + len;
        at += previous;
        seen += 1;
        sink(element)?;
    }
    if at + 1 != blob.len() || tail != last || (count != COUNT_UNKNOWN && u64::from(count) != seen) {
        return Err(corrupt("a ziplist lies about its count or its end"));
    }
    Ok(())
}

fn ziplist_entry(blob: &[u8], at: usize) -> Result<(Element<'_>, usize)> {
    let first = slice(blob, at, 1)?[0];
    let text = |head: usize, len: usize| -> Result<(Element<'_>, usize)> {
        Ok((Element::Bytes(slice(blob, at + head, len)?), head + len))
    };
    let number = |bytes: usize| -> Result<(Element<'_>, usize)> {
        Ok((Element::Integer(signed(blob, at + 1, bytes)?), 1 + bytes))
    };
    match first {
        0x00..=0x3f => text(1, usize::from(first)),
        0x40..=0x7f => {
            let len = usize::from(first & 0x3f) << 8 | usize::from(slice(blob, at + 1, 1)?[0]);
            text(2, len)
        }
        0x80 => text(5, u32::from_be_bytes(array(blob, at + 1)?) as usize),
        0xc0 => number(2),
        0xd0 => number(4),
        0xe0 => number(8),
        0xf0 => number(3),
        0xfe => number(1),
        0xf1..=0xfd => Ok((Element::Integer(i64::from(first & 0x0f) - 1), 1)),
        _ => Err(corrupt("a ziplist holds an unknown encoding")),
    }
}

/// Calls `sink` for every number of an intset, which must be in ascending order.
pub fn intset(blob: &[u8], sink: &mut Sink<'_>) -> Result<()> {
    let (width, count) = (u32_at(blob, 0)? as usize, u32_at(blob, 4)? as usize);
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(blob.len() - 8) {
        return Err(corrupt("an intset lies about its size"));
    }
    let mut previous = None;
    for n in 0..count {
        let value = signed(blob, 8 + n * width, width)?;
        if previous.is_some_and(|p| p >= value) {
            return Err(corrupt("an intset is not in order"));
        }
        previous = Some(value);
        sink(Element::Integer(value))?;
    }
    Ok(())
}

/// Calls `sink` for every field and value of a zipmap (written by servers before 2.6).
pub fn zipmap(blob: &[u8], sink: &mut Sink<'_>) -> Result<()> {
    let length = |at: usize| -> Result<(usize, usize)> {
        match slice(blob, at, 1)?[0] {
            0xfe => Ok((u32_at(blob, at + 1)? as usize, 5)),
            END => Err(corrupt("a zipmap ends between field and value")),
            short => Ok((usize::from(short), 1)),
        }
    };
    let mut at = 1;
    while slice(blob, at, 1)?[0] != END {
        let (len, head) = length(at)?;
        sink(Element::Bytes(slice(blob, at + head, len)?))?;
        at += head + len;
        let (len, head) = length(at)?;
        let unused = usize::from(slice(blob, at + head, 1)?[0]);
        sink(Element::Bytes(slice(blob, at + head + 1, len)?))?;
        at += head + 1 + len + unused;
    }
    if at + 1 == blob.len() { Ok(()) } else { Err(corrupt("a zipmap goes on behind its end")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(walk: fn(&[u8], &mut Sink<'_>) -> Result<()>, blob: &[u8]) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        walk(blob, &mut |e| {
            seen.push(e.with_bytes(|b| String::from_utf8_lossy(b).into_owned()));
            Ok(())
        })?;
        Ok(seen)
    }

    const LISTPACK: &[u8] =
        &[19, 0, 0, 0, 4, 0, 7, 1, 0x82, b'h', b'i', 3, 0xdf, 0xff, 2, 0xf1, 0, 0x80, 3, 0xff];

    #[test]
    fn a_listpack_gives_its_elements_and_every_cut_is_refused() {
        let mut blob = LISTPACK.to_vec();
        blob[0] = blob.len() as u8;
        assert_eq!(collect(listpack, &blob).unwrap(), ["7", "hi", "-1", "-32768"]);
        for cut in 0..blob.len() {
            assert!(collect(listpack, &blob[..cut]).is_err());
        }
        for at in [0, 4, 7, 11] {
            let mut bad = blob.clone();
            bad[at] ^= 1;
            assert!(collect(listpack, &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_ziplist_gives_its_elements_and_wrong_links_are_refused() {
        let blob = [21, 0, 0, 0, 18, 0, 0, 0, 3, 0, 0, 2, b'a', b'b', 4, 0xc0, 0x39, 0x30, 4, 0xf6, 0xff];
        assert_eq!(collect(ziplist, &blob).unwrap(), ["ab", "12345", "5"]);
        for at in [0, 4, 8, 14, 18, 20] {
            let mut bad = blob;
            bad[at] ^= 1;
            assert!(collect(ziplist, &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_intset_must_be_in_order_and_as_long_as_it_says() {
        let good = [2, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 5, 0];
        assert_eq!(collect(intset, &good).unwrap(), ["-1", "5"]);
        let unordered = [2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 5, 0];
        assert!(collect(intset, &unordered).is_err());
        assert!(collect(intset, &good[..11]).is_err());
        assert!(collect(intset, &[]).is_err());
    }

    #[test]
    fn a_zipmap_gives_fields_and_values() {
        let blob = [1, 1, b'f', 2, 1, b'v', b'w', 0, 0xff];
        assert_eq!(collect(zipmap, &blob).unwrap(), ["f", "vw"]);
        assert!(collect(zipmap, &blob[..8]).is_err());
    }
}
