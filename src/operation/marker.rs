//! Small durable notes on this machine: written aside, synced, renamed.

use std::io::Write;
use std::path::Path;

use crate::error::{IoContext, Result};

pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).or_io("make directory", parent)?;
    }
    let aside = path.with_extension("writing");
    let mut file = std::fs::File::create(&aside).or_io("write marker", &aside)?;
    file.write_all(bytes).or_io("write marker", &aside)?;
    file.sync_all().or_io("write marker", &aside)?;
    std::fs::rename(&aside, path).or_io("write marker", path)
}
