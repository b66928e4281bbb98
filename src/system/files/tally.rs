//! What a capture counted and what a person should know about it. Owns the wording of the notes.

use serde::{Deserialize, Serialize};

use super::canary::CANARY_FILE;
use super::entry::{Entry, EntryKind, EntryState};
use super::fingerprint::FingerprintBuilder;
use super::grab::{Change, Trouble, TroubleKind};
use crate::archive::show;

/// Paths named in notes, and kept in the manifest.
pub(super) const NAMED_MAX: usize = 20;

/// Paths with one thing in common: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Paths {
    pub count: u64,
    pub first: Vec<String>,
}

impl Paths {
    pub fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(show(path));
        }
    }

    /// `3: a, b, c`; empty when there are none.
    pub fn describe(&self) -> String {
        let more = if self.count > self.first.len() as u64 { ", …" } else { "" };
        format!("{}: {}{more}", self.count, self.first.join(", "))
    }
}

/// Kept in the manifest as the engine's own notes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Detail {
    pub root: String,
    pub exclude: Vec<String>,
    /// Entries of the whole tree.
    pub entries: u64,
    /// Sizes of the files of the whole tree, every file once.
    pub bytes: u64,
    /// Entries in this archive, and entries gone since the parent.
    pub written: u64,
    pub deleted: u64,
    pub torn: Paths,
    pub stale: Paths,
    pub unreadable: Paths,
    pub sockets: Paths,
    pub other_filesystems: Paths,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub detail: Detail,
    pub fingerprint: FingerprintBuilder,
    /// Newest time of a change that the copy contains.
    pub newest: Option<(i64, u32)>,
    errors: Vec<String>,
}

impl Tally {
    /// Times after `now` are wrong clocks, not writes.
    pub fn add(&mut self, entry: &Entry, change: Change, now: (i64, u32)) {
        self.detail.entries += 1;
        if entry.kind == EntryKind::File && entry.hard_link.is_none() {
            self.detail.bytes += entry.size;
        }
        if change == Change::Written {
            self.detail.written += 1;
        }
        match entry.state {
            EntryState::Clean => {}
            EntryState::Torn => self.detail.torn.add(&entry.path.0),
            EntryState::Stale => self.detail.stale.add(&entry.path.0),
        }
        if entry.state == EntryState::Clean && is_write(&entry.path.0) && entry.mtime <= now {
            self.newest = self.newest.max(Some(entry.mtime));
        }
        self.fingerprint.add(entry);
    }

    pub fn trouble(&mut self, trouble: Trouble) {
        match trouble.what {
            TroubleKind::Unreadable(error) => {
                self.detail.unreadable.add(&trouble.path);
                if self.errors.len() < NAMED_MAX {
                    self.errors.push(format!("{} ({error})", show(&trouble.path)));
                }
            }
            TroubleKind::Socket => self.detail.sockets.add(&trouble.path),
            TroubleKind::OtherFilesystem => self.detail.other_filesystems.add(&trouble.path),
        }
    }

    pub fn notes(&self) -> Vec<String> {
        let detail = &self.detail;
        let unreadable = Paths { count: detail.unreadable.count, first: self.errors.clone() };
        let all = [
            (
                &detail.torn,
                "changed during every attempt to read them, stored as last read and not counted as clean",
            ),
            (&unreadable, "could not be read"),
            (&detail.stale, "could not be read this time, kept as in the backup before"),
            (&detail.sockets, "are sockets, which no archive can hold"),
            (&detail.other_filesystems, "are other file systems, left out as configured"),
        ];
        all.iter()
            .filter(|(paths, _)| paths.count > 0)
            .map(|(paths, what)| format!("{what}: {}", paths.describe()))
            .collect()
    }
}

/// The heartbeat is read apart, and the root's time changes with it.
pub(super) fn is_write(path: &[u8]) -> bool {
    !path.is_empty() && path != CANARY_FILE
}
