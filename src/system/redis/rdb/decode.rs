//! Decoding of values: every type in every encoding that servers have written, from Redis 2.4 to 7.4 and Valkey 9.

use xxhash_rust::xxh3::xxh3_128;

use super::packed::{self, Element};
use super::value::{Elements, Kind, Shape, Value, chain, parse_score};
use super::window::{Chunks, Window};
use super::{corrupt, shown, stream};
use crate::error::{Error, ErrorKind, Result};

mod encoding {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET_TEXT: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET: u8 = 5;
    pub const MODULE_OLD: u8 = 6;
    pub const MODULE: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICK_ZIPLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICK: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    /// Redis 7.4 release candidates; Valkey 9 uses the number for its own form.
    pub const HASH_TIMED_OLD: u8 = 22;
    pub const HASH_TIMED_LISTPACK_OLD: u8 = 23;
    pub const HASH_TIMED: u8 = 24;
    pub const HASH_TIMED_LISTPACK: u8 = 25;
}

/// Adds what a person needs to find the value.
pub(super) fn name_the_key(error: Error, db: u64, key: &[u8], encoding: u8) -> Error {
    let kind = error.kind();
    Error::new(kind, "read value")
        .with("key", shown(key))
        .with("db", db)
        .with("encoding", encoding)
        .because(error)
}

/// The nine-letter name that a module id stands for.
pub(super) fn module_name(id: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |n: u32| char::from(LETTERS[(id >> (10 + 6 * n)) as usize & 63]);
    (0..9).rev().map(letter).collect()
}

/// Passes over what a module wrote, up to its end mark.
pub(super) fn skip_module<C: Chunks>(window: &mut Window<C>) -> Result<()> {
    let mut scratch = Vec::new();
    loop {
        match window.plain_length()? {
            0 => return Ok(()),
            1 | 2 => {
                window.plain_length()?;
            }
            3 => {
                window.array::<4>()?;
            }
            4 => {
                window.array::<8>()?;
            }
            5 => {
                scratch.clear();
                window.append_string(&mut scratch)?;
            }
            _ => return Err(corrupt("a module wrote something unknown")),
        }
    }
}

/// Decodes values; keeps buffers from one value to the next.
#[derive(Debug, Default)]
pub struct Decoder {
    version: u16,
    element: Vec<u8>,
    blob: Vec<u8>,
    pair: Vec<u8>,
}

type Walk = fn(&[u8], &mut dyn FnMut(Element<'_>) -> Result<()>) -> Result<()>;

impl Decoder {
    pub fn for_version(version: u16) -> Self {
        Self { version, ..Self::default() }
    }

    pub(super) fn decode<C: Chunks>(&mut self, encoding: u8, window: &mut Window<C>) -> Result<Value> {
        self.decode_into(encoding, window, None)
    }

    /// The elements of a list, in order, from its raw encoded form.
    pub fn list(version: u16, encoding: u8, raw: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let chunk = std::iter::once(bytes::Bytes::copy_from_slice(raw));
        let value =
            Self::for_version(version).decode_into(encoding, &mut Window::new(chunk), Some(&mut all))?;
        if value.kind == Kind::List { Ok(all) } else { Err(corrupt("a list was expected")) }
    }

    fn decode_into<C: Chunks>(
        &mut self,
        encoding: u8,
        window: &mut Window<C>,
        collected: Option<&mut Vec<Vec<u8>>>,
    ) -> Result<Value> {
        use self::encoding as e;
        match encoding {
            e::STRING => self.string(window),
            e::LIST => self.strings(Shape::List, window, collected),
            e::SET => self.strings(Shape::Set, window, None),
            e::HASH => self.strings(Shape::Pairs, window, None),
            e::ZSET | e::ZSET_TEXT => self.scored(encoding, window),
            e::LIST_ZIPLIST => self.packed(Shape::List, packed::ziplist, window, collected),
            e::SET_INTSET => self.packed(Shape::Set, packed::intset, window, None),
            e::SET_LISTPACK => self.packed(Shape::Set, packed::listpack, window, None),
            e::ZSET_ZIPLIST => self.packed(Shape::Scored, packed::ziplist, window, None),
            e::ZSET_LISTPACK => self.packed(Shape::Scored, packed::listpack, window, None),
            e::HASH_ZIPMAP => self.packed(Shape::Pairs, packed::zipmap, window, None),
            e::HASH_ZIPLIST => self.packed(Shape::Pairs, packed::ziplist, window, None),
            e::HASH_LISTPACK => self.packed(Shape::Pairs, packed::listpack, window, None),
            e::LIST_QUICK_ZIPLIST | e::LIST_QUICK => self.quicklist(encoding, window, collected),
            e::HASH_TIMED_LISTPACK => {
                // the smallest expiry, repeated in the elements themselves
                window.milliseconds()?;
                self.packed(Shape::TimedTriples, packed::listpack, window, None)
            }
            e::HASH_TIMED_LISTPACK_OLD => self.packed(Shape::TimedTriples, packed::listpack, window, None),
            e::HASH_TIMED | e::HASH_TIMED_OLD => self.timed_fields(encoding, window),
            e::STREAM | e::STREAM_2 | e::STREAM_3 => {
                let form = match encoding {
                    e::STREAM => stream::Form::First,
                    e::STREAM_2 => stream::Form::Second,
                    _ => stream::Form::Third,
                };
                stream::decode(form, window, &mut self.blob, &mut self.pair)
            }
            e::MODULE => module(window),
            e::MODULE_OLD => {
                let name = module_name(window.plain_length()?);
                Err(Error::new(ErrorKind::Unsupported, "read a module's value in its old form")
                    .with("module", name))
            }
            _ => Err(Error::new(ErrorKind::Unsupported, "read a value of unknown encoding")
                .hint("this server writes a newer format than this lifeboat knows: update lifeboat")),
        }
    }

    fn string<C: Chunks>(&mut self, window: &mut Window<C>) -> Result<Value> {
        self.element.clear();
        window.append_string(&mut self.element)?;
        Ok(Value { kind: Kind::String, elements: 1, hash: xxh3_128(&self.element), timed: Vec::new() })
    }

    fn strings<C: Chunks>(
        &mut self,
        shape: Shape,
        window: &mut Window<C>,
        collected: Option<&mut Vec<Vec<u8>>>,
    ) -> Result<Value> {
        let count = window.plain_length()?;
        let mut elements = Elements::of(shape, &mut self.pair, collected);
        for _ in 0..count {
            for _ in 0..shape.parts() {
                self.element.clear();
                window.append_string(&mut self.element)?;
                elements.push(Element::Bytes(&self.element))?;
            }
        }
        elements.finish()
    }

    fn scored<C: Chunks>(&mut self, encoding: u8, window: &mut Window<C>) -> Result<Value> {
        let count = window.plain_length()?;
        let mut elements = Elements::of(Shape::Scored, &mut self.pair, None);
        for _ in 0..count {
            self.element.clear();
            window.append_string(&mut self.element)?;
            elements.push(Element::Bytes(&self.element))?;
            let score = if encoding == encoding::ZSET {
                f64::from_le_bytes(window.array()?)
            } else {
                text_score(window, &mut self.element)?
            };
            elements.score(score);
        }
        elements.finish()
    }

    fn packed<C: Chunks>(
        &mut self,
        shape: Shape,
        walk: Walk,
        window: &mut Window<C>,
        collected: Option<&mut Vec<Vec<u8>>>,
    ) -> Result<Value> {
        self.blob.clear();
        window.append_string(&mut self.blob)?;
        let mut elements = Elements::of(shape, &mut self.pair, collected);
        walk(&self.blob, &mut |element| elements.push(element))?;
        elements.finish()
    }

    fn quicklist<C: Chunks>(
        &mut self,
        encoding: u8,
        window: &mut Window<C>,
        collected: Option<&mut Vec<Vec<u8>>>,
    ) -> Result<Value> {
        const NODE_PLAIN: u64 = 1;
        const NODE_PACKED: u64 = 2;
        let nodes = window.plain_length()?;
        let mut elements = Elements::of(Shape::List, &mut self.pair, collected);
        for _ in 0..nodes {
            let container = match encoding {
                encoding::LIST_QUICK => window.plain_length()?,
                _ => NODE_PACKED,
            };
            self.blob.clear();
            window.append_string(&mut self.blob)?;
            match (container, encoding) {
                (NODE_PLAIN, _) => elements.push(Element::Bytes(&self.blob))?,
                (NODE_PACKED, encoding::LIST_QUICK) => {
                    packed::listpack(&self.blob, &mut |e| elements.push(e))?;
                }
                (NODE_PACKED, _) => packed::ziplist(&self.blob, &mut |e| elements.push(e))?,
                _ => return Err(corrupt("a node of a list is of an unknown sort")),
            }
        }
        elements.finish()
    }

    fn timed_fields<C: Chunks>(&mut self, encoding: u8, window: &mut Window<C>) -> Result<Value> {
        let valkey = encoding == encoding::HASH_TIMED_OLD && self.version >= 80;
        let smallest = match encoding {
            encoding::HASH_TIMED => window.milliseconds()?,
            _ => 0,
        };
        let count = window.plain_length()?;
        let mut elements = Elements::of(Shape::TimedTriples, &mut self.pair, None);
        for _ in 0..count {
            let told = if valkey { 0 } else { window.plain_length()? };
            for _ in 0..2 {
                self.element.clear();
                window.append_string(&mut self.element)?;
                elements.push(Element::Bytes(&self.element))?;
            }
            let at_ms = match (valkey, encoding, told) {
                (true, ..) => match window.milliseconds()? {
                    ..0 => 0,
                    at => at.max(1),
                },
                (_, encoding::HASH_TIMED, 1..) => smallest.saturating_add_unsigned(told).saturating_sub(1),
                (_, _, told) => i64::try_from(told).unwrap_or(i64::MAX),
            };
            elements.expiry(at_ms);
        }
        elements.finish()
    }
}

/// A score as text behind a length byte, with three lengths that stand for what has no digits.
fn text_score<C: Chunks>(window: &mut Window<C>, scratch: &mut Vec<u8>) -> Result<f64> {
    Ok(match window.byte()? {
        253 => f64::NAN,
        254 => f64::INFINITY,
        255 => f64::NEG_INFINITY,
        len => {
            scratch.clear();
            window.append(u64::from(len), scratch)?;
            parse_score(scratch)?
        }
    })
}

/// A module's value is hashed as the module wrote it: only the module knows what it means.
fn module<C: Chunks>(window: &mut Window<C>) -> Result<Value> {
    let mut hash = xxh3_128(module_name(window.plain_length()?).as_bytes());
    let mut scratch = Vec::new();
    loop {
        let code = window.plain_length()?;
        scratch.clear();
        match code {
            0 => break,
            1 | 2 => scratch.extend(window.plain_length()?.to_le_bytes()),
            3 => scratch.extend(window.array::<4>()?),
            4 => scratch.extend(window.array::<8>()?),
            5 => window.append_string(&mut scratch)?,
            _ => return Err(corrupt("a module wrote something unknown")),
        }
        hash = chain(hash, xxh3_128(&scratch).wrapping_add(u128::from(code)));
    }
    Ok(Value { kind: Kind::Module, elements: 1, hash, timed: Vec::new() })
}
