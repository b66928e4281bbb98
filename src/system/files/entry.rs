//! One entry of the tree as the index keeps it. Owns the JSON form, the order of paths and when an entry is unchanged.

use std::cmp::Ordering;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FileType, Stat};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::archive::{Attributes, Time};

/// Bytes that are text most of the time: a JSON string when they are UTF-8, `{"base64": ".."}` otherwise.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Text(pub Vec<u8>);

/// SHA-256, in hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sha(pub [u8; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// How far the entry can be believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntryState {
    #[default]
    Clean,
    /// It changed during every attempt to read it; stored as last read.
    Torn,
    /// It could not be read this time; as in the backup before.
    Stale,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Relative to the root, which itself is empty.
    pub path: Text,
    pub kind: EntryKind,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    pub inode: u64,
    /// Target of a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Text>,
    /// First path of the same file, when this is a further name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_link: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha>,
    /// Over names and values of the extended attributes; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<Sha>,
    /// Major and minor number of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "is_clean")]
    pub state: EntryState,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_clean(state: &EntryState) -> bool {
    *state == EntryState::Clean
}

/// `None` for sockets, which no archive can hold.
pub(super) fn kind_of(stat: &Stat) -> Option<EntryKind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::Fifo => Some(EntryKind::Fifo),
        FileType::CharacterDevice => Some(EntryKind::CharDevice),
        FileType::BlockDevice => Some(EntryKind::BlockDevice),
        FileType::Socket | FileType::Unknown => None,
    }
}

impl Entry {
    /// Everything that `stat` knows.
    pub fn from_stat(path: &[u8], kind: EntryKind, stat: &Stat) -> Self {
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        Self {
            path: Text(path.to_vec()),
            kind,
            size: if kind == EntryKind::File { stat.st_size.cast_unsigned() } else { 0 },
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(stat),
            ctime: ctime(stat),
            inode: stat.st_ino,
            link: None,
            hard_link: None,
            sha256: None,
            xattrs: None,
            device: matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice).then_some(device),
            state: EntryState::Clean,
        }
    }

    /// Whether what was read for this entry still holds for a file with `stat`. A file last changed after `since` may
    /// have changed once more within the same tick of the clock, and is read again.
    pub fn holds_for(&self, stat: &Stat, since: (i64, u32)) -> bool {
        let now = Self::from_stat(&[], self.kind, stat);
        kind_of(stat) == Some(self.kind)
            && self.state == EntryState::Clean
            && (now.size, now.mode, now.uid, now.gid) == (self.size, self.mode, self.uid, self.gid)
            && (now.mtime, now.ctime, now.inode) == (self.mtime, self.ctime, self.inode)
            && now.device == self.device
            && self.ctime < since
    }

    pub fn time(&self) -> Time {
        Time { sec: self.mtime.0, nsec: self.mtime.1 }
    }

    /// Hash over everything that a restored copy must have in common with the captured one.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(&self.path.0);
        field(&[self.kind as u8]);
        let mut numbers = Vec::with_capacity(48);
        numbers.extend_from_slice(&self.size.to_le_bytes());
        for n in [self.mode, self.uid, self.gid] {
            numbers.extend_from_slice(&n.to_le_bytes());
        }
        // the root's time changes with every heartbeat written into it
        let mtime = if self.path.0.is_empty() { (0, 0) } else { self.mtime };
        numbers.extend_from_slice(&mtime.0.to_le_bytes());
        numbers.extend_from_slice(&mtime.1.to_le_bytes());
        let device = self.device.unwrap_or_default();
        numbers.extend_from_slice(&device.0.to_le_bytes());
        numbers.extend_from_slice(&device.1.to_le_bytes());
        field(&numbers);
        field(self.link.as_ref().map_or(&[], |t| &t.0));
        field(self.hard_link.as_ref().map_or(&[], |t| &t.0));
        field(self.sha256.as_ref().map_or(&[], |s| &s.0));
        field(self.xattrs.as_ref().map_or(&[], |s| &s.0));
        hash.finalize().into()
    }
}

pub(super) fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

pub(super) fn ctime(stat: &Stat) -> (i64, u32) {
    (stat.st_ctime, u32::try_from(stat.st_ctime_nsec).unwrap_or(0))
}

/// Order of a walk: parents before children, siblings by bytes. That is the order of bytes with `/` below all others.
pub(super) fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let differ = a.iter().zip(b).position(|(a, b)| a != b);
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match differ {
        Some(n) => rank(a[n]).cmp(&rank(b[n])),
        None => a.len().cmp(&b.len()),
    }
}

/// Whether `path` is `dir` or below it.
pub(super) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'))
}

pub(super) fn attributes_hash(attributes: &Attributes) -> Option<Sha> {
    if attributes.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for (name, value) in attributes {
        for bytes in [name, value] {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    Some(Sha(hash.finalize().into()))
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::archive::show(&self.0))
    }
}

impl fmt::Debug for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"base64\": string}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.as_bytes().to_vec()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                let Some((key, text)) = map.next_entry::<String, String>()? else {
                    return Err(de::Error::missing_field("base64"));
                };
                if key != "base64" || map.next_key::<String>()?.is_some() {
                    return Err(de::Error::unknown_field(&key, &["base64"]));
                }
                STANDARD.decode(text).map(Text).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Sha {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Sha {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = Sha;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hex digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sha, E> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(E::custom)?;
                Ok(Sha(bytes))
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children_and_children_before_later_siblings() {
        let mut paths: Vec<&[u8]> = vec![b"a.txt", b"a/b", b"a", b"", b"b", b"a/b/c", b"a/b.c", b"a-b"];
        paths.sort_by(|a, b| path_order(a, b));
        let expected: Vec<&[u8]> = vec![b"", b"a", b"a/b", b"a/b/c", b"a/b.c", b"a-b", b"a.txt", b"b"];
        assert_eq!(paths, expected);
    }

    #[test]
    fn names_that_are_not_text_survive_the_index() {
        for name in [&b"plain"[..], b"\xff\xfe\n\"", "n\u{308}".as_bytes(), b"a\nb\\"] {
            let json = serde_json::to_string(&Text(name.to_vec())).unwrap();
            assert!(!json.contains('\n'));
            assert_eq!(serde_json::from_str::<Text>(&json).unwrap().0, name);
        }
        assert!(serde_json::from_str::<Text>("{\"base64\":\"AA==\",\"x\":\"\"}").is_err());
    }
}
