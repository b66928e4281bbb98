//! Positions in the WAL and the names of its segments. Pure values.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// A byte position in the WAL, written `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('/').and_then(|(high, low)| {
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Self(u64::from(high) << 32 | u64::from(low)))
        });
        parts.ok_or_else(|| Error::new(ErrorKind::Corrupt, "read WAL position").with("text", text))
    }
}

/// How a server cuts its WAL into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    pub timeline: u32,
    /// A power of two between 1 MiB and 1 GiB.
    pub segment_bytes: u64,
}

impl Segmentation {
    pub fn number(self, at: Lsn) -> u64 {
        at.0 / self.segment_bytes
    }

    pub fn start(self, number: u64) -> Lsn {
        Lsn(number * self.segment_bytes)
    }

    /// `000000010000000A000000FF`
    pub fn name(self, number: u64) -> String {
        let per_id = 0x1_0000_0000 / self.segment_bytes;
        format!("{:08X}{:08X}{:08X}", self.timeline, number / per_id, number % per_id)
    }

    /// Segments that hold the bytes from `from` up to but not including `to`.
    pub fn covering(self, from: Lsn, to: Lsn) -> impl Iterator<Item = u64> {
        let last = Lsn(to.0.saturating_sub(1).max(from.0));
        self.number(from)..=self.number(last)
    }
}

/// Is this the name of a WAL segment or of a timeline history file?
pub fn is_wal_name(name: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    match name.strip_suffix(".history") {
        Some(timeline) => timeline.len() == 8 && hex(timeline),
        None => name.len() == 24 && hex(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_written_and_read_as_the_server_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("0/3000060".parse::<Lsn>().unwrap().to_string(), "0/3000060");
        assert!("16".parse::<Lsn>().is_err());
    }

    #[test]
    fn segment_names_follow_the_segment_size() {
        let s = Segmentation { timeline: 1, segment_bytes: 16 << 20 };
        assert_eq!(s.name(s.number("1/4000060".parse().unwrap())), "000000010000000100000004");
        let big = Segmentation { timeline: 2, segment_bytes: 1 << 30 };
        assert_eq!(big.name(big.number("1/4000060".parse().unwrap())), "000000020000000100000000");
        let end = s.start(5);
        assert_eq!(s.covering(s.start(3), end).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(s.covering(end, end).collect::<Vec<_>>(), [5]);
        assert!(is_wal_name("000000010000000100000004") && is_wal_name("00000002.history"));
        assert!(!is_wal_name("../../etc/passwd") && !is_wal_name("000000010000000100000004.partial"));
    }
}
