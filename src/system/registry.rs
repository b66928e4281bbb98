//! The one registry: engine kind to constructor. Config, CLI, API and generic tests iterate it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Engine, EngineDeps, SharedSystem};
use crate::error::{Error, ErrorKind, Result};

/// A problem in an engine's settings: key below `settings`, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingProblem {
    pub key: String,
    pub message: String,
}

type Build = fn(toml::Value, EngineDeps) -> Result<SharedSystem>;
type CheckSettings = fn(toml::Value) -> Vec<SettingProblem>;

#[derive(Clone, Copy, Debug)]
struct Entry {
    build: Build,
    check: CheckSettings,
}

#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: BTreeMap<&'static str, Entry>,
}

/// Every engine of this build. One line each.
pub fn registry() -> Registry {
    Registry::default()
        .with::<super::files::FilesSystem>()
        .with::<super::postgres::Postgres>()
        .with::<super::redis::RedisSystem>()
        .with::<super::sqlite::SqliteSystem>()
}

impl Registry {
    #[must_use]
    pub fn with<E: Engine>(mut self) -> Self {
        self.entries.insert(E::KIND, Entry { build: build::<E>, check: check::<E> });
        self
    }

    pub fn kinds(&self) -> Vec<&'static str> {
        self.entries.keys().copied().collect()
    }

    fn entry(&self, kind: &str) -> Result<&Entry> {
        self.entries.get(kind).ok_or_else(|| {
            Error::new(ErrorKind::Config, "use system kind")
                .with("kind", kind)
                .hint(format!("known kinds: {}", self.kinds().join(", ")))
        })
    }

    /// All problems of `settings` for an engine of `kind`; an unknown kind is an error.
    pub fn check(&self, kind: &str, settings: toml::Value) -> Result<Vec<SettingProblem>> {
        Ok((self.entry(kind)?.check)(settings))
    }

    pub fn build(&self, kind: &str, settings: toml::Value, deps: EngineDeps) -> Result<SharedSystem> {
        (self.entry(kind)?.build)(settings, deps)
    }
}

fn parse<E: Engine>(settings: toml::Value) -> Result<E::Settings, SettingProblem> {
    settings
        .try_into()
        .map_err(|e: toml::de::Error| SettingProblem { key: String::new(), message: e.message().to_owned() })
}

fn check<E: Engine>(settings: toml::Value) -> Vec<SettingProblem> {
    match parse::<E>(settings) {
        Err(problem) => vec![problem],
        Ok(settings) => {
            E::check(&settings).into_iter().map(|(key, message)| SettingProblem { key, message }).collect()
        }
    }
}

fn build<E: Engine>(settings: toml::Value, deps: EngineDeps) -> Result<SharedSystem> {
    let settings = parse::<E>(settings).map_err(|p| {
        Error::new(ErrorKind::Config, "read settings").with("system", &deps.name).why(p.message)
    })?;
    Ok(Arc::new(E::build(settings, deps)?))
}
