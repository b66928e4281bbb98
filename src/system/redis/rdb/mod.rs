//! RDB: the snapshot format of Redis and Valkey, read as it streams.
//!
//! Owns the top level: magic, auxiliary fields, databases, expiry, functions, end and checksum. Values are decoded by
//! `decode` into digests that do not depend on how the server had encoded them. Input is not trusted: whatever the bytes
//! are, reading ends with a result or an error, never with a panic, and memory grows only with bytes that came.

pub mod decimal;
pub mod decode;
mod lzf;
mod packed;
mod stream;
mod value;
mod window;
pub mod write;

use serde::{Deserialize, Serialize};

pub use value::{Kind, Value};
pub use window::Chunks;
use window::{CRC, Window};

use crate::error::{Error, ErrorKind, Result};

/// Newest format versions that this code was written against. A newer one is refused by name, not guessed at.
const REDIS_VERSION_MAX: u16 = 12;
const VALKEY_VERSIONS: std::ops::RangeInclusive<u16> = 80..=80;
/// A name longer than this is shown cut in errors.
const NAME_SHOWN_BYTES: usize = 120;

mod opcode {
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION: u8 = 245;
    pub const FUNCTION_PREVIEW: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQUENCY: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZE: u8 = 251;
    pub const EXPIRES_MS: u8 = 252;
    pub const EXPIRES_S: u8 = 253;
    pub const SELECT: u8 = 254;
    pub const END: u8 = 255;
}

/// What the first bytes say about the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `REDIS0010`, `VALKEY080`.
    pub magic: String,
    pub version: u16,
    /// Auxiliary fields of interest.
    pub server_version: Option<String>,
    /// When the snapshot was taken: seconds since 1970, by the server's clock.
    pub created_s: Option<i64>,
}

/// How recently or often the key was used, where the server keeps that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Unknown,
    IdleSeconds(u64),
    Frequency(u8),
}

/// One key with its value.
#[derive(Debug)]
pub struct Record<'a> {
    pub db: u64,
    pub key: &'a [u8],
    /// Absolute, milliseconds since 1970.
    pub expires_at_ms: Option<i64>,
    pub usage: Usage,
    pub value: Value,
    /// Type byte of the encoding, as in a DUMP payload.
    pub encoding: u8,
    /// The encoded value as it came; empty unless the visitor keeps raw values.
    pub raw: &'a [u8],
}

/// Is told what an RDB holds, in its order.
pub trait Visitor {
    /// Before the first key or function.
    fn begin(&mut self, header: &Header) -> Result<()>;
    fn key(&mut self, record: Record<'_>) -> Result<()>;
    fn function(&mut self, code: &[u8]) -> Result<()>;
    /// Whether `Record::raw` is wanted.
    fn keeps_raw(&self) -> RawValues {
        RawValues::Dropped
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawValues {
    Dropped,
    Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    Held,
    /// The server writes none (`rdbchecksum no`).
    Disabled,
}

/// What is known once the end was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub header: Header,
    pub bytes: u64,
    pub checksum: Checksum,
    /// Modules that keep data beside the keys.
    pub modules: Vec<String>,
}

pub fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read RDB").why(why)
}

/// A key for a person: readable where it is text, escaped where not, cut when long.
pub fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(NAME_SHOWN_BYTES)];
    let dots = if cut.len() < name.len() { "..." } else { "" };
    format!("{}{dots}", cut.escape_ascii())
}

/// Reads a whole RDB and tells `visitor` what is in it. Anything but a complete and sound one is an error; by then the
/// visitor may have seen a part.
pub fn read<C: Chunks, V: Visitor>(chunks: C, visitor: &mut V) -> Result<Summary> {
    let mut reader = Reader::new(chunks)?;
    while reader.step(visitor)? == Next::More {}
    reader.finish()
}

/// Only what stands before the first key.
pub fn read_header<C: Chunks>(chunks: C) -> Result<Header> {
    struct Nothing;
    impl Visitor for Nothing {
        fn begin(&mut self, _: &Header) -> Result<()> {
            Ok(())
        }
        fn key(&mut self, _: Record<'_>) -> Result<()> {
            Ok(())
        }
        fn function(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }
    let mut reader = Reader::new(chunks)?;
    while !reader.begun && reader.step(&mut Nothing)? == Next::More {}
    Ok(reader.header)
}

/// What the server's DUMP would give for a value: type, value, version, checksum.
pub fn dump_trailer(encoding: u8, raw: &[u8], version: u16) -> [u8; 10] {
    let mut sum = CRC.digest();
    sum.update(&[encoding]);
    sum.update(raw);
    sum.update(&version.to_le_bytes());
    let mut trailer = [0; 10];
    trailer[..2].copy_from_slice(&version.to_le_bytes());
    trailer[2..].copy_from_slice(&sum.finalize().to_le_bytes());
    trailer
}

#[derive(PartialEq, Eq)]
enum Next {
    More,
    End,
}

struct Reader<C> {
    window: Window<C>,
    decoder: decode::Decoder,
    header: Header,
    begun: bool,
    db: u64,
    key: Vec<u8>,
    expires_at_ms: Option<i64>,
    usage: Usage,
    modules: Vec<String>,
}

impl<C: Chunks> Reader<C> {
    fn new(chunks: C) -> Result<Self> {
        let mut window = Window::new(chunks);
        let magic: [u8; 9] = window.array()?;
        let text = String::from_utf8_lossy(&magic).into_owned();
        let digits = |from: usize| text.get(from..).and_then(|d| d.parse::<u16>().ok());
        let version = match (text.starts_with("REDIS"), text.starts_with("VALKEY")) {
            (true, _) => digits(5),
            (_, true) => digits(6),
            _ => None,
        }
        .ok_or_else(|| corrupt("it does not begin as an RDB does"))?;
        if !(1..=REDIS_VERSION_MAX).contains(&version) && !VALKEY_VERSIONS.contains(&version) {
            return Err(Error::new(ErrorKind::Unsupported, "read RDB")
                .with("version", &text)
                .hint("this server writes a newer format than this lifeboat knows: update lifeboat"));
        }
        let header = Header { magic: text, version, ..Header::default() };
        Ok(Self {
            window,
            decoder: decode::Decoder::for_version(version),
            header,
            begun: false,
            db: 0,
            key: Vec::new(),
            expires_at_ms: None,
            usage: Usage::Unknown,
            modules: Vec::new(),
        })
    }

    fn step<V: Visitor>(&mut self, visitor: &mut V) -> Result<Next> {
        let code = self.window.byte()?;
        if !self.begun && code != opcode::AUX {
            self.begun = true;
            visitor.begin(&self.header)?;
        }
        match code {
            opcode::AUX => self.auxiliary()?,
            opcode::SELECT => self.db = self.window.plain_length()?,
            opcode::RESIZE => {
                self.window.plain_length()?;
                self.window.plain_length()?;
            }
            opcode::SLOT_INFO => {
                for _ in 0..3 {
                    self.window.plain_length()?;
                }
            }
            opcode::EXPIRES_MS => self.expires_at_ms = Some(self.window.milliseconds()?),
            opcode::EXPIRES_S => {
                let seconds = i32::from_le_bytes(self.window.array()?);
                self.expires_at_ms = Some(i64::from(seconds) * 1000);
            }
            opcode::IDLE => self.usage = Usage::IdleSeconds(self.window.plain_length()?),
            opcode::FREQUENCY => self.usage = Usage::Frequency(self.window.byte()?),
            opcode::FUNCTION => {
                self.key.clear();
                self.window.append_string(&mut self.key)?;
                visitor.function(&self.key)?;
            }
            opcode::FUNCTION_PREVIEW => {
                return Err(Error::new(ErrorKind::Unsupported, "read RDB")
                    .why("it holds functions in the form of a Redis 7.0 release candidate"));
            }
            opcode::MODULE_AUX => self.module_auxiliary()?,
            opcode::END => return Ok(Next::End),
            encoding => self.record(encoding, visitor)?,
        }
        Ok(Next::More)
    }

    fn auxiliary(&mut self) -> Result<()> {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        self.window.append_string(&mut name)?;
        self.window.append_string(&mut value)?;
        let text = String::from_utf8_lossy(&value);
        match name.as_slice() {
            b"redis-ver" | b"valkey-ver" => self.header.server_version = Some(text.into_owned()),
            b"ctime" => self.header.created_s = text.parse().ok(),
            _ => {}
        }
        Ok(())
    }

    fn module_auxiliary(&mut self) -> Result<()> {
        let module = decode::module_name(self.window.plain_length()?);
        let when = (self.window.plain_length()?, self.window.plain_length()?);
        tracing::debug!(module, ?when, "module data beside the keys");
        decode::skip_module(&mut self.window)?;
        if !self.modules.contains(&module) {
            self.modules.push(module);
        }
        Ok(())
    }

    fn record<V: Visitor>(&mut self, encoding: u8, visitor: &mut V) -> Result<()> {
        self.key.clear();
        self.window.append_string(&mut self.key)?;
        let keep = visitor.keeps_raw();
        if keep == RawValues::Kept {
            self.window.set_mark();
        }
        let value = self
            .decoder
            .decode(encoding, &mut self.window)
            .map_err(|e| decode::name_the_key(e, self.db, &self.key, encoding))?;
        let raw = match keep {
            RawValues::Kept => self.window.marked(),
            RawValues::Dropped => &[],
        };
        visitor.key(Record {
            db: self.db,
            key: &self.key,
            expires_at_ms: self.expires_at_ms.take(),
            usage: std::mem::replace(&mut self.usage, Usage::Unknown),
            value,
            encoding,
            raw,
        })?;
        self.window.clear_mark();
        Ok(())
    }

    fn finish(mut self) -> Result<Summary> {
        let computed = self.window.checksum();
        // the checksum came with version 5
        let checksum = if self.header.version >= 5 {
            let stored = u64::from_le_bytes(self.window.array()?);
            if stored != 0 && stored != computed {
                return Err(corrupt("its checksum does not hold")
                    .with("stored", format!("{stored:016x}"))
                    .with("computed", format!("{computed:016x}")));
            }
            if stored == 0 { Checksum::Disabled } else { Checksum::Held }
        } else {
            Checksum::Disabled
        };
        if !self.window.is_at_end()? {
            return Err(corrupt("bytes follow its end"));
        }
        Ok(Summary { bytes: self.window.offset(), header: self.header, checksum, modules: self.modules })
    }
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
