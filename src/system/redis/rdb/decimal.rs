//! Integers as the decimal text that a client would see, without allocating.

const DIGITS_MAX: usize = 20;

pub fn push(n: i64, out: &mut Vec<u8>) {
    let mut text = [0; DIGITS_MAX];
    out.extend_from_slice(format(n, &mut text));
}

/// Writes `n` to the end of `text` and gives the used part.
pub fn format(n: i64, text: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut rest = n.unsigned_abs();
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        text[at] = b'-';
    }
    &text[at..]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_integer_is_written_as_rust_writes_it() {
        for n in [0, 1, -1, 9, 10, 12345, -98765, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            super::push(n, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }
}
