//! Settings of the files engine. Owns what a valid one is.

use std::path::PathBuf;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesSettings {
    /// Root of the tree, absolute.
    pub path: PathBuf,
    /// Patterns on paths relative to the root; `*` also matches `/`. A directory that matches is left out with all below it.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Whether to stay out of other file systems mounted below the root.
    #[serde(default)]
    pub one_file_system: bool,
}

impl FilesSettings {
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if !self.path.is_absolute() {
            found.push(("path".to_owned(), "must be an absolute path".to_owned()));
        }
        for (n, pattern) in self.exclude.iter().enumerate() {
            if let Err(error) = GlobBuilder::new(pattern).build() {
                found.push((format!("exclude[{n}]"), error.to_string()));
            } else if pattern.starts_with('/') {
                let message = "patterns are relative to the root: leave out the leading /";
                found.push((format!("exclude[{n}]"), message.to_owned()));
            }
        }
        found
    }
}

/// All patterns as one set.
pub(super) fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).backslash_escape(true).build();
        set.add(
            glob.map_err(|e| {
                Error::new(ErrorKind::Config, "use pattern").with("pattern", pattern).because(e)
            })?,
        );
    }
    set.build().map_err(|e| Error::new(ErrorKind::Config, "use patterns").because(e))
}
