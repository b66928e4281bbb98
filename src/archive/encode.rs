//! Headers of a pax tar archive, from a member to bytes. The content follows, then [`pad`]; [`END`] ends an archive.

use std::io::Write;

use super::member::{Extent, Kind, Member};
use super::pax;

pub const BLOCK_BYTES: usize = 512;
/// Two blocks of zeros.
pub const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

const NAME_BYTES: usize = 100;
/// What eleven octal digits hold.
const SIZE_MAX: u64 = 0o777_7777_7777;
/// What seven octal digits hold.
const ID_MAX: u32 = 0o777_7777;

/// Zeros that fill the last block of `content` bytes.
pub fn pad(content: u64) -> &'static [u8] {
    let over = (content % BLOCK_BYTES as u64) as usize;
    if over == 0 { &[] } else { &END[over..BLOCK_BYTES] }
}

/// Appends the headers of `member` and, for a sparse file, its map. Its stored bytes must follow.
pub fn encode(member: &Member, out: &mut Vec<u8>) {
    let name = archive_name(member);
    let map = member.sparse.as_deref().map(sparse_map);
    let stored = member.stored_bytes() + map.as_ref().map_or(0, |m| m.len() as u64);
    // in the records' place first, the header in front of them when there are any
    let start = out.len();
    out.resize(start + BLOCK_BYTES, 0);
    records(member, &name, stored, out);
    let bytes = out.len() - start - BLOCK_BYTES;
    if bytes == 0 {
        out.truncate(start);
    } else {
        let padding = pad(bytes as u64);
        out.extend_from_slice(padding);
        let mut head = Block::new(b'x', b"PaxHeaders/entry");
        head.octal(124..136, bytes as u64);
        head.octal(100..108, 0o644);
        head.finish();
        out[start..start + BLOCK_BYTES].copy_from_slice(&head.0);
    }
    let shown = if map.is_some() { b"GNUSparseFile/entry".as_slice() } else { cut(&name, member.kind) };
    let mut head = Block::new(type_flag(member.kind), shown);
    head.octal(100..108, u64::from(member.mode & 0o7777));
    head.octal(108..116, u64::from(if member.uid > ID_MAX { 0 } else { member.uid }));
    head.octal(116..124, u64::from(if member.gid > ID_MAX { 0 } else { member.gid }));
    head.octal(124..136, if stored > SIZE_MAX { 0 } else { stored });
    head.octal(136..148, u64::try_from(member.mtime.sec).unwrap_or(0).min(SIZE_MAX));
    head.bytes(157..157 + NAME_BYTES, &member.link);
    head.octal(329..337, u64::from(member.device.0));
    head.octal(337..345, u64::from(member.device.1));
    head.finish();
    out.extend_from_slice(&head.0);
    if let Some(map) = map {
        out.extend_from_slice(&map);
    }
}

/// As much of a name as the header holds; one that ends in `/` would make a directory of a file.
fn cut(name: &[u8], kind: Kind) -> &[u8] {
    let mut shown = &name[..name.len().min(NAME_BYTES)];
    while kind != Kind::Directory && shown.ends_with(b"/") {
        shown = &shown[..shown.len() - 1];
    }
    shown
}

/// Directories end in `/`; the root is `./`.
fn archive_name(member: &Member) -> Vec<u8> {
    let mut name = if member.path.is_empty() { b".".to_vec() } else { member.path.clone() };
    if member.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

fn type_flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// What the header cannot say. Names that are not UTF-8 are said to be bytes.
fn records(member: &Member, name: &[u8], stored: u64, out: &mut Vec<u8>) {
    let long_name = name.len() > NAME_BYTES || member.sparse.is_some();
    let long_link = member.link.len() > NAME_BYTES;
    let binary = |long: bool, bytes: &[u8]| long && std::str::from_utf8(bytes).is_err();
    if binary(long_name, name) || binary(long_link, &member.link) {
        pax::record(out, b"hdrcharset", b"BINARY");
    }
    if member.mtime.nsec != 0 || !(0..=SIZE_MAX as i64).contains(&member.mtime.sec) {
        pax::record(out, b"mtime", pax::show_time(member.mtime).as_bytes());
    }
    if member.sparse.is_some() {
        pax::record(out, b"GNU.sparse.major", b"1");
        pax::record(out, b"GNU.sparse.minor", b"0");
        pax::record(out, b"GNU.sparse.name", name);
        pax::record(out, b"GNU.sparse.realsize", member.size.to_string().as_bytes());
    } else if long_name {
        pax::record(out, b"path", name);
    }
    if long_link {
        pax::record(out, b"linkpath", &member.link);
    }
    if stored > SIZE_MAX {
        pax::record(out, b"size", stored.to_string().as_bytes());
    }
    for (keyword, id) in [(b"uid", member.uid), (b"gid", member.gid)] {
        if id > ID_MAX {
            pax::record(out, keyword, id.to_string().as_bytes());
        }
    }
    for (key, value) in &member.xattrs {
        pax::record(out, &xattr_keyword(key), value);
    }
}

pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
/// For the few names that a pax keyword cannot hold; the name follows in hex.
pub(super) const XATTR_HEX: &[u8] = b"LIFEBOAT.xattr.";

fn xattr_keyword(name: &[u8]) -> Vec<u8> {
    if name.contains(&b'=') {
        [XATTR_HEX, hex::encode(name).as_bytes()].concat()
    } else {
        [XATTR, name].concat()
    }
}

/// The map of the 1.0 form: counts and offsets in decimal lines, filled up to whole blocks.
fn sparse_map(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len()).into_bytes();
    for extent in extents {
        map.extend_from_slice(format!("{}\n{}\n", extent.offset, extent.bytes).as_bytes());
    }
    let padding = pad(map.len() as u64);
    map.extend_from_slice(padding);
    map
}

struct Block([u8; BLOCK_BYTES]);

impl Block {
    fn new(flag: u8, name: &[u8]) -> Self {
        let mut block = Self([0; BLOCK_BYTES]);
        block.bytes(0..NAME_BYTES, name);
        block.0[156] = flag;
        block.bytes(257..265, b"ustar\x0000");
        block.octal(108..116, 0);
        block.octal(116..124, 0);
        block.octal(136..148, 0);
        block
    }

    /// Cut off where it is too long: a record has the whole then.
    fn bytes(&mut self, range: std::ops::Range<usize>, value: &[u8]) {
        let field = &mut self.0[range];
        let n = value.len().min(field.len());
        field[..n].copy_from_slice(&value[..n]);
    }

    fn octal(&mut self, range: std::ops::Range<usize>, value: u64) {
        let width = range.len() - 1;
        let mut digits = &mut self.0[range][..width];
        // a slice of the right length takes every digit; values are bounded by the callers
        if write!(digits, "{value:0width$o}").is_err() {
            digits.fill(b'0');
        }
    }

    fn finish(&mut self) {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|b| u64::from(*b)).sum();
        self.octal(148..155, sum);
    }
}
