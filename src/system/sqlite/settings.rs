//! `[system.NAME.settings]` of kind `sqlite`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

const BUSY_TIMEOUT_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The database file. Absolute.
    pub path: PathBuf,
    /// How long to wait for a lock that a writer holds: `10s`.
    #[serde(default = "default_busy_timeout")]
    pub busy_timeout: String,
}

fn default_busy_timeout() -> String {
    "10s".to_owned()
}

impl Settings {
    /// Every problem at once, as `(key, message)`.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if !self.path.is_absolute() || self.path.file_name().is_none() {
            problems.push(("path".to_owned(), "must be the absolute path of a file".to_owned()));
        }
        if let Err(message) = self.busy_timeout() {
            problems.push(("busy_timeout".to_owned(), message));
        }
        problems
    }

    pub(super) fn busy_timeout(&self) -> Result<Duration, String> {
        let time = humantime::parse_duration(&self.busy_timeout).map_err(|e| e.to_string())?;
        if time.is_zero() || time > BUSY_TIMEOUT_MAX {
            return Err("must be above 0s and at most 10m".to_owned());
        }
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_setting_is_named() {
        let settings: Settings = toml::from_str("path = 'app.db'\nbusy_timeout = '2h'").unwrap();
        let keys: Vec<String> = settings.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["path", "busy_timeout"]);
        assert!(toml::from_str::<Settings>("path = '/a.db'\npathh = '/b'").is_err());
        let good: Settings = toml::from_str("path = '/var/lib/app/app.db'").unwrap();
        assert!(good.check().is_empty());
    }
}
