//! LZF decompression, as used for long strings in an RDB.

use super::corrupt;
use crate::error::Result;

/// A back reference of three bytes stands for at most this many.
const MATCH_BYTES_MAX: u64 = 264;

/// Appends the `expected` bytes that `packed` stands for to `out`.
pub fn decompress(packed: &[u8], expected: u64, out: &mut Vec<u8>) -> Result<()> {
    if expected > (packed.len() as u64).saturating_mul(MATCH_BYTES_MAX) {
        return Err(corrupt("compressed string claims more than it can hold"));
    }
    let start = out.len();
    let mut at = 0;
    let byte = |at: usize| packed.get(at).copied().ok_or_else(|| corrupt("compressed string ends early"));
    while at < packed.len() {
        let control = usize::from(byte(at)?);
        at += 1;
        if control < 32 {
            let literal =
                packed.get(at..=at + control).ok_or_else(|| corrupt("compressed string ends early"))?;
            out.extend_from_slice(literal);
            at += control + 1;
        } else {
            let mut len = control >> 5;
            if len == 7 {
                len += usize::from(byte(at)?);
                at += 1;
            }
            let back = ((control & 0x1f) << 8) + usize::from(byte(at)?) + 1;
            at += 1;
            copy_back(out, start, back, len + 2)?;
        }
        if (out.len() - start) as u64 > expected {
            return Err(corrupt("compressed string is longer than it says"));
        }
    }
    if (out.len() - start) as u64 == expected {
        Ok(())
    } else {
        Err(corrupt("compressed string is shorter than it says"))
    }
}

fn copy_back(out: &mut Vec<u8>, start: usize, back: usize, len: usize) -> Result<()> {
    if back > out.len() - start {
        return Err(corrupt("compressed string refers to before its begin"));
    }
    let from = out.len() - back;
    if back >= len {
        out.extend_from_within(from..from + len);
    } else {
        // the source overlaps what is being written: a repeated pattern
        for n in 0..len {
            let byte = out[from + n];
            out.push(byte);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_overlapping_references_are_expanded() {
        let mut out = b"kept".to_vec();
        // literal "ab", then nine bytes from two back
        decompress(&[1, b'a', b'b', 0xe0, 0, 1], 11, &mut out).unwrap();
        assert_eq!(out, b"keptabababababa");
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        for (packed, expected) in [
            (&[1u8, b'a', b'b'][..], 3),
            (&[1, b'a', b'b'], 1),
            (&[5, b'a'], 6),
            (&[0x20, 9], 3),
            (&[1, b'a', b'b'], u64::MAX),
        ] {
            assert!(decompress(packed, expected, &mut Vec::new()).is_err());
        }
    }
}
