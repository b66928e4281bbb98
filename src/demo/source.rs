//! Real data that packages ship: which of it is on this machine, and its lines.

use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

/// Of one directory, at most this much is taken.
const FILES_BYTES_MAX: u64 = 110 * 1024 * 1024;
const TEXT_BYTES_MAX: u64 = 60 * 1024 * 1024;

/// What the demo takes, with the package that ships it.
pub const PLACES: [(&str, &str); 4] = [
    ("/usr/share/unicode", "unicode-data"),
    ("/usr/share/iso-codes/json", "iso-codes"),
    ("/usr/share/zoneinfo", "tzdata"),
    ("/usr/share/doc", "documentation of installed packages"),
];

/// Regular files below `roots`, sorted, until `FILES_BYTES_MAX` is reached. Links are not followed.
pub fn files(roots: &[&str]) -> Result<Vec<(PathBuf, u64)>> {
    collect(roots, FILES_BYTES_MAX, |_| true)
}

/// Text files below `roots`.
pub fn texts(roots: &[&str]) -> Result<Vec<(PathBuf, u64)>> {
    let is_text = |path: &Path| {
        path.extension().is_some_and(|e| ["txt", "json", "pod", "pm", "html"].iter().any(|t| e == *t))
    };
    collect(roots, TEXT_BYTES_MAX, is_text)
}

fn collect(roots: &[&str], bytes_max: u64, wanted: impl Fn(&Path) -> bool) -> Result<Vec<(PathBuf, u64)>> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for root in roots.iter().map(Path::new).filter(|r| r.is_dir()) {
        let mut pending = vec![root.to_path_buf()];
        while let Some(dir) = pending.pop() {
            let mut entries: Vec<PathBuf> = Vec::new();
            for entry in std::fs::read_dir(&dir).or_io("list directory", &dir)? {
                entries.push(entry.or_io("list directory", &dir)?.path());
            }
            entries.sort();
            for path in entries {
                let meta = std::fs::symlink_metadata(&path).or_io("stat", &path)?;
                if meta.is_dir() {
                    pending.push(path);
                } else if meta.is_file() && wanted(&path) && bytes + meta.len() <= bytes_max {
                    bytes += meta.len();
                    found.push((path, meta.len()));
                }
            }
        }
    }
    Ok(found)
}

/// Lines of a file as text, lossily; NUL becomes a space, because text columns hold none.
pub fn lines(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).or_io("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(|l| l.replace('\0', " ")).collect())
}
