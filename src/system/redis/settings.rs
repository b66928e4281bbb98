//! Settings of a Redis or Valkey system: their shape on disk and what makes them valid.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::connection::{Endpoint, TlsFiles};
use crate::runtime::secret::SecretRef;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    /// ACL user; without it the password belongs to the default user.
    pub user: Option<String>,
    pub password: Option<SecretRef>,
    pub tls: Tls,
    /// PEM file with the authorities that may sign the server's certificate; without it the public ones.
    pub ca_file: Option<PathBuf>,
    /// PEM files for servers that want a certificate from their clients (Redis does by default).
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Data directory of the server on this machine, for restoring a file while the server is stopped.
    pub data_dir: Option<PathBuf>,
    pub dbfilename: String,
    /// Where the server program is, when it is not on the PATH.
    pub bin_dir: Option<PathBuf>,
    /// Owner of a restored file; without it the owner of the directory.
    pub account: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    #[default]
    Off,
    On,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 6379,
            user: None,
            password: None,
            tls: Tls::Off,
            ca_file: None,
            cert_file: None,
            key_file: None,
            data_dir: None,
            dbfilename: "dump.rdb".to_owned(),
            bin_dir: None,
            account: None,
        }
    }
}

impl Settings {
    /// Every problem at once, as `(key, message)`.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut problem = |key: &str, message: &str| found.push((key.to_owned(), message.to_owned()));
        if self.host.trim().is_empty() {
            problem("host", "must not be empty");
        }
        if self.port == 0 {
            problem("port", "must be between 1 and 65535");
        }
        if self.user.is_some() && self.password.is_none() {
            problem("user", "needs `password` beside it");
        }
        let name = Path::new(&self.dbfilename);
        if self.dbfilename.is_empty() || name.file_name() != Some(name.as_os_str()) {
            problem("dbfilename", "must be a file name without a directory");
        }
        if self.tls == Tls::Off {
            let files =
                [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)];
            for (key, _) in files.iter().filter(|(_, file)| file.is_some()) {
                problem(key, "has no effect with tls = \"off\"");
            }
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            problem("cert_file", "and `key_file` must be given together");
        }
        let absolute = [("data_dir", &self.data_dir), ("bin_dir", &self.bin_dir)];
        for (key, path) in absolute {
            if path.as_ref().is_some_and(|p| !p.is_absolute()) {
                problem(key, "must be an absolute path");
            }
        }
        found
    }

    pub fn endpoint(&self) -> Endpoint {
        let tls =
            TlsFiles { ca: self.ca_file.clone(), cert: self.cert_file.clone(), key: self.key_file.clone() };
        Endpoint {
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
            password: self.password.clone(),
            tls: match self.tls {
                Tls::Off => None,
                Tls::On => Some(tls),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_an_error_and_defaults_fill_the_rest() {
        let parsed: Settings = toml::from_str("port = 7000").unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port), ("127.0.0.1", 7000));
        assert!(parsed.problems().is_empty());
        assert!(toml::from_str::<Settings>("prot = 7000").is_err());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text =
            "port = 0\nuser = 'u'\nca_file = '/ca'\ncert_file = '/c'\ndbfilename = '../x'\ndata_dir = 'd'";
        let parsed: Settings = toml::from_str(text).unwrap();
        let keys: Vec<String> = parsed.problems().into_iter().map(|(k, _)| k).collect();
        for key in ["port", "user", "ca_file", "cert_file", "dbfilename", "data_dir"] {
            assert!(keys.iter().any(|k| k == key), "{key} in {keys:?}");
        }
    }
}
