//! Which entries a restore takes: those that match a pattern, everything below a matching directory, and the
//! directories above them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use globset::GlobSet;

use super::entry::is_within;
use super::index::IndexReader;
use super::settings::globs;
use crate::archive::{Kind, Member};
use crate::domain::restore::Selection;
use crate::error::Result;

#[derive(Debug)]
pub(super) struct Selector {
    /// `None` takes everything.
    globs: Option<GlobSet>,
    /// First names that are not selected, and the selected name that gets their content instead.
    carriers: HashMap<Vec<u8>, Vec<u8>>,
    /// Directories on the way to the current member that were not taken yet.
    ancestors: Vec<Member>,
}

impl Selector {
    pub fn new(selection: &Selection) -> Result<Self> {
        let some = !selection.is_everything();
        Ok(Self {
            globs: some.then(|| globs(&selection.patterns)).transpose()?,
            carriers: HashMap::new(),
            ancestors: Vec::new(),
        })
    }

    pub fn is_everything(&self) -> bool {
        self.globs.is_none()
    }

    pub fn wants(&self, path: &[u8]) -> bool {
        let Some(globs) = &self.globs else {
            return true;
        };
        let matches = |part: &[u8]| globs.is_match(OsStr::from_bytes(part));
        let above = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        path.is_empty() || matches(path) || above.map(|(n, _)| &path[..n]).any(matches)
    }

    /// Learns from a backup's index which hard links lead to files that are not selected.
    pub fn learn(&mut self, mut index: IndexReader<impl Read>) -> Result<()> {
        self.carriers.clear();
        self.ancestors.clear();
        while let Some(entry) = index.take()? {
            let Some(first) = entry.hard_link else {
                continue;
            };
            if self.wants(&entry.path.0) && !self.wants(&first.0) {
                self.carriers.entry(first.0).or_insert(entry.path.0);
            }
        }
        Ok(())
    }

    /// What to unpack for a member: nothing, itself, or itself after directories above it.
    pub fn choose(&mut self, mut member: Member) -> (Vec<Member>, Option<Member>) {
        if self.is_everything() {
            return (Vec::new(), Some(member));
        }
        if let Some(carrier) = self.carriers.get(&member.path)
            && member.kind != Kind::HardLink
        {
            member.path.clone_from(carrier);
            return (Vec::new(), Some(member));
        }
        self.ancestors.retain(|dir| is_within(&member.path, &dir.path));
        if !self.wants(&member.path) {
            if member.kind == Kind::Directory {
                self.ancestors.push(member);
            }
            return (Vec::new(), None);
        }
        if let Some(carrier) = self.carriers.get(&member.link)
            && member.kind == Kind::HardLink
        {
            if *carrier == member.path {
                return (Vec::new(), None);
            }
            member.link.clone_from(carrier);
        }
        (std::mem::take(&mut self.ancestors), Some(member))
    }
}
