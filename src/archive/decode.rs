//! Reads a tar archive member by member from a blocking reader: ustar, pax, and GNU long names. Holds one block.
//!
//! What it refuses with `Corrupt`: a wrong checksum, an archive without its end, absolute paths, `..`.

use std::io::Read;

use super::encode::{BLOCK_BYTES, XATTR, XATTR_HEX, pad};
use super::member::{Extent, Kind, Member, Time};
use super::pax;
use crate::error::{Error, ErrorKind, Result, io_kind};

/// Pax records and long names of one member.
const RECORDS_BYTES_MAX: u64 = 16 * 1024 * 1024;
const EXTENTS_MAX: u64 = 4 * 1024 * 1024;

type Block = [u8; BLOCK_BYTES];

/// `Read` gives the stored content of the member that `next_member` gave last.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Content of the current member that is not read yet.
    left: u64,
    /// Bytes that fill its last block.
    fill: u64,
}

/// What the headers in front of a member say about it.
#[derive(Default)]
struct Extra {
    records: Vec<u8>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

#[derive(Default)]
struct Sparse {
    major: u64,
    real_size: Option<u64>,
    name: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Self {
        Self { from, left: 0, fill: 0 }
    }

    /// The next member, skipping what was not read of the one before; `None` at the end of the archive.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        let rest = self.left + self.fill;
        self.skip(rest)?;
        (self.left, self.fill) = (0, 0);
        let mut extra = Extra::default();
        loop {
            let block = self.block()?;
            if block.iter().all(|b| *b == 0) {
                self.drain()?;
                return Ok(None);
            }
            check_sum(&block)?;
            let size = octal(&block[124..136])?;
            match block[156] {
                b'x' => extra.records = self.body(size)?,
                b'g' => drop(self.body(size)?),
                b'L' => extra.long_name = Some(until_nul(&self.body(size)?).to_vec()),
                b'K' => extra.long_link = Some(until_nul(&self.body(size)?).to_vec()),
                _ => return self.member(&block, size, &extra).map(Some),
            }
        }
    }

    fn member(&mut self, block: &Block, mut stored: u64, extra: &Extra) -> Result<Member> {
        let mut member = base(block, extra)?;
        let mut sparse = Sparse::default();
        for (keyword, value) in pax::records(&extra.records)? {
            apply(&mut member, &mut sparse, &mut stored, keyword, value)?;
        }
        // the oldest way of saying it
        if member.kind == Kind::File && member.path.ends_with(b"/") {
            member.kind = Kind::Directory;
        }
        if member.kind != Kind::File {
            // some writers give links the size of what they point to, without content
            stored = 0;
        }
        self.left = stored;
        self.fill = pad(stored).len() as u64;
        member.size = stored;
        if let (1, Some(real)) = (sparse.major, sparse.real_size) {
            member.sparse = Some(self.sparse_map(real)?);
            member.size = real;
        }
        if let Some(name) = sparse.name {
            member.path = name;
        }
        member.path = safe_path(&member.path)?;
        if member.kind == Kind::HardLink {
            member.link = safe_path(&member.link)?;
        }
        Ok(member)
    }

    /// The map in front of the content of a sparse file.
    fn sparse_map(&mut self, real: u64) -> Result<Vec<Extent>> {
        let mut line = MapLines { text: Vec::new(), at: 0 };
        let count = line.number(self)?;
        if count > EXTENTS_MAX {
            return Err(corrupt("a sparse file has too many parts"));
        }
        let mut extents = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let (offset, bytes) = (line.number(self)?, line.number(self)?);
            let stop = offset.checked_add(bytes).filter(|stop| offset >= end && *stop <= real);
            end = stop.ok_or_else(|| corrupt("the map of a sparse file is malformed"))?;
            extents.push(Extent { offset, bytes });
        }
        let total: u64 = extents.iter().map(|e| e.bytes).sum();
        if total != self.left {
            return Err(corrupt("the map of a sparse file does not fit its content"));
        }
        Ok(extents)
    }

    fn block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK_BYTES];
        self.fill_from(&mut block)?;
        Ok(block)
    }

    fn body(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > RECORDS_BYTES_MAX {
            return Err(corrupt("the records of a member are too long"));
        }
        let mut body = vec![0; size as usize];
        self.fill_from(&mut body)?;
        self.skip(pad(size).len() as u64)?;
        Ok(body)
    }

    fn fill_from(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.from.read_exact(buffer).map_err(|e| read_error(&e))
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = std::io::copy(&mut self.from.by_ref().take(bytes), &mut std::io::sink());
        match skipped {
            Ok(n) if n == bytes => Ok(()),
            Ok(_) => Err(corrupt("it ends early")),
            Err(e) => Err(read_error(&e)),
        }
    }

    /// Reads to the end of the stream, so that an error behind the last member is seen.
    fn drain(&mut self) -> Result<()> {
        std::io::copy(&mut self.from, &mut std::io::sink()).map_err(|e| read_error(&e))?;
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if n == 0 {
            return Ok(0);
        }
        let got = self.from.read(&mut buffer[..n])?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// Decimal lines in whole blocks.
struct MapLines {
    text: Vec<u8>,
    at: usize,
}

impl MapLines {
    fn number<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<u64> {
        loop {
            if let Some(n) = self.text[self.at..].iter().position(|b| *b == b'\n') {
                let line = &self.text[self.at..self.at + n];
                self.at += n + 1;
                return pax::number(line);
            }
            if reader.left < BLOCK_BYTES as u64 || self.text.len() - self.at > BLOCK_BYTES {
                return Err(corrupt("the map of a sparse file is malformed"));
            }
            let block = reader.block()?;
            reader.left -= BLOCK_BYTES as u64;
            self.text.drain(..self.at);
            self.at = 0;
            self.text.extend_from_slice(&block);
        }
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read archive").why(why)
}

/// An error that the feed carried keeps its kind; an early end means a damaged archive.
fn read_error(error: &std::io::Error) -> Error {
    if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        return Error::new(inner.kind(), "read archive").retry_as(inner.retry()).why(inner.to_string());
    }
    match error.kind() == std::io::ErrorKind::UnexpectedEof {
        true => corrupt("it ends early"),
        false => Error::new(io_kind(error), "read archive").why(error.to_string()),
    }
}

fn check_sum(block: &Block) -> Result<()> {
    let counted = block
        .iter()
        .enumerate()
        .map(|(n, b)| if (148..156).contains(&n) { u64::from(b' ') } else { u64::from(*b) });
    if counted.sum::<u64>() == octal(&block[148..156])? {
        Ok(())
    } else {
        Err(corrupt("the checksum of a header is wrong"))
    }
}

fn base(block: &Block, extra: &Extra) -> Result<Member> {
    let kind = kind_of(block)?;
    let mut path = until_nul(&block[..100]).to_vec();
    // the prefix field exists in ustar only; GNU puts other things there
    if &block[257..263] == b"ustar\0" {
        let prefix = until_nul(&block[345..500]);
        if !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
    }
    Ok(Member {
        kind,
        path: extra.long_name.clone().unwrap_or(path),
        mode: octal(&block[100..108])? as u32 & 0o7777,
        uid: octal(&block[108..116])? as u32,
        gid: octal(&block[116..124])? as u32,
        size: 0,
        mtime: Time { sec: octal(&block[136..148])?.cast_signed(), nsec: 0 },
        link: extra.long_link.clone().unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
        device: (octal(&block[329..337])? as u32, octal(&block[337..345])? as u32),
        xattrs: Vec::new(),
        sparse: None,
    })
}

fn kind_of(block: &Block) -> Result<Kind> {
    Ok(match block[156] {
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(Error::new(ErrorKind::Unsupported, "read archive member")
                .with("type", char::from(other).escape_default()));
        }
    })
}

fn apply(
    member: &mut Member,
    sparse: &mut Sparse,
    stored: &mut u64,
    keyword: &[u8],
    value: &[u8],
) -> Result<()> {
    let id = |value: &[u8]| {
        u32::try_from(pax::number(value)?).map_err(|e| corrupt("an owner is out of range").because(e))
    };
    match keyword {
        b"path" => member.path = value.to_vec(),
        b"linkpath" => member.link = value.to_vec(),
        b"size" => *stored = pax::number(value)?,
        b"mtime" => member.mtime = pax::parse_time(value)?,
        b"uid" => member.uid = id(value)?,
        b"gid" => member.gid = id(value)?,
        b"GNU.sparse.major" => sparse.major = pax::number(value)?,
        b"GNU.sparse.realsize" => sparse.real_size = Some(pax::number(value)?),
        b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
        other => {
            if let Some(name) = other.strip_prefix(XATTR) {
                member.xattrs.push((name.to_vec(), value.to_vec()));
            } else if let Some(name) = other.strip_prefix(XATTR_HEX) {
                let name = hex::decode(name)
                    .map_err(|e| corrupt("the name of an attribute is malformed").because(e))?;
                member.xattrs.push((name, value.to_vec()));
            }
        }
    }
    Ok(())
}

/// A path below the root, without `.` parts; refuses what could leave it.
pub fn safe_path(path: &[u8]) -> Result<Vec<u8>> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::Corrupt, "accept archive member")
            .with("path", super::show(path))
            .why(why)
            .hint("the archive was not made by a backup of this tree, or it was altered; do not restore it"))
    };
    if path.first() == Some(&b'/') {
        return refuse("its path is absolute");
    }
    if path.contains(&0) {
        return refuse("its path has a NUL byte");
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("its path leads upwards"),
            name => kept.push(name),
        }
    }
    Ok(kept.join(&b'/'))
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits, or the binary form for large numbers.
fn octal(field: &[u8]) -> Result<u64> {
    if let Some(first @ 0x80..) = field.first() {
        // the top bit marks the form, the one below it a negative number
        let mut number = u64::from(first & 0x7f);
        for byte in &field[1..] {
            let shifted = number.checked_mul(256).filter(|_| first & 0x40 == 0);
            number =
                shifted.ok_or_else(|| corrupt("a number in a header is out of range"))? | u64::from(*byte);
        }
        return Ok(number);
    }
    let digits = until_nul(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    pax::text(digits)
        .and_then(|t| u64::from_str_radix(t, 8).ok())
        .ok_or_else(|| corrupt("a number in a header is malformed"))
}
