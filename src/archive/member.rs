//! One member of an archive as a value: everything about an entry but its content.

/// Seconds since 1970 and nanoseconds after them; the seconds may be negative, the nanoseconds count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    #[default]
    File,
    /// Another name of the earlier member that `link` names.
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A part of a sparse file that holds data; what is between is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub bytes: u64,
}

/// Invariants of a member that `Reader` gives: `path` is relative, without `.`, `..` or empty parts; empty is the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Size of the file as a reader of it sees it, holes included. Zero for everything but files.
    pub size: u64,
    pub mtime: Time,
    /// Target of a symlink as it is; path of the first name for a hard link.
    pub link: Vec<u8>,
    /// Major and minor number.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Extents in order, not overlapping, for a file stored without its holes.
    pub sparse: Option<Vec<Extent>>,
}

impl Member {
    /// Bytes of content in the archive.
    pub fn stored_bytes(&self) -> u64 {
        match (&self.sparse, self.kind) {
            (Some(extents), Kind::File) => extents.iter().map(|e| e.bytes).sum(),
            (None, Kind::File) => self.size,
            (
                _,
                Kind::HardLink
                | Kind::Symlink
                | Kind::CharDevice
                | Kind::BlockDevice
                | Kind::Directory
                | Kind::Fifo,
            ) => 0,
        }
    }
}
