//! Pax records: `length keyword=value\n`, where the length counts itself and the value is bytes.

use super::member::Time;
use crate::error::{Error, ErrorKind, Result};

/// Appends one record.
pub(super) fn record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    // a space, "=" and a line break
    let body = keyword.len() + value.len() + 3;
    let mut total = body + 1;
    while digits(total) + body != total {
        total = digits(total) + body;
    }
    out.extend_from_slice(total.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// All records of a block, in order; the last of several with the same keyword counts.
pub(super) fn records(mut block: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !block.is_empty() {
        let (keyword, value, rest) = first(block).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "read archive member").why("its pax records are malformed")
        })?;
        found.push((keyword, value));
        block = rest;
    }
    Ok(found)
}

type Parsed<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn first(block: &[u8]) -> Option<Parsed<'_>> {
    let space = block.iter().position(|b| *b == b' ')?;
    let total: usize = text(&block[..space])?.parse().ok()?;
    let body = block.get(space + 1..total)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &block[total..]))
}

pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

pub(super) fn number(value: &[u8]) -> Result<u64> {
    text(value).and_then(|t| t.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "read archive member").why("a number in its pax records is malformed")
    })
}

/// `-0.5` is half a second before 1970, which is second -1 and half a second forward.
pub(super) fn show_time(time: Time) -> String {
    match (time.sec, time.nsec) {
        (sec, 0) => sec.to_string(),
        (sec, nsec) if sec >= 0 => format!("{sec}.{nsec:09}"),
        (sec, nsec) => format!("-{}.{:09}", -(sec + 1), 1_000_000_000 - nsec),
    }
}

pub(super) fn parse_time(value: &[u8]) -> Result<Time> {
    parse(value).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "read archive member").why("a time in its pax records is malformed")
    })
}

fn parse(value: &[u8]) -> Option<Time> {
    let all = text(value)?;
    let (negative, digits) = all.strip_prefix('-').map_or((false, all), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let sec: i64 = whole.parse().ok()?;
    let kept: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nsec: u32 = kept.parse().ok()?;
    Some(match (negative, nsec) {
        (false, nsec) => Time { sec, nsec },
        (true, 0) => Time { sec: -sec, nsec: 0 },
        (true, nsec) => Time { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for n in [0, 1, 85, 86, 87, 90, 91, 92, 93, 980, 981, 990, 991, 9990, 99_990] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; n]);
            let found = records(&out).unwrap();
            assert_eq!(found, vec![(&b"path"[..], &vec![b'x'; n][..])], "{n}");
        }
    }

    #[test]
    fn times_before_1970_come_back() {
        for time in [(0, 0), (1, 5), (-1, 0), (-1, 500_000_000), (-2, 1), (1_700_000_000, 999_999_999)] {
            let time = Time { sec: time.0, nsec: time.1 };
            assert_eq!(parse_time(show_time(time).as_bytes()).unwrap(), time);
        }
        assert_eq!(show_time(Time { sec: -1, nsec: 500_000_000 }), "-0.500000000");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"5 a=b\n"[..], b"x", b"99 a=b\n", b"6 ab=c", b"0 a=b\n", b"2 a=b\n", b" a=b\n"] {
            assert!(records(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
