//! The on-disk shape of the configuration. Unknown keys are errors; nothing is checked here beyond the shape.
//!
//! Every option is in `config/lifeboat.example.toml` with its default; a test compares the two.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::backup::BackupKind;
use crate::domain::objective::Role;
use crate::runtime::secret::SecretRef;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub lifeboat: RawLifeboat,
    pub server: RawServer,
    pub encryption: RawEncryption,
    pub pipeline: RawPipeline,
    pub sandbox: RawSandbox,
    pub destinations: BTreeMap<String, RawDestination>,
    pub tiers: BTreeMap<String, RawTier>,
    pub systems: BTreeMap<String, RawSystem>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLifeboat {
    /// Catalog, locks, caches and reports. Relative paths are relative to the config file.
    pub state_dir: PathBuf,
    /// Own runbooks, beside the built-in ones; a file of the same name replaces a built-in one.
    pub runbooks: Option<PathBuf>,
    pub scenarios: Option<PathBuf>,
    /// Time between two canary records in `serve`.
    pub canary_interval: String,
}

impl Default for RawLifeboat {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/lifeboat"),
            runbooks: None,
            scenarios: None,
            canary_interval: "60s".to_owned(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawServer {
    pub listen: String,
    /// Time between two health probes of a system.
    pub probe_interval: String,
    /// How long running jobs may take to stop after SIGTERM.
    pub shutdown_grace: String,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8470".to_owned(),
            probe_interval: "30s".to_owned(),
            shutdown_grace: "30s".to_owned(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEncryption {
    pub enabled: bool,
    /// age public keys, one a line; as `lifeboat keys init` writes them.
    pub recipients_file: Option<PathBuf>,
    /// Secret age keys, needed to restore. Not needed on the machine that only takes backups.
    pub identity_files: Vec<PathBuf>,
    /// Secret Ed25519 key that signs manifests.
    pub signing_key: Option<PathBuf>,
    /// Public keys whose manifests are trusted, one a line.
    pub signers_file: Option<PathBuf>,
}

impl Default for RawEncryption {
    fn default() -> Self {
        Self {
            enabled: true,
            recipients_file: None,
            identity_files: Vec::new(),
            signing_key: None,
            signers_file: None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPipeline {
    /// Raw bytes per segment.
    pub segment_size: String,
    pub compression_level: i32,
    /// CPU-bound jobs at once; 0 means one per core.
    pub workers: usize,
    /// Read every stored segment back after a backup: only then is it VERIFIED.
    pub verify_after_backup: bool,
}

impl Default for RawPipeline {
    fn default() -> Self {
        Self { segment_size: "32MiB".to_owned(), compression_level: 3, workers: 0, verify_after_backup: true }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSandbox {
    /// Where throwaway servers live. The sandbox user must be able to reach it.
    pub dir: PathBuf,
    /// Account for throwaway servers when lifeboat runs as root.
    pub user: String,
}

impl Default for RawSandbox {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/tmp/lifeboat-sandbox"), user: "nobody".to_owned() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "snake_case")]
pub enum RawDestination {
    Local {
        path: PathBuf,
    },
    S3 {
        bucket: String,
        /// `https://host[:port]`, without credentials.
        endpoint: String,
        #[serde(default = "default_region")]
        region: String,
        /// Path inside the bucket that everything is kept under.
        #[serde(default)]
        prefix: String,
        #[serde(default)]
        addressing: BucketAddressing,
        access_key: SecretRef,
        secret_key: SecretRef,
    },
}

/// How the bucket is named in a request: in the path (MinIO and most others) or in the host name (Aliyun OSS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BucketAddressing {
    #[default]
    Path,
    Host,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTier {
    pub kind: BackupKind,
    /// Five-field cron expression, UTC.
    pub schedule: String,
    pub destinations: Vec<String>,
    #[serde(default)]
    pub keep_for: Option<String>,
    #[serde(default)]
    pub keep_count: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSystem {
    pub kind: String,
    #[serde(default)]
    pub role: Option<Role>,
    /// Destination of backups taken by hand. Default: the first one by name.
    #[serde(default)]
    pub destination: Option<String>,
    #[serde(default)]
    pub rto: Option<String>,
    /// `none`: rebuildable, any loss is accepted.
    #[serde(default)]
    pub rpo: Option<String>,
    /// Heartbeat records in the protected data, so that RPO can be read from a restored copy.
    #[serde(default = "yes")]
    pub canary: bool,
    #[serde(default = "empty_table")]
    pub settings: toml::Value,
    #[serde(default)]
    pub service: Option<RawService>,
    #[serde(default)]
    pub checks: Vec<RawCheck>,
}

/// How to start and stop the real service: programs with arguments, run without a shell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawService {
    pub start: Vec<String>,
    pub stop: Vec<String>,
    pub status: Vec<String>,
}

/// An application check: a query whose answer the application needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCheck {
    pub name: String,
    /// SQL, a Redis command line, or for files `exists PATH`, `sha256 PATH`, `count`.
    pub query: String,
    #[serde(default)]
    pub expect: Option<String>,
    #[serde(default)]
    pub min: Option<f64>,
    #[serde(default)]
    pub max: Option<f64>,
}

fn yes() -> bool {
    true
}

fn empty_table() -> toml::Value {
    toml::Value::Table(toml::Table::new())
}
