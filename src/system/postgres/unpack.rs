//! Unpacks the tar stream of a base backup below one directory and checks every file against the server's listing.
//!
//! Only directories and regular files are made, never through a link; links of tablespaces are made by the caller. A name
//! that leaves the directory, a file that is not listed or differs, and a stream that ends early are `Corrupt`.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::consume::{Consume, consume};
use super::direct::{Block, NewFile};
use super::listing::{Listed, Listing};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::ByteStream;

const TAR_BLOCK_BYTES: usize = 512;
pub const DIR_MODE: u32 = 0o700;

/// Files that are still to come; shared by the archives of one backup.
pub type Expected = Arc<Mutex<HashMap<PathBuf, Listed>>>;

pub fn expected(listing: &Listing) -> Expected {
    Arc::new(Mutex::new(listing.files.clone()))
}

/// One archive and where it goes.
#[derive(Clone, Debug)]
pub struct Archive {
    pub root: PathBuf,
    /// What the listing has in front of this archive's names: empty, or `pg_tblspc/<oid>`.
    pub listed_below: PathBuf,
    /// `None`: there is no listing (before version 13), so nothing can be checked.
    pub expected: Option<Expected>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub files: u64,
    pub bytes: u64,
}

/// Unpacks `stream` on a thread of its own while the next bytes are fetched.
pub async fn unpack(stream: ByteStream, archive: Archive, job: &JobContext) -> Result<Written> {
    consume(stream, Unpacker::new(archive), job).await
}

/// Where in the tar stream we are.
enum State {
    Header,
    File(Box<OpenFile>),
    /// Zeros up to the next block.
    Padding(usize),
    End,
}

struct OpenFile {
    file: NewFile,
    path: PathBuf,
    bytes: u64,
    left: u64,
    hasher: Sha256,
}

struct Unpacker {
    archive: Archive,
    state: State,
    header: Vec<u8>,
    block: Block,
    written: Written,
}

impl Unpacker {
    fn new(archive: Archive) -> Self {
        Self {
            archive,
            state: State::Header,
            header: Vec::with_capacity(TAR_BLOCK_BYTES),
            block: Block::default(),
            written: Written::default(),
        }
    }
}

impl Consume for Unpacker {
    type Out = Written;

    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Header => {
                    let n = bytes.len().min(TAR_BLOCK_BYTES - self.header.len());
                    self.header.extend_from_slice(&bytes[..n]);
                    if self.header.len() == TAR_BLOCK_BYTES {
                        self.state = self.entry()?;
                        self.header.clear();
                    }
                    n
                }
                State::File(open) => {
                    let n = usize::try_from(open.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    open.hasher.update(&bytes[..n]);
                    open.file.write(&bytes[..n], &mut self.block)?;
                    open.left -= n as u64;
                    if open.left == 0 {
                        self.end_file()?;
                    }
                    n
                }
                State::Padding(left) => {
                    let n = bytes.len().min(*left);
                    *left -= n;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                    n
                }
                State::End => bytes.len(),
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn finish(self) -> Result<Written> {
        match self.state {
            State::End => Ok(self.written),
            // the server leaves out the closing blocks of archives before version 15
            State::Header if self.header.is_empty() => Ok(self.written),
            State::Header | State::File(_) | State::Padding(_) => {
                Err(corrupt("an archive that ends inside a member", Path::new("")))
            }
        }
    }
}

impl Unpacker {
    fn entry(&mut self) -> Result<State> {
        if self.header.iter().all(|b| *b == 0) {
            return Ok(State::End);
        }
        let header = tar::Header::from_byte_slice(&self.header);
        let io = |e: std::io::Error| corrupt("a broken archive header", Path::new("")).because(e);
        let sum: u32 = self
            .header
            .iter()
            .enumerate()
            .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
            .sum();
        if header.cksum().map_err(io)? != sum {
            return Err(corrupt("an archive header with a wrong checksum", Path::new("")));
        }
        let name = safe_name(&header.path_bytes())?;
        let bytes = header.size().map_err(io)?;
        let path = self.archive.root.join(&name);
        let kind = header.entry_type();
        if kind.is_dir() {
            make_dir(&path)?;
            return Ok(State::Header);
        }
        if kind.is_symlink() && name.starts_with("pg_tblspc") {
            return Ok(State::Header);
        }
        if !kind.is_file() {
            return Err(corrupt("an archive member that is no file or directory", &name));
        }
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        let file = NewFile::create(&path, bytes)?;
        let listed_as = self.archive.listed_below.join(name);
        self.state = State::File(Box::new(OpenFile {
            file,
            path: listed_as,
            bytes,
            left: bytes,
            hasher: Sha256::new(),
        }));
        if bytes == 0 {
            self.end_file()?;
        }
        Ok(std::mem::replace(&mut self.state, State::Header))
    }

    fn end_file(&mut self) -> Result<()> {
        let State::File(open) = std::mem::replace(&mut self.state, State::Header) else {
            return Err(Error::bug("end a file that is not open"));
        };
        open.file.finish(&mut self.block)?;
        if let Some(expected) = &self.archive.expected {
            let mut expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
            let listed = expected
                .remove(&open.path)
                .ok_or_else(|| corrupt("a file that backup_manifest does not list", &open.path))?;
            if listed.bytes != open.bytes {
                return Err(corrupt("a file of another size than listed", &open.path));
            }
            if open.hasher.finalize()[..] != listed.sha256 {
                return Err(corrupt("a file with another checksum than listed", &open.path));
            }
        }
        self.written.files += 1;
        self.written.bytes += open.bytes;
        let over = usize::try_from(open.bytes % TAR_BLOCK_BYTES as u64).unwrap_or(0);
        if over > 0 {
            self.state = State::Padding(TAR_BLOCK_BYTES - over);
        }
        Ok(())
    }
}

/// The name as a path of plain parts; anything that could leave the root is refused.
fn safe_name(name: &[u8]) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                return Err(corrupt("an archive member that points outside the target", path));
            }
        }
    }
    Ok(plain)
}

/// Makes a directory and what is missing above it, 0700.
pub fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).or_io("make directory", path)
}

fn corrupt(what: &str, path: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, "unpack base backup")
        .with("file", path.display())
        .why(what)
        .hint("this backup is damaged: restore an older one and verify the others")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_cksum();
        let mut all = header.as_bytes().to_vec();
        all.extend_from_slice(content);
        all.resize(all.len().next_multiple_of(512), 0);
        all.resize(all.len() + 1024, 0);
        all
    }

    fn run(archive: &[u8], cut: usize, expected: Option<Expected>) -> (Result<Written>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        make_dir(&root).unwrap();
        let mut unpacker = Unpacker::new(Archive { root, listed_below: PathBuf::new(), expected });
        let result =
            archive.chunks(cut).try_for_each(|chunk| unpacker.feed(chunk)).and_then(|()| unpacker.finish());
        (result, dir)
    }

    fn listing(name: &str, content: &[u8]) -> Expected {
        let listed = Listed { bytes: content.len() as u64, sha256: Sha256::digest(content).into() };
        Arc::new(Mutex::new(HashMap::from([(PathBuf::from(name), listed)])))
    }

    #[test]
    fn files_come_out_whole_however_the_stream_is_cut() {
        let content: Vec<u8> = (0..5000_u32).map(|n| (n % 253) as u8).collect();
        for cut in [1, 7, 511, 512, 513, 100_000] {
            let (result, dir) = run(&tar_with("a/b", &content), cut, Some(listing("a/b", &content)));
            assert_eq!(result.unwrap(), Written { files: 1, bytes: 5000 });
            assert_eq!(std::fs::read(dir.path().join("root/a/b")).unwrap(), content);
        }
    }

    #[test]
    fn a_member_that_points_outside_is_refused_and_nothing_is_written_there() {
        for name in ["../evil", "/tmp/lifeboat-evil", "a/../../evil"] {
            let (result, dir) = run(&tar_with(name, b"x"), 512, None);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
            assert!(!dir.path().join("evil").try_exists().unwrap());
        }
    }

    #[test]
    fn a_changed_an_unlisted_and_a_cut_file_are_corrupt() {
        let wrong = [
            run(&tar_with("f", b"other"), 512, Some(listing("f", b"right"))).0,
            run(&tar_with("f", b"longer"), 512, Some(listing("f", b"right"))).0,
            run(&tar_with("g", b"right"), 512, Some(listing("f", b"right"))).0,
            run(&tar_with("f", b"right")[..514], 512, Some(listing("f", b"right"))).0,
        ];
        for result in wrong {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_link_is_refused() {
        let mut archive = tar_with("f", b"");
        let mut header = tar::Header::from_byte_slice(&archive[..512]).clone();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_cksum();
        archive[..512].copy_from_slice(header.as_bytes());
        assert_eq!(run(&archive, 512, None).0.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
