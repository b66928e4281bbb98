//! Unpacks members below a directory and never outside of it. Owns the order in which an entry gets its parts: content,
//! owner, mode, capability, ACLs, times; directories' own last of all, so that work inside does not change them.
//!
//! Members are applied in the order of the archive, later ones replacing earlier ones at the same path. Small files are
//! made by helpers beside the main thread.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::attributes::drop_acls;
use super::crew::Crew;
use super::decode::Reader;
use super::dirs::{DirStack, Missing, join, open_directory, remove_tree, split};
use super::make::{
    Refused, create, dress, dress_named, failed, lock, outside, read_failed, replacing, write_at,
};
use super::member::{Extent, Kind, Member};
use crate::error::{Error, Result};

/// Files up to this size are read whole and made by a helper.
const SMALL_BYTES_MAX: u64 = 256 * 1024;
const COPY_BYTES: usize = 1024 * 1024;
/// A helper gets files in handfuls of so many or so much.
const BATCH_FILES_MAX: usize = 32;
const BATCH_BYTES_MAX: usize = 512 * 1024;
const BATCHES_QUEUED_MAX: usize = 8;
/// Paths remembered between two waits for the helpers.
const QUEUED_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    Create,
    Skip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    Restore,
    /// Everything belongs to us: we may not give it away.
    Ours,
}

#[derive(Clone, Copy, Debug)]
pub struct UnpackOptions {
    pub devices: Devices,
    pub owners: Owners,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub items: u64,
    pub bytes: u64,
    pub devices_skipped: u64,
    /// Names of extended attributes that could not be set somewhere.
    pub refused: BTreeSet<Vec<u8>>,
}

#[derive(Debug)]
pub struct Unpacker {
    dirs: DirStack,
    /// For targets of hard links, so that the way to them does not disturb the other.
    links: DirStack,
    crew: Arc<Crew>,
    shared: Arc<Shared>,
    options: UnpackOptions,
    /// Metadata of directories, applied at the end.
    directories: BTreeMap<Vec<u8>, Member>,
    /// Devices left out, and further names of them.
    skipped: BTreeSet<Vec<u8>>,
    batch: Vec<Small>,
    batch_bytes: usize,
    /// Paths handed to helpers since everything was last settled.
    queued: HashSet<Vec<u8>>,
    done: Unpacked,
}

#[derive(Debug, Default)]
struct Shared {
    failed: Mutex<Option<Error>>,
    refused: Refused,
}

#[derive(Debug)]
struct Small {
    parent: Arc<OwnedFd>,
    member: Member,
    content: Vec<u8>,
}

impl Unpacker {
    /// `root` should be empty and private; its ACLs are taken off.
    pub fn new(root: OwnedFd, options: UnpackOptions) -> Result<Self> {
        drop_acls(&root).map_err(|e| failed("prepare directory", b"", e))?;
        let root = Arc::new(root);
        Ok(Self {
            dirs: DirStack::new(root.clone()),
            links: DirStack::new(root),
            crew: Arc::default(),
            shared: Arc::default(),
            options,
            directories: BTreeMap::new(),
            skipped: BTreeSet::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            queued: HashSet::new(),
            done: Unpacked::default(),
        })
    }

    /// From now on, whoever serves `crew` helps. What was applied before must be settled.
    pub fn work_with(&mut self, crew: Arc<Crew>) {
        self.crew = crew;
    }

    pub fn root(&self) -> &Arc<OwnedFd> {
        self.dirs.root()
    }

    /// Applies one member; its content comes from `reader`. Done only after [`Self::settle`].
    pub fn apply<R: Read>(&mut self, member: Member, reader: &mut Reader<R>) -> Result<()> {
        self.done.items += 1;
        let (dir, name) = split(&member.path);
        if member.path.is_empty() && member.kind != Kind::Directory {
            return Err(failed("accept archive member", b"", Errno::ISDIR.into()));
        }
        // what a helper is still to make at this path, or at one above it, comes first
        if self.queued.contains(&member.path) {
            self.settle()?;
        }
        let parent = match self.dirs.open(dir, Missing::Fail) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.settle()?;
                self.dirs.open(dir, Missing::Create)
            }
            result => result,
        };
        let parent = parent.map_err(|e| outside(&member.path, e))?;
        match member.kind {
            Kind::Directory => self.directory(&parent, member),
            Kind::File if member.sparse.is_none() && member.size <= SMALL_BYTES_MAX => {
                self.small(parent, member, reader)
            }
            Kind::File => self.large(&parent, &member, reader),
            Kind::HardLink => self.hard_link(&parent, &member),
            Kind::Symlink => {
                let make = || rustix::fs::symlinkat(member.link.as_slice(), &*parent, name);
                replacing(&parent, name, make).map_err(|e| failed("make link", &member.path, e))?;
                dress_named(&parent, name, &member, self.options.owners, &self.shared.refused)
            }
            Kind::Fifo => self.node(&parent, name, &member, FileType::Fifo),
            Kind::CharDevice => self.node(&parent, name, &member, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(&parent, name, &member, FileType::BlockDevice),
        }
    }

    /// Removes `path` with all below it.
    pub fn remove(&mut self, path: &[u8]) -> Result<()> {
        self.settle()?;
        self.dirs.forget(path);
        self.links.forget(path);
        remove_tree(&mut self.dirs, path).map_err(|e| failed("remove", path, e))?;
        self.dirs.forget(path);
        self.directories.remove(path);
        // everything below: from `path/` up to the byte after the slash
        let below = join(path, b"")..[path, b"0"].concat();
        let gone: Vec<_> = self.directories.range(below).map(|(p, _)| p.clone()).collect();
        for path in gone {
            self.directories.remove(&path);
        }
        Ok(())
    }

    /// Waits until everything applied is there; gives the first error of the helpers.
    pub fn settle(&mut self) -> Result<()> {
        self.hand_over();
        self.crew.settle()?;
        self.queued.clear();
        self.look()
    }

    /// Gives the directories their metadata and makes all of it durable.
    pub fn finish(mut self) -> Result<Unpacked> {
        self.settle()?;
        let directories = std::mem::take(&mut self.directories);
        for (path, member) in directories.iter().rev() {
            match self.dirs.open(path, Missing::Fail) {
                Ok(fd) => dress(&fd, member, self.options.owners, &self.shared.refused)?,
                // replaced by something else later in the chain
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(failed("open directory", path, e)),
            }
        }
        rustix::fs::syncfs(&**self.dirs.root()).map_err(|e| failed("sync files", b"", e.into()))?;
        self.done.refused = std::mem::take(&mut *lock(&self.shared.refused));
        Ok(self.done)
    }

    fn look(&self) -> Result<()> {
        lock(&self.shared.failed).take().map_or(Ok(()), Err)
    }

    fn directory(&mut self, parent: &OwnedFd, member: Member) -> Result<()> {
        let name = split(&member.path).1;
        let make = || rustix::fs::mkdirat(parent, name, Mode::RWXU);
        if !member.path.is_empty() {
            let made = match make() {
                Err(Errno::EXIST) if open_directory(parent, name).is_ok() => Ok(()),
                Err(Errno::EXIST) => replacing(parent, name, make),
                result => result.map_err(io::Error::from),
            };
            made.map_err(|e| failed("make directory", &member.path, e))?;
        }
        self.directories.insert(member.path.clone(), member);
        Ok(())
    }

    fn small<R: Read>(&mut self, parent: Arc<OwnedFd>, member: Member, reader: &mut Reader<R>) -> Result<()> {
        let mut content = vec![0; member.size as usize];
        reader.read_exact(&mut content).map_err(|e| read_failed(&member.path, &e))?;
        self.done.bytes += member.size;
        self.queued.insert(member.path.clone());
        if self.queued.len() > QUEUED_MAX {
            self.settle()?;
        }
        self.batch_bytes += content.len();
        self.batch.push(Small { parent, member, content });
        if self.batch.len() >= BATCH_FILES_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            self.hand_over();
            while self.crew.queued() > BATCHES_QUEUED_MAX {
                self.crew.help();
            }
            self.look()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return;
        }
        let (shared, owners) = (self.shared.clone(), self.options.owners);
        self.crew.submit(move || {
            for small in batch {
                if let Err(error) = small.make(owners, &shared) {
                    lock(&shared.failed).get_or_insert(error);
                    return;
                }
            }
        });
    }

    fn large<R: Read>(&mut self, parent: &OwnedFd, member: &Member, reader: &mut Reader<R>) -> Result<()> {
        // a file that changed while it was read comes again under its name: the earlier must be there by then
        self.settle()?;
        let fd = create(parent, split(&member.path).1).map_err(|e| failed("make file", &member.path, e))?;
        let whole = [Extent { offset: 0, bytes: member.size }];
        let extents = member.sparse.as_deref().unwrap_or(&whole);
        let mut buffer = vec![0; COPY_BYTES];
        for extent in extents {
            let mut at = extent.offset;
            let end = extent.offset + extent.bytes;
            while at < end {
                let n = usize::try_from(end - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
                reader.read_exact(&mut buffer[..n]).map_err(|e| read_failed(&member.path, &e))?;
                write_at(&fd, &buffer[..n], at).map_err(|e| failed("write file", &member.path, e))?;
                at += n as u64;
            }
            self.done.bytes += extent.bytes;
        }
        if member.sparse.is_some() {
            rustix::fs::ftruncate(&fd, member.size)
                .map_err(|e| failed("write file", &member.path, e.into()))?;
        }
        dress(&fd, member, self.options.owners, &self.shared.refused)
    }

    fn hard_link(&mut self, parent: &OwnedFd, member: &Member) -> Result<()> {
        if self.skipped.contains(&member.link) {
            return self.skip(member);
        }
        self.settle()?;
        let (dir, target) = split(&member.link);
        let from = self.links.open(dir, Missing::Fail).map_err(|e| outside(&member.link, e))?;
        let name = split(&member.path).1;
        if member.path == member.link {
            return Ok(());
        }
        replacing(parent, name, || rustix::fs::linkat(&*from, target, parent, name, AtFlags::empty()))
            .map_err(|e| failed("make hard link", &member.path, e))
    }

    fn node(&mut self, parent: &OwnedFd, name: &[u8], member: &Member, kind: FileType) -> Result<()> {
        if kind != FileType::Fifo && self.options.devices == Devices::Skip {
            return self.skip(member);
        }
        let device = rustix::fs::makedev(member.device.0, member.device.1);
        replacing(parent, name, || rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device))
            .map_err(|e| failed("make special file", &member.path, e))?;
        dress_named(parent, name, member, self.options.owners, &self.shared.refused)
    }

    fn skip(&mut self, member: &Member) -> Result<()> {
        self.done.devices_skipped += 1;
        self.skipped.insert(member.path.clone());
        Ok(())
    }
}

impl Small {
    fn make(&self, owners: Owners, shared: &Shared) -> Result<()> {
        let name = split(&self.member.path).1;
        let fd = create(&self.parent, name).map_err(|e| failed("make file", &self.member.path, e))?;
        write_at(&fd, &self.content, 0).map_err(|e| failed("write file", &self.member.path, e))?;
        dress(&fd, &self.member, owners, &shared.refused)
    }
}
