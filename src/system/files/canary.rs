//! The heartbeat file in the root: JSON lines, replaced as a whole, so that nobody ever reads half of one.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::OFlags;

use super::FilesSystem;
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::place::Place;
use crate::error::{Error, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::Canary;

pub(super) const CANARY_FILE: &[u8] = b".lifeboat-canary";
const FILE: &str = ".lifeboat-canary";
const UNFINISHED: &str = ".lifeboat-canary.new";
/// A record is some 120 bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[async_trait]
impl Canary for FilesSystem {
    async fn write(&self, record: &CanaryRecord, job: &JobContext) -> Result<()> {
        let (root, record) = (self.settings.path.clone(), record.clone());
        job.workers().block("write heartbeat", move || append(&root, record)).await
    }

    async fn read(&self, place: &Place, job: &JobContext) -> Result<Vec<CanaryRecord>> {
        let root = self.root_of(place);
        job.workers().block("read heartbeats", move || read(&root.join(FILE))).await
    }
}

fn append(root: &Path, record: CanaryRecord) -> Result<()> {
    let mut records = read(&root.join(FILE))?;
    records.push(record);
    let first = records.len().saturating_sub(CANARIES_KEPT);
    let mut text = Vec::new();
    for record in &records[first..] {
        super::index::line(&mut text, record)?;
    }
    let aside: PathBuf = root.join(UNFINISHED);
    match std::fs::remove_file(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).or_io("remove file", &aside);
        }
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o644).open(&aside).or_io("write heartbeat", &aside)?;
    file.write_all(&text).or_io("write heartbeat", &aside)?;
    file.sync_all().or_io("write heartbeat", &aside)?;
    std::fs::rename(&aside, root.join(FILE)).or_io("write heartbeat", &aside)?;
    let dir = File::open(root).or_io("open root directory", root)?;
    dir.sync_all().or_io("write heartbeat", root)
}

/// Lines that are no records are forgeries at worst and are left to the reader of macs; half a line cannot be.
fn read(path: &Path) -> Result<Vec<CanaryRecord>> {
    let mut options = OpenOptions::new();
    let no_follow = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = options.read(true).custom_flags(no_follow.bits().cast_signed()).open(path);
    let file = match opened {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.or_io("read heartbeats", path)?,
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).or_io("read heartbeats", path)?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|e| {
                Error::new(crate::error::ErrorKind::Corrupt, "read heartbeats")
                    .with("path", path.display())
                    .because(e)
                    .hint("remove the file; the next heartbeat writes a new one")
            })
        })
        .collect()
}
