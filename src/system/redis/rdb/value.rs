//! Values as digests that are the same however the server had encoded them. Decoding is next door, in `decode`.
//!
//! Canonical form: a string is its bytes; a list its elements in order; set, hash and sorted set are order-free sums over
//! members, field and value, member and score bits; for streams see `stream`. Integers count as their decimal text.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::corrupt;
use super::packed::Element;
use crate::error::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    Module,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::String, Self::List, Self::Set, Self::SortedSet, Self::Hash, Self::Stream, Self::Module];
}

/// Digest of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub kind: Kind,
    /// Members, fields or entries without an expiry of their own.
    pub elements: u64,
    pub hash: u128,
    /// Hash fields with an expiry of their own: when, and their share of the hash.
    pub timed: Vec<(i64, u128)>,
}

impl Value {
    /// Hash and elements as they are when everything up to `cutoff_ms` has expired. `None`: nothing is left, so that the
    /// server would not keep the key.
    pub fn at(&self, cutoff_ms: i64) -> Option<u128> {
        let live = self.timed.iter().filter(|(at, _)| *at > cutoff_ms);
        let (count, hash) =
            live.fold((self.elements, self.hash), |(n, sum), (_, h)| (n + 1, sum.wrapping_add(*h)));
        match self.kind {
            Kind::String | Kind::Stream | Kind::Module => Some(hash),
            Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash => (count > 0).then_some(hash),
        }
    }
}

pub(super) fn chain(so_far: u128, next: u128) -> u128 {
    // an odd factor keeps every bit of what came before, so that order matters
    so_far.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).wrapping_add(next)
}

/// What the elements that arrive one by one make up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    List,
    Set,
    Scored,
    Pairs,
    /// Field, value, absolute expiry or 0.
    TimedTriples,
}

impl Shape {
    pub fn parts(self) -> u8 {
        match self {
            Self::List | Self::Set => 1,
            Self::Scored | Self::Pairs => 2,
            Self::TimedTriples => 3,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::List => Kind::List,
            Self::Set => Kind::Set,
            Self::Scored => Kind::SortedSet,
            Self::Pairs | Self::TimedTriples => Kind::Hash,
        }
    }
}

/// Takes elements and makes the digest. `buffer` is reused from value to value.
pub(super) struct Elements<'a> {
    shape: Shape,
    part: u8,
    buffer: &'a mut Vec<u8>,
    collected: Option<&'a mut Vec<Vec<u8>>>,
    value: Value,
}

impl<'a> Elements<'a> {
    pub fn of(shape: Shape, buffer: &'a mut Vec<u8>, collected: Option<&'a mut Vec<Vec<u8>>>) -> Self {
        Self {
            shape,
            part: 0,
            buffer,
            collected,
            value: Value { kind: shape.kind(), elements: 0, hash: 0, timed: Vec::new() },
        }
    }

    pub fn push(&mut self, element: Element<'_>) -> Result<()> {
        match (self.shape, self.part) {
            (Shape::Scored, 1) => {
                let score = match element {
                    Element::Integer(n) => n as f64,
                    Element::Bytes(text) => parse_score(text)?,
                };
                self.score(score);
                return Ok(());
            }
            (Shape::TimedTriples, 2) => {
                self.expiry(element.integer()?);
                return Ok(());
            }
            (Shape::List, _) if self.collected.is_some() => {
                let copy = element.with_bytes(<[u8]>::to_vec);
                if let Some(all) = &mut self.collected {
                    all.push(copy);
                }
            }
            _ => {}
        }
        element.with_bytes(|bytes| self.bytes(bytes));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.part == 0 {
            if self.shape.parts() == 1 {
                self.complete(xxh3_128(bytes));
                return;
            }
            self.buffer.clear();
            self.buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        }
        self.buffer.extend_from_slice(bytes);
        self.part += 1;
        if self.part == self.shape.parts() {
            let hash = xxh3_128(self.buffer);
            self.complete(hash);
        }
    }

    pub fn score(&mut self, score: f64) {
        // -0 and 0 are the same score
        let bits = if score == 0.0 { 0 } else { score.to_bits() };
        self.bytes(&bits.to_le_bytes());
    }

    pub fn expiry(&mut self, at_ms: i64) {
        let hash = xxh3_128(self.buffer);
        if at_ms == 0 {
            self.complete(hash);
        } else {
            self.part = 0;
            self.buffer.clear();
            self.buffer.extend(hash.to_le_bytes());
            self.buffer.extend(at_ms.to_le_bytes());
            self.value.timed.push((at_ms, xxh3_128(self.buffer)));
        }
    }

    fn complete(&mut self, hash: u128) {
        self.part = 0;
        self.value.elements += 1;
        self.value.hash = match self.shape {
            Shape::List => chain(self.value.hash, hash),
            Shape::Set | Shape::Scored | Shape::Pairs | Shape::TimedTriples => {
                self.value.hash.wrapping_add(hash)
            }
        };
    }

    pub fn finish(self) -> Result<Value> {
        if self.part == 0 { Ok(self.value) } else { Err(corrupt("the last element is incomplete")) }
    }
}

pub(super) fn parse_score(text: &[u8]) -> Result<f64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .ok_or_else(|| corrupt("a score is not a number"))
}
