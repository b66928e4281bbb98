//! Runbooks and scenarios: the built-in ones, and the user's own beside them. A file of the same name replaces a built-in one.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Config;
use crate::error::{IoContext, Result};
use crate::runbook::problem::as_error;
use crate::scenario::library::Library;

macro_rules! built_in {
    ($dir:literal: $($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../../", $dir, "/", $file)))),*]
    };
}

const RUNBOOKS: &[(&str, &str)] = built_in!("runbooks":
    "restore-files.yaml", "restore-postgres.yaml", "restore-redis.yaml", "restore-server.yaml", "restore-sqlite.yaml");
const SCENARIOS: &[(&str, &str)] = built_in!("scenarios":
    "database-failure.yaml", "files-lost.yaml", "full-disaster.yaml", "redis-failure.yaml", "sqlite-damaged.yaml");

/// All problems of all files come in one error.
pub fn load(config: &Config) -> Result<Library> {
    let runbooks = merged("runbooks", RUNBOOKS, config.runbooks.as_deref())?;
    let scenarios = merged("scenarios", SCENARIOS, config.scenarios.as_deref())?;
    let (library, problems) = Library::read(runbooks, scenarios);
    if problems.is_empty() { Ok(library) } else { Err(as_error("use the runbooks and scenarios", &problems)) }
}

fn merged(dir: &str, built_in: &[(&str, &str)], own: Option<&Path>) -> Result<Vec<(String, String)>> {
    let named = |(file, text): &(&str, &str)| {
        ((*file).to_owned(), (format!("built-in {dir}/{file}"), (*text).to_owned()))
    };
    let mut files: BTreeMap<String, (String, String)> = built_in.iter().map(named).collect();
    if let Some(own) = own {
        for entry in std::fs::read_dir(own).or_io("list runbooks and scenarios", own)? {
            let path = entry.or_io("list runbooks and scenarios", own)?.path();
            let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
            if let (true, Some(name)) = (is_yaml, path.file_name().map(|n| n.to_string_lossy().into_owned()))
            {
                let text = std::fs::read_to_string(&path).or_io("read runbook or scenario", &path)?;
                files.insert(name, (path.display().to_string(), text));
            }
        }
    }
    Ok(files.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_file_is_built_in_and_has_no_problems() {
        for (dir, built_in) in [("runbooks", RUNBOOKS), ("scenarios", SCENARIOS)] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
            let shipped = std::fs::read_dir(root).unwrap().count();
            assert_eq!(shipped, built_in.len(), "{dir}");
        }
        let texts =
            |files: &[(&str, &str)]| files.iter().map(|(f, t)| ((*f).to_owned(), (*t).to_owned())).collect();
        let (library, problems) = Library::read(texts(RUNBOOKS), texts(SCENARIOS));
        assert!(problems.is_empty(), "{problems:?}");
        assert!(library.warnings.is_empty(), "{:?}", library.warnings);
    }
}
