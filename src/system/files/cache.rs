//! The index of earlier backups, kept on this machine, because it has no key to read them from storage. Only committed
//! backups have one; losing it costs a full backup, nothing else.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::index::IndexReader;
use crate::domain::id::BackupId;
use crate::domain::manifest::Manifest;
use crate::error::{Error, ErrorKind, IoContext, Result};

const PREFIX: &str = "index-";
const UNFINISHED: &str = ".new";
/// Indexes kept besides that of the chain's first backup: several tiers may each continue their own.
const KEPT: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct IndexCache {
    dir: PathBuf,
}

impl IndexCache {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, backup: &BackupId) -> PathBuf {
        self.dir.join(format!("{PREFIX}{backup}"))
    }

    fn unfinished(&self, backup: &BackupId) -> PathBuf {
        self.dir.join(format!("{PREFIX}{backup}{UNFINISHED}"))
    }

    /// A private file for the index of a backup being taken. Those of backups that never finished are removed.
    pub fn create(&self, backup: &BackupId) -> Result<File> {
        std::fs::create_dir_all(&self.dir).or_io("make directory", &self.dir)?;
        for path in self.files()? {
            if path.to_string_lossy().ends_with(UNFINISHED) {
                std::fs::remove_file(&path).or_io("remove file", &path)?;
            }
        }
        let path = self.unfinished(backup);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path).or_io("make index cache", &path)
    }

    /// The backup is committed: its index may be built upon from now on.
    pub fn promote(&self, manifest: &Manifest) -> Result<()> {
        let from = self.unfinished(&manifest.id);
        let to = self.path(&manifest.id);
        if !from.try_exists().or_io("stat", &from)? && to.try_exists().or_io("stat", &to)? {
            return Ok(());
        }
        let file = File::open(&from).or_io("open index cache", &from)?;
        file.sync_all().or_io("sync index cache", &from)?;
        std::fs::rename(&from, &to).or_io("rename index cache", &to)?;
        self.prune(&manifest.root)
    }

    fn prune(&self, root: &BackupId) -> Result<()> {
        let mut files = Vec::new();
        for path in self.files()? {
            let changed = std::fs::metadata(&path).and_then(|m| m.modified()).or_io("stat", &path)?;
            files.push((changed, path));
        }
        files.sort();
        let (root, excess) = (self.path(root), files.len().saturating_sub(KEPT));
        for (_, path) in files.into_iter().take(excess).filter(|(_, p)| *p != root) {
            std::fs::remove_file(&path).or_io("remove file", &path)?;
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).or_io("list directory", &self.dir)? {
            let entry = entry.or_io("list directory", &self.dir)?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// The index of a committed backup. `NotFound` when it is lost, `Corrupt` when it is not what it should be.
    pub fn open(&self, backup: &BackupId) -> Result<IndexReader<File>> {
        let path = self.path(backup);
        let mut file = File::open(&path).or_io("open index cache", &path)?;
        check_end(&mut file, &path)?;
        let index = IndexReader::open(file)?;
        if index.head().backup != *backup {
            return Err(Error::new(ErrorKind::Corrupt, "use index cache").with("path", path.display()));
        }
        Ok(index)
    }

    /// Forgets an index that turned out to be damaged.
    pub fn forget(&self, backup: &BackupId) {
        let path = self.path(backup);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "damaged index cache stays");
        }
    }
}

/// An index that was cut off lacks its last line.
fn check_end(file: &mut File, path: &Path) -> Result<()> {
    let bytes = file.metadata().or_io("stat", path)?.len();
    let tail = bytes.saturating_sub(64);
    let mut last = Vec::new();
    file.seek(SeekFrom::Start(tail)).or_io("read index cache", path)?;
    file.take(64).read_to_end(&mut last).or_io("read index cache", path)?;
    file.rewind().or_io("read index cache", path)?;
    let text = String::from_utf8_lossy(&last);
    if text.ends_with("}\n") && text.contains("{\"entries\":") {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Corrupt, "use index cache").with("path", path.display()))
    }
}
