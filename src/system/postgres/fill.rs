//! Fills a staging directory with a chain of backups and puts it in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};

use super::base::{BASE_ARTIFACT, MANIFEST_ARTIFACT, Tablespace};
use super::chain::Chain;
use super::consume;
use super::listing::{LISTING_BYTES_MAX, Listing};
use super::physical::Physical;
use super::restore::{is_recovery_line, write_file};
use super::target::{self, AUTO_CONF, Target, TargetKind};
use super::unpack::{self, Archive, Expected, make_dir};
use crate::domain::manifest::{Artifact, Manifest};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::BackupSource;

/// WAL segments fetched at once.
const SEGMENTS_AT_ONCE: usize = 4;

/// Where the files of a tablespace are written and where they belong.
#[derive(Clone, Debug)]
pub struct Space {
    pub root: PathBuf,
    /// `None`: they stay where they are written.
    location: Option<PathBuf>,
}

impl Space {
    pub fn is_staged(&self) -> bool {
        self.location.is_some()
    }
}

/// One restore under way.
pub struct Work<'a> {
    pub physical: &'a Physical<'a>,
    pub target: &'a Target,
    pub chain: &'a Chain<'a>,
    pub staging: &'a Path,
    pub source: &'a dyn BackupSource,
    pub job: &'a JobContext,
}

impl Work<'_> {
    pub fn spaces(&self) -> Result<BTreeMap<u32, Space>> {
        let mut spaces = BTreeMap::new();
        for (oid, location) in &self.chain.detail.tablespaces {
            let number: u32 = oid
                .parse()
                .map_err(|e| Error::new(ErrorKind::Corrupt, "read tablespace").with("oid", oid).because(e))?;
            let space = match self.target.kind {
                TargetKind::Directory => {
                    Space { root: self.staging.join("pg_tblspc").join(oid), location: None }
                }
                TargetKind::Production => {
                    let location = PathBuf::from(location);
                    let staging = self.staging.file_name().unwrap_or_default();
                    Space { root: location.join(staging), location: Some(location) }
                }
            };
            spaces.insert(number, space);
        }
        Ok(spaces)
    }

    /// Writes everything into staging and makes it durable. Gives the number of files.
    pub async fn fill(&self, spaces: &BTreeMap<u32, Space>) -> Result<u64> {
        self.job.progress().set_phase("base backup");
        let listing = self.listing().await?;
        let expected = listing.as_ref().map(unpack::expected);
        let mut files =
            self.archive(BASE_ARTIFACT, self.staging.to_owned(), PathBuf::new(), &expected).await?;
        for (oid, space) in spaces {
            let root = space.root.clone();
            self.job
                .workers()
                .block("prepare tablespace", move || {
                    target::remove_tree(&root).and_then(|()| make_dir(&root))
                })
                .await?;
            let below = Path::new("pg_tblspc").join(oid.to_string());
            files += self.archive(&Tablespace::artifact(*oid), space.root.clone(), below, &expected).await?;
        }
        if let Some(expected) = expected {
            let left = expected.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(path) = left.keys().next() {
                return Err(Error::new(ErrorKind::Corrupt, "restore all listed files")
                    .with("missing", left.len())
                    .with("first", path.display())
                    .hint("this backup is damaged: restore an older one"));
            }
        }
        self.job.progress().set_phase("WAL");
        files += self.wal().await?;
        self.settle(spaces).await?;
        Ok(files)
    }

    /// The server's listing, which also goes into the directory; `None` before version 13.
    async fn listing(&self) -> Result<Option<Listing>> {
        if self.chain.detail.major < 13 {
            return Ok(None);
        }
        let name = self.chain.artifact(MANIFEST_ARTIFACT)?;
        let mut stream = self.source.open(&self.chain.base.id, &name, self.job).await?;
        let mut text = BytesMut::new();
        while let Some(chunk) = self.job.run("read listing", async { stream.try_next().await }).await? {
            text.extend_from_slice(&chunk);
            if text.len() > LISTING_BYTES_MAX {
                return Err(
                    Error::new(ErrorKind::Exhausted, "read backup_manifest").with("bytes", text.len())
                );
            }
        }
        let path = self.staging.join(MANIFEST_ARTIFACT);
        self.job
            .workers()
            .block("read listing", move || {
                write_file(&path, &text)?;
                Listing::parse(&text).map(Some)
            })
            .await
    }

    async fn archive(
        &self,
        artifact: &str,
        root: PathBuf,
        listed_below: PathBuf,
        expected: &Option<Expected>,
    ) -> Result<u64> {
        let name = self.chain.artifact(artifact)?;
        let stream = self.source.open(&self.chain.base.id, &name, self.job).await?;
        let archive = Archive { root, listed_below, expected: expected.clone() };
        Ok(unpack::unpack(stream, archive, self.job).await?.files)
    }

    async fn wal(&self) -> Result<u64> {
        let dir = self.staging.join("pg_wal");
        make_dir(&dir)?;
        let all = self.chain.wal.iter();
        let fetches: Vec<_> =
            all.map(|(name, (manifest, artifact))| self.segment(&dir, name, manifest, artifact)).collect();
        futures_util::stream::iter(fetches).buffer_unordered(SEGMENTS_AT_ONCE).try_collect::<()>().await?;
        Ok(self.chain.wal.len() as u64)
    }

    async fn segment(&self, dir: &Path, name: &str, manifest: &Manifest, artifact: &Artifact) -> Result<()> {
        let bytes = artifact.raw_bytes;
        if !name.ends_with(".history") && bytes != self.chain.detail.segment_bytes {
            return Err(Error::new(ErrorKind::Corrupt, "restore WAL segment")
                .with("segment", name)
                .with("bytes", bytes));
        }
        let stream = self.source.open(&manifest.id, &artifact.name, self.job).await?;
        consume::store(stream, dir.join(name), bytes, self.job).await
    }

    /// Recovery settings, owner, and one sync of the file system for all of it.
    async fn settle(&self, spaces: &BTreeMap<u32, Space>) -> Result<()> {
        let owner = self.target.owner(self.physical.settings)?;
        let settings = self.recovery_settings();
        let (staging, spaces) = (self.staging.to_owned(), spaces.clone());
        let settle = move || {
            let auto = staging.join(AUTO_CONF);
            let before = match std::fs::read_to_string(&auto) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                other => other.or_io("read configuration", &auto)?,
            };
            // a setting of an earlier restore of the same data would be a second target
            let kept: String =
                before.lines().filter(|l| !is_recovery_line(l)).map(|l| format!("{l}\n")).collect();
            write_file(&auto, (kept + &settings).as_bytes())?;
            write_file(&staging.join("recovery.signal"), b"")?;
            for (oid, space) in &spaces {
                if let Some(location) = &space.location {
                    let link = staging.join("pg_tblspc").join(oid.to_string());
                    std::os::unix::fs::symlink(location, &link).or_io("link tablespace", &link)?;
                }
            }
            let roots = spaces.values().filter(|s| s.is_staged()).map(|s| s.root.as_path());
            for root in roots.chain([staging.as_path()]) {
                if let Some(owner) = &owner {
                    owner.own_tree(root)?;
                }
                let dir = std::fs::File::open(root).or_io("open directory", root)?;
                rustix::fs::syncfs(&dir).map_err(std::io::Error::from).or_io("sync file system", root)?;
            }
            Ok(())
        };
        self.job.workers().block("finish restored files", settle).await
    }

    fn recovery_settings(&self) -> String {
        let inside = match self.target.kind {
            TargetKind::Directory if !self.chain.detail.tablespaces.is_empty() => self.in_place_setting(),
            TargetKind::Directory | TargetKind::Production => "",
        };
        format!(
            "{mark}\n{inside}restore_command = 'false'\nrecovery_target_lsn = '{lsn}'\nrecovery_target_inclusive = off\n\
             recovery_target_action = 'promote'\nrecovery_target_timeline = 'current'\n",
            mark = self.target.mark(),
            lsn = self.chain.target,
        )
    }

    /// Servers that know this setting end recovery in a panic without it when a tablespace lies inside.
    fn in_place_setting(&self) -> &'static str {
        let version = super::client::version_number(&self.chain.base.captured.server_version);
        let first = match version / 10_000 {
            12 => 120_012,
            13 => 130_008,
            14 => 140_005,
            _ => 150_000,
        };
        if version >= first { "allow_in_place_tablespaces = on\n" } else { "" }
    }

    /// Puts everything in place: tablespaces first, so that no server can start on half of it.
    pub async fn commit(&self, spaces: BTreeMap<u32, Space>) -> Result<Vec<String>> {
        let target = self.target.clone();
        let commit = move || {
            let mut notes = Vec::new();
            for space in spaces.values() {
                if let Some(location) = &space.location {
                    place_tablespace(&space.root, location, &mut notes)?;
                }
            }
            let old = target.commit()?;
            match (old, target.kind) {
                (Some(old), TargetKind::Production) => {
                    notes.push(format!("the old data directory was kept as {}", old.display()));
                }
                (Some(old), TargetKind::Directory) => target::remove_tree(&old)?,
                (None, _) => {}
            }
            if target.kind == TargetKind::Production {
                notes.push(
                    "after recovery, remove the settings that the restore left: ALTER SYSTEM RESET restore_command, \
                     recovery_target_lsn, recovery_target_inclusive, recovery_target_action, recovery_target_timeline"
                        .to_owned(),
                );
            }
            Ok(notes)
        };
        self.job.workers().block("put restored files in place", commit).await
    }
}

/// Moves what was staged inside `location` up into it; what was there under the same name is kept aside.
fn place_tablespace(staged: &Path, location: &Path, notes: &mut Vec<String>) -> Result<()> {
    let staged_name = staged.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in std::fs::read_dir(staged).or_io("list tablespace", staged)? {
        let name = entry.or_io("list tablespace", staged)?.file_name();
        let (from, to) = (staged.join(&name), location.join(&name));
        if to.symlink_metadata().is_ok() {
            let old = location.join(format!("{}{staged_name}-old", name.to_string_lossy()));
            if old.symlink_metadata().is_ok() {
                // this run already moved the original aside: what is there now is its own
                target::remove_tree(&to)?;
            } else {
                std::fs::rename(&to, &old).or_io("move old tablespace aside", &to)?;
            }
            notes.push(format!("old files of a tablespace were kept as {}", old.display()));
        }
        std::fs::rename(&from, &to).or_io("put tablespace in place", &to)?;
    }
    target::remove_tree(staged)
}
