//! Compares a tree, entry by entry and with every file hashed, with the index of a backup. Differences are findings that
//! name paths.

use super::backup::open_root;
use super::crew::with_helper;
use super::entry::{Entry, EntryKind, EntryState};
use super::fingerprint::{FingerprintBuilder, UNIT};
use super::grab::{Change, Grabber, Keep, Trouble, TroubleKind};
use super::index::IndexReader;
use super::restore::is_root;
use super::scan::{Scan, Visitor};
use super::settings::globs;
use super::tally::{Paths, is_write};
use super::walk::{Found, Mounts, Walk};
use super::{FilesSystem, INDEX, artifact};
use crate::archive::{Crew, FeedReader, feed, pump};
use crate::domain::backup::Fingerprint;
use crate::domain::evidence::EvidenceLevel::{E1, E3, E4};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point};

/// What differs, by what it is.
#[derive(Debug, Default)]
struct Differences {
    missing: Paths,
    extra: Paths,
    kind: Paths,
    unreadable: Paths,
    content: Paths,
    metadata: Paths,
    /// Captured while they changed: there is nothing sure to compare with.
    torn: Paths,
    /// Changed while they were compared.
    moving: Paths,
    devices: u64,
    compared: u64,
    files: u64,
}

#[derive(Debug)]
struct Comparer {
    index: IndexReader<FeedReader>,
    fingerprint: FingerprintBuilder,
    found: Differences,
    devices: DevicesExpected,
    owners: OwnersExpected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DevicesExpected {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnersExpected {
    Captured,
    Any,
}

impl FilesSystem {
    pub(super) async fn compare(
        &self,
        chain: &[Manifest],
        place: &Place,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        let last = point(chain)?;
        let root = match open_root(&self.root_of(place)) {
            Ok(root) => root,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut verification = Verification::new(UNIT);
                verification.push(Check::failed("structure", E3, "a directory", error.to_string()));
                return Ok(verification);
            }
            Err(error) => return Err(error),
        };
        let stream = job.run("open artifact", source.open(&last.id, &artifact(INDEX)?, job)).await?;
        let (to, from) = feed();
        let (system, place, task_job) = (self.clone(), place.clone(), job.clone());
        let comparing = with_helper("compare files", job, move |crew| {
            system.walk_and_compare(root, &place, from, crew, &task_job)
        });
        let (compared, pumped) = futures_util::future::join(comparing, pump(stream, to, job)).await;
        pumped?;
        let (found, fingerprint, owners) = compared?;
        Ok(judge(&found, &fingerprint, &last.captured.fingerprint, owners))
    }

    fn walk_and_compare(
        &self,
        root: std::os::fd::OwnedFd,
        place: &Place,
        from: FeedReader,
        crew: &Crew,
        job: &JobContext,
    ) -> Result<(Differences, Fingerprint, OwnersExpected)> {
        let index = IndexReader::open(from)?;
        let production = matches!(place, Place::Production);
        // a restored copy has nothing that was left out, so everything in it counts
        let exclude: &[String] = if production { &index.head().exclude } else { &[] };
        let exclude = globs(exclude)?;
        let mounts =
            if production && self.settings.one_file_system { Mounts::StayOut } else { Mounts::Enter };
        let walk = Walk::new(std::sync::Arc::new(root), exclude, mounts);
        let grabber = Grabber { keep: Keep::Nothing, hook: None };
        let mut comparer = Comparer {
            index,
            fingerprint: FingerprintBuilder::default(),
            found: Differences::default(),
            devices: if production { DevicesExpected::Yes } else { DevicesExpected::No },
            owners: if is_root() { OwnersExpected::Captured } else { OwnersExpected::Any },
        };
        Scan::new(walk, grabber, crew, job).run(&mut comparer)?;
        while let Some(entry) = comparer.index.take()? {
            comparer.missing(&entry);
        }
        Ok((comparer.found, comparer.fingerprint.finish(), comparer.owners))
    }
}

impl Comparer {
    fn missing(&mut self, expected: &Entry) {
        self.fingerprint.add(expected);
        let device = matches!(expected.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if device && self.devices == DevicesExpected::No {
            self.found.devices += 1;
        } else if expected.state == EntryState::Clean || expected.state == EntryState::Stale {
            if is_write(&expected.path.0) {
                self.found.missing.add(&expected.path.0);
            }
        } else {
            self.found.torn.add(&expected.path.0);
        }
    }

    fn both(&mut self, expected: &Entry, actual: &Entry) {
        self.fingerprint.add(expected);
        let path = &actual.path.0;
        let found = &mut self.found;
        if expected.kind != actual.kind
            || expected.link != actual.link
            || expected.hard_link != actual.hard_link
            || expected.device != actual.device
        {
            found.kind.add(path);
            return;
        }
        if !is_write(path) && !path.is_empty() {
            return;
        }
        if expected.state == EntryState::Torn {
            found.torn.add(path);
            return;
        }
        if actual.state != EntryState::Clean {
            found.moving.add(path);
            return;
        }
        found.compared += 1;
        if actual.kind == EntryKind::File {
            found.files += 1;
        }
        if expected.size != actual.size || expected.sha256 != actual.sha256 {
            found.content.add(path);
        }
        let owner = |e: &Entry| (e.uid, e.gid);
        let owners_differ = self.owners == OwnersExpected::Captured && owner(expected) != owner(actual);
        // the root's time changes with every heartbeat written into it
        let times_differ = !path.is_empty() && expected.mtime != actual.mtime;
        if owners_differ || times_differ || expected.mode != actual.mode || expected.xattrs != actual.xattrs {
            found.metadata.add(path);
        }
    }
}

impl Visitor for Comparer {
    fn before(&mut self, _found: &Found) -> Result<Option<Entry>> {
        Ok(None)
    }

    fn carried(&mut self, _path: &[u8]) -> Result<Option<Entry>> {
        Ok(None)
    }

    fn holds(&self, _known: &Entry, _found: &Found) -> bool {
        false
    }

    fn bytes(&mut self, _bytes: Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn entry(&mut self, actual: Entry, _change: Change) -> Result<()> {
        let mut missing = Vec::new();
        let expected = self.index.advance_to(&actual.path.0, |entry| {
            missing.push(entry);
            Ok(())
        })?;
        for entry in &missing {
            self.missing(entry);
        }
        match expected {
            Some(expected) => self.both(&expected, &actual),
            None if is_write(&actual.path.0) => self.found.extra.add(&actual.path.0),
            None => {}
        }
        Ok(())
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble.what {
            TroubleKind::Unreadable(_) => self.found.unreadable.add(&trouble.path),
            TroubleKind::Socket | TroubleKind::OtherFilesystem => {}
        }
    }
}

fn judge(
    found: &Differences,
    index: &Fingerprint,
    manifest: &Fingerprint,
    owners: OwnersExpected,
) -> Verification {
    let mut verification = Verification::new(UNIT);
    verification.compared = found.compared;
    let same_way = index.algorithm == manifest.algorithm;
    verification.push(match (same_way, index.items.is_empty()) {
        (false, _) => Check::inconclusive(
            "index",
            E1,
            format!("the fingerprint was made in another way: {}", manifest.algorithm),
        ),
        (true, true) => Check::inconclusive("index", E1, "the backup holds no entry that is clean"),
        (true, false) if index == manifest => {
            Check::passed("index", E1, "the index has the fingerprint of the manifest")
        }
        (true, false) => Check::failed("index", E1, "the fingerprint of the manifest", "another one"),
    });
    let structure = [
        ("missing", &found.missing),
        ("extra", &found.extra),
        ("of another kind or linked elsewhere", &found.kind),
        ("unreadable", &found.unreadable),
    ];
    let mut seen = format!("{} entries", found.compared);
    if found.devices > 0 {
        seen.push_str(&format!("; {} device nodes are only made in production", found.devices));
    }
    verification.push(check("structure", E3, &structure, found.compared, seen));
    let seen = format!("{} files hashed", found.files);
    verification.push(check("content", E4, &[("changed", &found.content)], found.compared, seen));
    let mut seen = "modes, times and attributes".to_owned();
    match owners {
        OwnersExpected::Captured => seen.push_str(" and owners"),
        OwnersExpected::Any => seen.push_str("; not owners, which only root can restore"),
    }
    verification.push(check("metadata", E4, &[("changed", &found.metadata)], found.compared, seen));
    if found.torn.count > 0 {
        let why = format!("changed while they were backed up: {}", found.torn.describe());
        verification.push(Check::inconclusive("files in use", E4, why));
    }
    if found.moving.count > 0 {
        let why = format!("changed while they were compared: {}", found.moving.describe());
        verification.push(Check::inconclusive("files in use now", E4, why));
    }
    verification
}

fn check(
    name: &str,
    level: crate::domain::evidence::EvidenceLevel,
    differences: &[(&str, &Paths)],
    compared: u64,
    seen: String,
) -> Check {
    let told: Vec<String> = differences
        .iter()
        .filter(|(_, paths)| paths.count > 0)
        .map(|(what, paths)| format!("{what} {}", paths.describe()))
        .collect();
    if !told.is_empty() {
        Check::failed(name, level, "as captured", told.join("; "))
    } else if compared == 0 {
        Check::inconclusive(name, level, "nothing was compared")
    } else {
        Check::passed(name, level, seen)
    }
}
