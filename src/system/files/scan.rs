//! Drives a walk and the reading of what it finds, small files by helpers, everything handed on in the order of the walk.
//! Owns hard links (first path of every file) and the reading of large files.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Stat;

use super::entry::{Entry, EntryKind, EntryState, Text, kind_of};
use super::grab::{
    Change, Fresh, Grabbed, Grabber, Keep, Piece, SMALL_BYTES_MAX, Trouble, TroubleKind, Who, member,
};
use super::walk::{Found, Step, Walk};
use crate::archive::{Crew, encode};
use crate::error::{Error, Result, io_kind};
use crate::runtime::JobContext;

/// Batches on their way; with their bounds they bound memory and open directories.
const WINDOW: usize = 8;
const BATCH_FILES_MAX: usize = 128;
const BATCH_BYTES_MAX: i64 = 1024 * 1024;
const BATCH_DIRECTORIES_MAX: usize = 16;
const BATCH_KNOWN_MAX: usize = 2048;

/// Who receives a scan, always in the order of the walk; `before` and `carried` run ahead of the others.
pub(super) trait Visitor {
    /// What the parent knew at this path.
    fn before(&mut self, found: &Found) -> Result<Option<Entry>>;
    /// The next entry that the parent knew at or below a path that cannot be read now.
    fn carried(&mut self, path: &[u8]) -> Result<Option<Entry>>;
    /// Whether `known` still holds for the entry found.
    fn holds(&self, known: &Entry, found: &Found) -> bool;
    /// Archive bytes.
    fn bytes(&mut self, bytes: Vec<u8>) -> Result<()>;
    fn entry(&mut self, entry: Entry, change: Change) -> Result<()>;
    fn trouble(&mut self, trouble: Trouble);
}

#[derive(Debug)]
pub(super) struct Scan<'a> {
    walk: Walk,
    pub(super) grabber: Grabber,
    crew: &'a Crew,
    pub(super) job: &'a JobContext,
    window: VecDeque<Slot>,
    batch: Batch,
    /// Files with several names, by device and inode, until all names were seen.
    links: HashMap<(u64, u64), First>,
}

#[derive(Debug)]
enum Slot {
    Batch(Arc<Mutex<Option<Grabbed>>>),
    Alone(Box<Fresh>),
    /// Nothing to be read.
    Known(Vec<Entry>),
    Trouble(Trouble),
}

#[derive(Debug, Default)]
struct Batch {
    items: Vec<Item>,
    fresh: usize,
    bytes: i64,
    directories: usize,
}

#[derive(Debug)]
enum Item {
    Known(Entry),
    Fresh(Fresh),
}

#[derive(Debug)]
struct First {
    entry: Entry,
    change: Change,
    names_left: u32,
}

impl<'a> Scan<'a> {
    pub fn new(walk: Walk, grabber: Grabber, crew: &'a Crew, job: &'a JobContext) -> Self {
        Self {
            walk,
            grabber,
            crew,
            job,
            window: VecDeque::new(),
            batch: Batch::default(),
            links: HashMap::new(),
        }
    }

    pub fn run(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let mut walking = true;
        loop {
            while walking && self.window.len() < WINDOW {
                walking = self.advance(visitor)?;
            }
            let Some(slot) = self.window.pop_front() else {
                return Ok(());
            };
            self.job.check("read files")?;
            self.job.progress().beat();
            self.deliver(slot, visitor)?;
        }
    }

    /// One step of the walk; `false` at its end.
    fn advance(&mut self, visitor: &mut impl Visitor) -> Result<bool> {
        let step = self.walk.step().map_err(|e| Error::new(io_kind(&e), "read root directory").because(e))?;
        match step {
            None => {
                self.hand_over();
                return Ok(false);
            }
            Some(Step::Found(found)) => {
                let parent = visitor.before(&found)?;
                match parent {
                    Some(known) if visitor.holds(&known, &found) => self.known(found, known),
                    parent => self.fresh(Fresh { found, parent }),
                }
            }
            Some(Step::Unreadable { path, error }) => {
                while let Some(mut entry) = visitor.carried(&path)? {
                    entry.state = EntryState::Stale;
                    self.batch.items.push(Item::Known(entry));
                }
                let what = TroubleKind::Unreadable(error);
                self.alone(Slot::Trouble(Trouble { path, what }));
            }
            Some(Step::OtherFilesystem { path }) => {
                let what = TroubleKind::OtherFilesystem;
                self.alone(Slot::Trouble(Trouble { path, what }));
            }
        }
        Ok(true)
    }

    fn known(&mut self, found: Found, entry: Entry) {
        if is_shared(&found.stat) {
            // which name comes first may have changed
            let parent = Some(entry);
            self.alone(Slot::Alone(Box::new(Fresh { found, parent })));
            return;
        }
        self.batch.items.push(Item::Known(entry));
        self.hand_over_full();
    }

    fn fresh(&mut self, fresh: Fresh) {
        let stat = &fresh.found.stat;
        let kind = kind_of(stat);
        let large = kind == Some(EntryKind::File) && stat.st_size > SMALL_BYTES_MAX;
        if large || is_shared(stat) {
            self.alone(Slot::Alone(Box::new(fresh)));
            return;
        }
        self.batch.fresh += 1;
        match kind {
            Some(EntryKind::File) => self.batch.bytes += stat.st_size,
            Some(EntryKind::Directory) => self.batch.directories += 1,
            Some(EntryKind::Symlink | EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice)
            | None => {}
        }
        self.batch.items.push(Item::Fresh(fresh));
        self.hand_over_full();
    }

    fn hand_over_full(&mut self) {
        let batch = &self.batch;
        if batch.fresh >= BATCH_FILES_MAX
            || batch.bytes >= BATCH_BYTES_MAX
            || batch.directories >= BATCH_DIRECTORIES_MAX
            || batch.items.len() >= BATCH_KNOWN_MAX
        {
            self.hand_over();
        }
    }

    fn alone(&mut self, slot: Slot) {
        self.hand_over();
        self.window.push_back(slot);
    }

    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.items.is_empty() {
            return;
        }
        if batch.fresh == 0 {
            let known = batch.items.into_iter().filter_map(|item| match item {
                Item::Known(entry) => Some(entry),
                Item::Fresh(_) => None,
            });
            self.window.push_back(Slot::Known(known.collect()));
            return;
        }
        let place = Arc::new(Mutex::new(None));
        self.window.push_back(Slot::Batch(place.clone()));
        let grabber = self.grabber.clone();
        self.crew.submit(move || {
            let mut grabbed = Grabbed::default();
            for item in batch.items {
                match item {
                    Item::Known(entry) => {
                        grabbed.pieces.push(Piece::Entry(Box::new(entry), Change::Unchanged));
                    }
                    Item::Fresh(fresh) => grabber.grab(fresh, Who::Helper, &mut grabbed),
                }
            }
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(grabbed);
        });
    }

    fn deliver(&mut self, slot: Slot, visitor: &mut impl Visitor) -> Result<()> {
        match slot {
            Slot::Batch(place) => {
                let take = || place.lock().unwrap_or_else(PoisonError::into_inner);
                self.crew.work_until(|| take().is_some())?;
                let grabbed = take().take().unwrap_or_default();
                self.pieces(grabbed, visitor)
            }
            Slot::Known(entries) => {
                entries.into_iter().try_for_each(|entry| visitor.entry(entry, Change::Unchanged))
            }
            Slot::Trouble(trouble) => {
                visitor.trouble(trouble);
                Ok(())
            }
            Slot::Alone(fresh) => self.read_alone(*fresh, visitor),
        }
    }

    fn pieces(&mut self, grabbed: Grabbed, visitor: &mut impl Visitor) -> Result<()> {
        if !grabbed.archive.is_empty() {
            visitor.bytes(grabbed.archive)?;
        }
        for piece in grabbed.pieces {
            match piece {
                Piece::Entry(entry, change) => visitor.entry(*entry, change)?,
                Piece::Trouble(trouble) => visitor.trouble(trouble),
                Piece::Alone(fresh) => self.read_alone(*fresh, visitor)?,
            }
        }
        Ok(())
    }

    fn read_alone(&mut self, fresh: Fresh, visitor: &mut impl Visitor) -> Result<()> {
        let stat = fresh.found.stat;
        let key = (stat.st_dev, stat.st_ino);
        if !is_shared(&stat) {
            if let Some((entry, change)) = self.read_here(fresh, visitor)? {
                visitor.entry(entry, change)?;
            }
            return Ok(());
        }
        if let Some(first) = self.links.get_mut(&key) {
            first.names_left = first.names_left.saturating_sub(1);
            let (entry, change) = further_name(&fresh, first, visitor);
            if first.names_left == 0 {
                self.links.remove(&key);
            }
            if change == Change::Written && self.grabber.keep == Keep::Archive {
                let mut header = Vec::new();
                encode(&member(&entry, Vec::new()), &mut header);
                visitor.bytes(header)?;
            }
            return visitor.entry(entry, change);
        }
        let unchanged = fresh
            .parent
            .as_ref()
            .filter(|p| p.hard_link.is_none() && visitor.holds(p, &fresh.found))
            .cloned();
        let read = match unchanged {
            Some(entry) => Some((entry, Change::Unchanged)),
            None => self.read_here(fresh, visitor)?,
        };
        if let Some((entry, change)) = read {
            let first = First {
                entry: entry.clone(),
                change,
                names_left: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX) - 1,
            };
            self.links.insert(key, first);
            visitor.entry(entry, change)?;
        }
        Ok(())
    }

    /// Reads one entry on this thread; `None` when it is gone or could not be read, which is then reported.
    fn read_here(&mut self, fresh: Fresh, visitor: &mut impl Visitor) -> Result<Option<(Entry, Change)>> {
        let mut grabbed = Grabbed::default();
        self.grabber.grab(fresh, Who::Main, &mut grabbed);
        if !grabbed.archive.is_empty() {
            visitor.bytes(std::mem::take(&mut grabbed.archive))?;
        }
        let mut read = None;
        for piece in grabbed.pieces {
            match piece {
                Piece::Entry(entry, change) => read = Some((*entry, change)),
                Piece::Trouble(trouble) => visitor.trouble(trouble),
                Piece::Alone(fresh) => read = self.large(*fresh, visitor)?,
            }
        }
        Ok(read)
    }
}

/// A further name of a file whose first name was met before.
fn further_name(fresh: &Fresh, first: &First, visitor: &impl Visitor) -> (Entry, Change) {
    let path = Text(fresh.found.path.clone());
    let entry = Entry { path, hard_link: Some(first.entry.path.clone()), ..first.entry.clone() };
    let same_link = |p: &&Entry| p.hard_link == entry.hard_link && visitor.holds(p, &fresh.found);
    let unchanged = first.change == Change::Unchanged && fresh.parent.as_ref().filter(same_link).is_some();
    let change = if unchanged { Change::Unchanged } else { Change::Written };
    (entry, change)
}

/// One of several names of the same file.
fn is_shared(stat: &Stat) -> bool {
    stat.st_nlink > 1 && kind_of(stat) != Some(EntryKind::Directory)
}
