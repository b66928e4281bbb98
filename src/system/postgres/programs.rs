//! Finds PostgreSQL's own programs: several major versions may be installed side by side, most outside the PATH.

use std::path::{Path, PathBuf};

use super::client::version_number;
use super::settings::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::child::Program;
use crate::runtime::process::find_program;

/// Directories with one subdirectory per installed major version, and what follows below that.
const VERSIONED: [(&str, &str, &str); 3] =
    [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin"), ("/usr/local", "pgsql-", "bin")];

/// Which major version of a program will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Newest,
    /// Client programs read servers of their own version and older ones.
    AtLeast(u32),
    /// A server runs only on data of its own major version.
    Exactly(u32),
}

impl Wanted {
    fn allows(self, major: u32) -> bool {
        match self {
            Self::Newest => true,
            Self::AtLeast(least) => major >= least,
            Self::Exactly(exact) => major == exact,
        }
    }
}

/// The newest `name` that is wanted, from `bin_dir` when it is set, else from the usual places.
pub fn find(settings: &Settings, name: &str, wanted: Wanted) -> Result<Program> {
    directories(settings)
        .into_iter()
        .filter(|(major, _)| major.is_none_or(|m| wanted.allows(m)))
        .map(|(_, dir)| dir.join(name))
        .find(|path| find_program(name, &[path.parent().unwrap_or(Path::new("/"))]).as_ref() == Some(path))
        .map(Program::at)
        .ok_or_else(|| missing(name, wanted))
}

fn missing(name: &str, wanted: Wanted) -> Error {
    let package = match wanted {
        Wanted::Newest => "postgresql".to_owned(),
        Wanted::AtLeast(major) | Wanted::Exactly(major) => format!("postgresql-{major}"),
    };
    Error::new(ErrorKind::Unsupported, "find PostgreSQL program")
        .with("program", name)
        .with("version", format!("{wanted:?}"))
        .hint(format!("install the package {package}, or set bin_dir to where it is"))
}

/// Newest first; the PATH last, its version unknown unless its place says it.
fn directories(settings: &Settings) -> Vec<(Option<u32>, PathBuf)> {
    if let Some(dir) = &settings.bin_dir {
        return vec![(major_in(dir), dir.clone())];
    }
    let mut found: Vec<(Option<u32>, PathBuf)> = Vec::new();
    for (root, prefix, below) in VERSIONED {
        let Ok(entries) = std::fs::read_dir(root) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let major = name.strip_prefix(prefix).and_then(|v| v.parse::<u32>().ok());
            if major.is_some() {
                found.push((major, entry.path().join(below)));
            }
        }
    }
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|dir| (major_in(&dir), dir)));
    found
}

fn major_in(dir: &Path) -> Option<u32> {
    dir.iter()
        .filter_map(|part| part.to_str())
        .map(|part| part.strip_prefix("pgsql-").unwrap_or(part))
        .find_map(|part| part.parse::<u32>().ok().filter(|m| (9..100).contains(m)))
}

/// Major version of the data directory `dir`, from its `PG_VERSION`.
pub fn data_major(dir: &Path) -> Result<u32> {
    let text = super::client::read_trimmed(&dir.join("PG_VERSION"))?;
    Ok(version_number(&text) / 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_nowhere_is_named_with_the_package_to_install() {
        let error = find(&Settings::default(), "no-such-program", Wanted::Exactly(15)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.advice().unwrap().contains("postgresql-15"));
    }

    #[test]
    fn the_place_of_a_program_says_its_version() {
        assert_eq!(major_in(Path::new("/usr/lib/postgresql/15/bin")), Some(15));
        assert_eq!(major_in(Path::new("/usr/pgsql-17/bin")), Some(17));
        assert_eq!(major_in(Path::new("/opt/db/bin")), None);
    }
}
