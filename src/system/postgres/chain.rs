//! A chain of physical backups as one restore sees it: the base, and the newest copy of every WAL segment.

use std::collections::BTreeMap;

use super::base::BASE_ARTIFACT;
use super::lsn::{Lsn, is_wal_name};
use super::physical::Detail;
use crate::domain::backup::BackupKind;
use crate::domain::id::ArtifactName;
use crate::domain::manifest::{Artifact, Manifest};
use crate::error::{Error, ErrorKind, Result};

/// Proven to be whole: no gap between backups and no WAL segment missing.
#[derive(Debug)]
pub struct Chain<'a> {
    pub base: &'a Manifest,
    /// Of the base.
    pub detail: Detail,
    /// A restore ends here: before the first record at or behind it.
    pub target: Lsn,
    /// File name in `pg_wal` to where it is.
    pub wal: BTreeMap<String, (&'a Manifest, &'a Artifact)>,
}

impl<'a> Chain<'a> {
    /// `Conflict` when the backups do not follow one another, `Corrupt` when something is missing in them.
    pub fn read(chain: &'a [Manifest]) -> Result<Self> {
        let (Some(base), Some(last)) = (chain.first(), chain.last()) else {
            return Err(Error::bug("restore an empty chain of backups"));
        };
        if base.kind != BackupKind::Full {
            return Err(Error::new(ErrorKind::Conflict, "restore a chain that begins without a full backup")
                .with("first", &base.id));
        }
        let detail = Detail::of(base)?;
        for pair in chain.windows(2) {
            follows(&pair[0], &pair[1])?;
        }
        let mut wal = BTreeMap::new();
        for manifest in chain {
            for artifact in &manifest.artifacts {
                let name = artifact.name.as_str().strip_prefix("wal/");
                if let Some(name) = name.filter(|name| is_wal_name(name)) {
                    // a later backup holds more of a segment that both have
                    wal.insert(name.to_owned(), (manifest, artifact));
                }
            }
        }
        let (from, to): (Lsn, Lsn) = (detail.wal_start.parse()?, Detail::of(last)?.wal_end.parse()?);
        for number in detail.shape().covering(from, to) {
            let name = detail.shape().name(number);
            if !wal.contains_key(&name) {
                return Err(missing(last, &format!("WAL segment {name}")));
            }
        }
        let spaces = detail.tablespaces.keys().map(|oid| format!("tablespace/{oid}.tar"));
        for name in spaces.chain([BASE_ARTIFACT.to_owned()]) {
            if !base.artifacts.iter().any(|a| a.name.as_str() == name) {
                return Err(missing(base, &name));
            }
        }
        Ok(Self { base, detail, target: last.captured.position.end.parse()?, wal })
    }

    /// Raw bytes that a restore writes.
    pub fn bytes(&self) -> u64 {
        let base = self.base.artifacts.iter().filter(|a| !a.name.as_str().starts_with("wal/"));
        let wal = self.wal.values().map(|(_, artifact)| *artifact);
        base.chain(wal).map(|a| a.raw_bytes).sum()
    }

    pub fn artifact(&self, name: &str) -> Result<ArtifactName> {
        ArtifactName::parse(name).map_err(|e| Error::bug("name artifact").because(e))
    }
}

fn follows(parent: &Manifest, child: &Manifest) -> Result<()> {
    let (before, after) = (Detail::of(parent)?, Detail::of(child)?);
    let fits = child.captured.position.start.as_deref() == Some(parent.captured.position.end.as_str())
        && before.system_identifier == after.system_identifier
        && before.timeline == after.timeline
        && before.segment_bytes == after.segment_bytes;
    if fits {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "restore a chain with a gap")
        .with("before", &parent.id)
        .with("after", &child.id)
        .hint("restore the last backup before the gap, or another chain"))
}

fn missing(manifest: &Manifest, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "restore an incomplete backup")
        .with("backup", &manifest.id)
        .why(format!("{what} is not in it"))
        .hint("restore an older backup")
}
