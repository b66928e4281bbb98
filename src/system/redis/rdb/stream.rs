//! Streams: entries, groups, consumers and pending entries to one digest.
//!
//! Deleted entries do not count, but entries that are pending although deleted do. A group's count of entries read is
//! left out: servers of different versions derive it differently from the same data.

use xxhash_rust::xxh3::xxh3_128;

use super::corrupt;
use super::packed::{self, Element};
use super::value::{Kind, Value, chain};
use super::window::{Chunks, Window};
use crate::error::Result;

/// The three forms that servers have written: 5.0, 7.0, 7.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    First,
    Second,
    Third,
}

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;
const ID_BYTES: u64 = 16;

/// Place in a listpack of entries: what the next element means.
enum Expect {
    MasterCount,
    MasterDeleted,
    MasterFieldCount,
    MasterField(i64),
    MasterEnd,
    Flags,
    Millis,
    Sequence,
    FieldCount,
    /// Fields and values still to come.
    Content(i64),
    /// Values still to come, for the fields of the master entry.
    Value(i64),
    Length,
}

struct Entries<'a> {
    master_ms: u64,
    master_seq: u64,
    fields: Vec<Vec<u8>>,
    expect: Expect,
    flags: i64,
    buffer: &'a mut Vec<u8>,
    hash: &'a mut u128,
    count: &'a mut u64,
}

impl Entries<'_> {
    fn push(&mut self, element: Element<'_>) -> Result<()> {
        self.expect = match self.expect {
            Expect::MasterCount
            | Expect::MasterDeleted
            | Expect::MasterFieldCount
            | Expect::MasterField(_) => self.master(element)?,
            Expect::MasterEnd | Expect::Length => {
                element.integer()?;
                Expect::Flags
            }
            Expect::Flags => {
                self.flags = element.integer()?;
                self.buffer.clear();
                Expect::Millis
            }
            Expect::Millis => {
                let ms = self.master_ms.wrapping_add_signed(element.integer()?);
                self.buffer.extend_from_slice(&ms.to_le_bytes());
                Expect::Sequence
            }
            Expect::Sequence => {
                let seq = self.master_seq.wrapping_add_signed(element.integer()?);
                self.buffer.extend_from_slice(&seq.to_le_bytes());
                match (self.flags & SAME_FIELDS != 0, self.fields.len() as i64) {
                    (true, 0) => self.entry(),
                    (true, n) => Expect::Value(n),
                    (false, _) => Expect::FieldCount,
                }
            }
            Expect::FieldCount => match element.integer()? {
                0 => self.entry(),
                n if n > 0 && n < i64::MAX / 2 => Expect::Content(2 * n),
                _ => return Err(corrupt("a stream counts its fields below zero")),
            },
            Expect::Content(left) => {
                self.part(element);
                if left > 1 { Expect::Content(left - 1) } else { self.entry() }
            }
            Expect::Value(left) => self.value(left, element),
        };
        Ok(())
    }

    /// The head of a node: counts and the fields that most of its entries share.
    fn master(&mut self, element: Element<'_>) -> Result<Expect> {
        if let Expect::MasterField(left) = self.expect {
            self.fields.push(element.with_bytes(<[u8]>::to_vec));
            return Ok(if left > 1 { Expect::MasterField(left - 1) } else { Expect::MasterEnd });
        }
        let number = element.integer()?;
        match (&self.expect, number) {
            (Expect::MasterCount, _) => Ok(Expect::MasterDeleted),
            (Expect::MasterDeleted, _) => Ok(Expect::MasterFieldCount),
            (_, 0) => Ok(Expect::MasterEnd),
            (_, 1..) => Ok(Expect::MasterField(number)),
            (_, ..0) => Err(corrupt("a stream counts its fields below zero")),
        }
    }

    /// A value whose field is the node's, the `left`th from the end.
    fn value(&mut self, left: i64, element: Element<'_>) -> Expect {
        let at = self.fields.len() - left as usize;
        let field = std::mem::take(&mut self.fields[at]);
        self.part(Element::Bytes(&field));
        self.fields[at] = field;
        self.part(element);
        if left > 1 { Expect::Value(left - 1) } else { self.entry() }
    }

    fn part(&mut self, element: Element<'_>) {
        element.with_bytes(|bytes| {
            self.buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            self.buffer.extend_from_slice(bytes);
        });
    }

    /// The entry in the buffer is complete.
    fn entry(&mut self) -> Expect {
        if self.flags & DELETED == 0 {
            *self.hash = chain(*self.hash, xxh3_128(self.buffer));
            *self.count += 1;
        }
        Expect::Length
    }
}

pub fn decode<C: Chunks>(
    form: Form,
    window: &mut Window<C>,
    blob: &mut Vec<u8>,
    buffer: &mut Vec<u8>,
) -> Result<Value> {
    let (mut hash, mut count) = (0, 0);
    let nodes = window.plain_length()?;
    for _ in 0..nodes {
        let (master_ms, master_seq) = node_id(window, blob)?;
        blob.clear();
        window.append_string(blob)?;
        let mut entries = Entries {
            master_ms,
            master_seq,
            fields: Vec::new(),
            expect: Expect::MasterCount,
            flags: 0,
            buffer,
            hash: &mut hash,
            count: &mut count,
        };
        packed::listpack(blob, &mut |element| entries.push(element))?;
        if !matches!(entries.expect, Expect::Flags) {
            return Err(corrupt("a stream ends inside an entry"));
        }
    }
    hash = chain(hash, xxh3_128(&metadata(form, window)?));
    let mut groups = 0u128;
    for _ in 0..window.plain_length()? {
        groups = groups.wrapping_add(group(form, window, blob)?);
    }
    Ok(Value { kind: Kind::Stream, elements: count, hash: chain(hash, groups), timed: Vec::new() })
}

/// The first id of a node: two big-endian numbers in a string.
fn node_id<C: Chunks>(window: &mut Window<C>, scratch: &mut Vec<u8>) -> Result<(u64, u64)> {
    scratch.clear();
    window.append_string(scratch)?;
    match scratch.split_first_chunk::<8>() {
        Some((ms, seq)) if seq.len() == 8 => {
            let mut low = [0; 8];
            low.copy_from_slice(seq);
            Ok((u64::from_be_bytes(*ms), u64::from_be_bytes(low)))
        }
        _ => Err(corrupt("a node of a stream has no valid id")),
    }
}

/// Length, last id, highest deleted id, entries ever added; what older forms lack is what a newer server would fill in.
fn metadata<C: Chunks>(form: Form, window: &mut Window<C>) -> Result<Vec<u8>> {
    let mut numbers = [0u64; 6];
    for number in &mut numbers[..3] {
        *number = window.plain_length()?;
    }
    numbers[5] = numbers[0];
    if form >= Form::Second {
        // the first id follows from the entries
        window.plain_length()?;
        window.plain_length()?;
        for number in &mut numbers[3..] {
            *number = window.plain_length()?;
        }
    }
    Ok(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
}

fn group<C: Chunks>(form: Form, window: &mut Window<C>, scratch: &mut Vec<u8>) -> Result<u128> {
    scratch.clear();
    window.append_string(scratch)?;
    let name = xxh3_128(scratch);
    let last = [window.plain_length()?, window.plain_length()?];
    if form >= Form::Second {
        window.plain_length()?;
    }
    let mut pending = 0u128;
    for _ in 0..window.plain_length()? {
        scratch.clear();
        // id and time of delivery
        window.append(ID_BYTES + 8, scratch)?;
        scratch.extend(window.plain_length()?.to_le_bytes());
        pending = pending.wrapping_add(xxh3_128(scratch));
    }
    let mut consumers = 0u128;
    for _ in 0..window.plain_length()? {
        consumers = consumers.wrapping_add(consumer(form, window, scratch)?);
    }
    let last: Vec<u8> = last.iter().flat_map(|n| n.to_le_bytes()).collect();
    let parts = [xxh3_128(&last), pending, consumers];
    Ok(mixed(parts.into_iter().fold(name, chain)))
}

fn consumer<C: Chunks>(form: Form, window: &mut Window<C>, scratch: &mut Vec<u8>) -> Result<u128> {
    scratch.clear();
    window.append_string(scratch)?;
    let name = xxh3_128(scratch);
    let seen = window.milliseconds()?;
    let active = match form {
        Form::First | Form::Second => seen,
        Form::Third => window.milliseconds()?,
    };
    let mut pending = 0u128;
    for _ in 0..window.plain_length()? {
        scratch.clear();
        window.append(ID_BYTES, scratch)?;
        pending = pending.wrapping_add(xxh3_128(scratch));
    }
    let times = (u128::from(seen.cast_unsigned()) << 64) | u128::from(active.cast_unsigned());
    Ok(mixed(chain(chain(name, times), pending)))
}

/// Before it is summed with its like: else parts of one could stand for parts of another.
fn mixed(hash: u128) -> u128 {
    xxh3_128(&hash.to_le_bytes())
}
