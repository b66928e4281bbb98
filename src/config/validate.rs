//! From the on-disk shape to valid values. Reports every problem at once, each with its path in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{
    RawCheck, RawConfig, RawDestination, RawEncryption, RawPipeline, RawServer, RawSystem, RawTier,
};
use super::size::parse_bytes;
use super::{
    CanaryUse, Config, EncryptionConfig, PipelineConfig, ServerConfig, SystemConfig, VerifyAfterBackup,
};
use crate::domain::id::{DestinationName, SystemName, TierName};
use crate::domain::objective::{Objectives, Role};
use crate::domain::tier::Tier;
use crate::error::{Error, ErrorKind, Result};
use crate::system::registry::Registry;

pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;
const COMPRESSION_LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// Collects problems as `path: message`.
struct Problems<'a> {
    found: Vec<String>,
    base: &'a Path,
}

impl Problems<'_> {
    fn add(&mut self, path: impl std::fmt::Display, message: impl std::fmt::Display) {
        self.found.push(format!("{path}: {message}"));
    }

    fn take<T, E: std::fmt::Display>(
        &mut self,
        path: impl std::fmt::Display,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|e| self.add(path, e)).ok()
    }

    fn duration(&mut self, path: impl std::fmt::Display, text: &str) -> Duration {
        let parsed = humantime::parse_duration(text)
            .map_err(|e| format!("`{text}` is not a duration ({e}): write 90s, 15m or 2h"));
        self.take(path, parsed).unwrap_or_default()
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        if path.is_absolute() { path.to_path_buf() } else { self.base.join(path) }
    }
}

pub fn validate(raw: RawConfig, file: &Path, registry: &Registry) -> Result<Config> {
    let base = file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let mut problems = Problems { found: Vec::new(), base: &base };
    let state_dir = problems.absolute(&raw.lifeboat.state_dir);
    let destinations = destinations(raw.destinations, &mut problems);
    let config = Config {
        runbooks: raw.lifeboat.runbooks.as_deref().map(|p| problems.absolute(p)),
        scenarios: raw.lifeboat.scenarios.as_deref().map(|p| problems.absolute(p)),
        canary_interval: problems.duration("lifeboat.canary_interval", &raw.lifeboat.canary_interval),
        server: server(&raw.server, &mut problems),
        encryption: encryption(raw.encryption, &state_dir, &problems),
        pipeline: pipeline(&raw.pipeline, &mut problems),
        sandbox_dir: problems.absolute(&raw.sandbox.dir),
        sandbox_user: raw.sandbox.user,
        tiers: tiers(raw.tiers, &destinations, &mut problems),
        systems: systems(raw.systems, &destinations, registry, &mut problems),
        destinations,
        state_dir,
        file: file.to_path_buf(),
    };
    if problems.found.is_empty() {
        return Ok(config);
    }
    let count = problems.found.len();
    Err(Error::new(ErrorKind::Config, "use config")
        .with("file", file.display())
        .with("problems", count)
        .why(problems.found.join("; "))
        .hint("every option is explained in config/lifeboat.example.toml"))
}

fn server(raw: &RawServer, problems: &mut Problems<'_>) -> ServerConfig {
    let listen = raw
        .listen
        .parse()
        .map_err(|_| format!("`{}` is not an address and port like 127.0.0.1:8470", raw.listen));
    ServerConfig {
        listen: problems.take("server.listen", listen).unwrap_or_else(|| ([127, 0, 0, 1], 8470).into()),
        probe_interval: problems.duration("server.probe_interval", &raw.probe_interval),
        shutdown_grace: problems.duration("server.shutdown_grace", &raw.shutdown_grace),
    }
}

fn encryption(raw: RawEncryption, state_dir: &Path, problems: &Problems<'_>) -> EncryptionConfig {
    let keys = state_dir.join("keys");
    let or_key =
        |path: Option<PathBuf>, name: &str| path.map_or_else(|| keys.join(name), |p| problems.absolute(&p));
    let identity_files = match raw.identity_files.as_slice() {
        [] => vec![keys.join("identity.age")],
        files => files.iter().map(|p| problems.absolute(p)).collect(),
    };
    EncryptionConfig {
        enabled: raw.enabled,
        recipients_file: or_key(raw.recipients_file, "recipients.txt"),
        identity_files,
        signing_key: or_key(raw.signing_key, "signing.key"),
        signers_file: or_key(raw.signers_file, "signers.txt"),
    }
}

fn pipeline(raw: &RawPipeline, problems: &mut Problems<'_>) -> PipelineConfig {
    let size =
        problems.take("pipeline.segment_size", parse_bytes(&raw.segment_size)).unwrap_or(SEGMENT_BYTES_MIN);
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&size) {
        problems.add("pipeline.segment_size", "is not in 64KiB..256MiB");
    }
    if !COMPRESSION_LEVELS.contains(&raw.compression_level) {
        problems.add("pipeline.compression_level", format!("{} is not in 1..=19", raw.compression_level));
    }
    PipelineConfig {
        segment_bytes: size,
        compression_level: raw.compression_level,
        workers: raw.workers,
        verify_after_backup: if raw.verify_after_backup {
            VerifyAfterBackup::ReadBack
        } else {
            VerifyAfterBackup::No
        },
    }
}

type Destinations = BTreeMap<DestinationName, RawDestination>;

fn destinations(raw: BTreeMap<String, RawDestination>, problems: &mut Problems<'_>) -> Destinations {
    if raw.is_empty() {
        problems.add(
            "destinations",
            "none is configured; add [destinations.local] with type = \"local\" and a path",
        );
    }
    let mut all = BTreeMap::new();
    for (name, destination) in raw {
        let path = format!("destinations.{name}");
        let destination = match destination {
            RawDestination::Local { path } => RawDestination::Local { path: problems.absolute(&path) },
            s3 @ RawDestination::S3 { .. } => s3,
        };
        if let Some(name) = problems.take(path, DestinationName::parse(name)) {
            all.insert(name, destination);
        }
    }
    all
}

fn known_destination(
    path: &str,
    name: &str,
    destinations: &Destinations,
    problems: &mut Problems<'_>,
) -> Option<DestinationName> {
    let found = destinations.keys().find(|d| d.as_str() == name).cloned();
    if found.is_none() {
        let known: Vec<&str> = destinations.keys().map(DestinationName::as_str).collect();
        problems.add(path, format!("`{name}` is not a destination; known: {}", known.join(", ")));
    }
    found
}

fn tiers(
    raw: BTreeMap<String, RawTier>,
    destinations: &Destinations,
    problems: &mut Problems<'_>,
) -> BTreeMap<TierName, Tier> {
    let mut all = BTreeMap::new();
    for (name, tier) in raw {
        let path = format!("tiers.{name}");
        let listed = tier
            .destinations
            .iter()
            .filter_map(|d| known_destination(&format!("{path}.destinations"), d, destinations, problems))
            .collect::<Vec<_>>();
        if tier.destinations.is_empty() {
            problems.add(format!("{path}.destinations"), "is empty: name at least one destination");
        }
        if tier.schedule.split_ascii_whitespace().count() != 5 {
            problems.add(
                format!("{path}.schedule"),
                format!("`{}` is not a cron expression of five fields", tier.schedule),
            );
        }
        let keep_for = tier.keep_for.as_deref().map(|t| problems.duration(format!("{path}.keep_for"), t));
        if let Some(name) = problems.take(path, TierName::parse(name)) {
            let tier = Tier {
                name: name.clone(),
                kind: tier.kind,
                schedule: tier.schedule,
                destinations: listed,
                keep_for,
                keep_count: tier.keep_count,
            };
            all.insert(name, tier);
        }
    }
    all
}

fn systems(
    raw: BTreeMap<String, RawSystem>,
    destinations: &Destinations,
    registry: &Registry,
    problems: &mut Problems<'_>,
) -> BTreeMap<SystemName, SystemConfig> {
    let mut all = BTreeMap::new();
    for (name, system) in raw {
        if let Some(system) = self::system(&name, system, destinations, registry, problems) {
            all.insert(system.name.clone(), system);
        }
    }
    all
}

fn system(
    name: &str,
    raw: RawSystem,
    destinations: &Destinations,
    registry: &Registry,
    problems: &mut Problems<'_>,
) -> Option<SystemConfig> {
    let path = format!("systems.{name}");
    match registry.check(&raw.kind, raw.settings.clone()) {
        Ok(found) => {
            for p in found {
                let key = if p.key.is_empty() { String::new() } else { format!(".{}", p.key) };
                problems.add(format!("{path}.settings{key}"), p.message);
            }
        }
        Err(error) => {
            problems.add(format!("{path}.kind"), format!("{error}; {}", error.advice().unwrap_or_default()));
        }
    }
    for (n, check) in raw.checks.iter().enumerate() {
        self::check(&format!("{path}.checks[{n}]"), check, problems);
    }
    let mut objectives = Objectives::for_kind(&raw.kind);
    if let Some(rto) = &raw.rto {
        objectives.rto = problems.duration(format!("{path}.rto"), rto);
    }
    match raw.rpo.as_deref() {
        Some("none") => objectives.rpo = None,
        Some(rpo) => objectives.rpo = Some(problems.duration(format!("{path}.rpo"), rpo)),
        None => {}
    }
    let destination = match &raw.destination {
        Some(d) => known_destination(&format!("{path}.destination"), d, destinations, problems),
        None => destinations.keys().next().cloned(),
    };
    let name = problems.take(&path, SystemName::parse(name))?;
    Some(SystemConfig {
        role: raw.role.unwrap_or_else(|| Role::for_kind(&raw.kind)),
        destination: destination?,
        objectives,
        canary: if raw.canary { CanaryUse::On } else { CanaryUse::Off },
        settings: raw.settings,
        service: raw.service.unwrap_or_default(),
        checks: raw.checks,
        kind: raw.kind,
        name,
    })
}

fn check(path: &str, check: &RawCheck, problems: &mut Problems<'_>) {
    if check.query.trim().is_empty() {
        problems.add(format!("{path}.query"), "is empty");
    }
    if check.expect.is_some() && (check.min.is_some() || check.max.is_some()) {
        problems.add(path, "has both `expect` and `min`/`max`: keep one of them");
    }
}
