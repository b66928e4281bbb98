//! Configuration: the on-disk shape (`raw`), its check (`validate`), and the valid values the rest works with.

pub mod raw;
pub mod size;
pub mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::id::{DestinationName, SystemName, TierName};
use crate::domain::objective::{Objectives, Role};
use crate::domain::tier::Tier;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::system::registry::Registry;

pub use raw::{RawCheck as CheckConfig, RawDestination as DestinationConfig, RawService as ServiceConfig};

/// A configuration in which invalid values cannot exist. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    pub state_dir: PathBuf,
    pub runbooks: Option<PathBuf>,
    pub scenarios: Option<PathBuf>,
    pub canary_interval: Duration,
    pub server: ServerConfig,
    pub encryption: EncryptionConfig,
    pub pipeline: PipelineConfig,
    pub sandbox_dir: PathBuf,
    pub sandbox_user: String,
    pub destinations: BTreeMap<DestinationName, DestinationConfig>,
    pub tiers: BTreeMap<TierName, Tier>,
    pub systems: BTreeMap<SystemName, SystemConfig>,
}

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub listen: std::net::SocketAddr,
    pub probe_interval: Duration,
    pub shutdown_grace: Duration,
}

#[derive(Clone, Debug)]
pub struct EncryptionConfig {
    pub enabled: bool,
    pub recipients_file: PathBuf,
    pub identity_files: Vec<PathBuf>,
    pub signing_key: PathBuf,
    pub signers_file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyAfterBackup {
    ReadBack,
    No,
}

#[derive(Clone, Debug)]
pub struct PipelineConfig {
    pub segment_bytes: u64,
    pub compression_level: i32,
    pub workers: usize,
    pub verify_after_backup: VerifyAfterBackup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryUse {
    On,
    Off,
}

#[derive(Clone, Debug)]
pub struct SystemConfig {
    pub name: SystemName,
    pub kind: String,
    pub role: Role,
    pub destination: DestinationName,
    pub objectives: Objectives,
    pub canary: CanaryUse,
    pub settings: toml::Value,
    pub service: ServiceConfig,
    pub checks: Vec<CheckConfig>,
}

impl Config {
    /// Reads and checks a file. All problems come in one error, each with its path in the file.
    pub fn load(file: &Path, registry: &Registry) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .or_io("read config", file)
            .map_err(|e| e.hint("write one with `lifeboat init`, or name it with --config"))?;
        let file = std::path::absolute(file).or_io("find config", file)?;
        Self::parse(&text, &file, registry)
    }

    pub fn parse(text: &str, file: &Path, registry: &Registry) -> Result<Self> {
        let raw: raw::RawConfig = toml::from_str(text).map_err(|e| {
            Error::new(ErrorKind::Config, "read config")
                .with("file", file.display())
                .why(e.to_string().trim().to_owned())
                .hint("every option is explained in config/lifeboat.example.toml")
        })?;
        validate::validate(raw, file, registry)
    }

    pub fn system(&self, name: &str) -> Result<&SystemConfig> {
        self.systems.iter().find(|(n, _)| n.as_str() == name).map(|(_, s)| s).ok_or_else(|| {
            let known: Vec<&str> = self.systems.keys().map(SystemName::as_str).collect();
            Error::new(ErrorKind::NotFound, "find system").with("system", name).hint(format!(
                "systems in {}: {}",
                self.file.display(),
                known.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../config/lifeboat.example.toml");

    /// The example with its commented options switched on.
    fn switched_on() -> String {
        let option = |line: &str| {
            let bare = line.trim_start_matches("# ");
            let is_option =
                bare.starts_with('[') || bare.split_once(" = ").is_some_and(|(k, _)| !k.contains(' '));
            if line.starts_with("# ") && is_option { bare.to_owned() } else { line.to_owned() }
        };
        EXAMPLE.lines().map(option).collect::<Vec<_>>().join("\n")
    }

    fn keys(value: &serde_json::Value, into: &mut Vec<String>) {
        if let serde_json::Value::Object(map) = value {
            for (key, value) in map {
                into.push(key.clone());
                keys(value, into);
            }
        }
    }

    #[test]
    fn the_example_has_every_option_with_its_default() {
        let given: raw::RawConfig = toml::from_str(EXAMPLE).unwrap();
        let default = serde_json::to_value(raw::RawConfig::default()).unwrap();
        let given = serde_json::to_value(given).unwrap();
        for section in ["lifeboat", "server", "encryption", "pipeline", "sandbox"] {
            assert_eq!(given[section], default[section], "[{section}]");
        }
        let full: raw::RawConfig = toml::from_str(&switched_on()).unwrap();
        let mut wanted = Vec::new();
        keys(&serde_json::to_value(&full).unwrap(), &mut wanted);
        for key in wanted {
            assert!(EXAMPLE.contains(&key), "{key} is not in the example");
        }
        for option in ["keep_count", "addressing", "status", "role", "max"] {
            assert!(switched_on().contains(&format!("{option} = ")), "{option}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_path() {
        let text = r#"
            [pipeline]
            compression_level = 30
            segment_size = "3 parsecs"
            [destinations.local]
            type = "local"
            path = "b"
            [systems.x]
            kind = "oracle"
        "#;
        let error =
            Config::parse(text, Path::new("/etc/l.toml"), &Registry::default()).unwrap_err().to_string();
        for part in [
            "pipeline.compression_level: 30",
            "pipeline.segment_size",
            "systems.x.kind",
            "/etc/l.toml",
            "problems=3",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error =
            Config::parse("[server]\nlissten = \"x\"", Path::new("/etc/l.toml"), &Registry::default())
                .unwrap_err();
        assert!(error.to_string().contains("lissten"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
