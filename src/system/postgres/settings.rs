//! Settings of a PostgreSQL system as they stand in the config, and what makes them valid.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::runtime::secret::SecretRef;

/// Settings below `[systems.<name>.settings]` of kind `postgres`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Host name or address; an absolute path is the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<SecretRef>,
    /// Maintenance database: where server-wide questions are asked and the canary lives.
    pub database: String,
    pub tls: Tls,
    /// Authorities that `tls = "verify"` trusts, PEM; the usual public ones when absent.
    pub ca_file: Option<PathBuf>,
    /// How new backups are taken. Restores follow what a backup says of itself.
    pub method: Method,
    /// Data directory on this machine; needed only to restore in place.
    pub data_dir: Option<PathBuf>,
    /// Where `postgres`, `pg_dump` and the others are; else the usual places are searched.
    pub bin_dir: Option<PathBuf>,
    /// Physical only: count and hash every row at the recovery point. Costs one read of every table.
    pub row_fingerprint: bool,
    /// Logical only: databases to back up; empty means all.
    pub databases: Vec<String>,
    /// How the server is kept from removing WAL that a backup still needs.
    pub wal: WalKeeping,
    /// Owner of a restored data directory; the owner of the directory around it when absent.
    pub account: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 5432,
            user: "postgres".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            tls: Tls::Off,
            ca_file: None,
            method: Method::Physical,
            data_dir: None,
            bin_dir: None,
            row_fingerprint: false,
            databases: Vec::new(),
            wal: WalKeeping::Slot,
            account: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    Off,
    /// Encrypted; whoever answers is believed.
    Require,
    /// Encrypted; certificate and host name are checked.
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Physical,
    Logical,
}

impl Method {
    /// As it stands in `Captured::method`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalKeeping {
    /// A replication slot of our own.
    Slot,
    /// `wal_keep_size` on the server; a backup whose WAL is gone fails, an incremental becomes a full.
    Keep,
}

impl Settings {
    /// The directory of the Unix socket, when `host` is a path.
    pub fn socket_dir(&self) -> Option<&Path> {
        self.host.starts_with('/').then(|| Path::new(&self.host))
    }

    /// Every problem at once, as `(key, message)`.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut problem = |key: &str, message: &str| found.push((key.to_owned(), message.to_owned()));
        for (key, value) in [("host", &self.host), ("user", &self.user), ("database", &self.database)] {
            if value.is_empty() {
                problem(key, "is empty");
            }
            if value.contains('\0') {
                problem(key, "contains a zero byte");
            }
        }
        if self.port == 0 {
            problem("port", "is 0");
        }
        if self.ca_file.is_some() && self.tls != Tls::Verify {
            problem("ca_file", "is only used with tls = \"verify\"");
        }
        if self.socket_dir().is_some() && self.tls != Tls::Off {
            problem("tls", "is not spoken over a Unix socket: set it to \"off\"");
        }
        if self.row_fingerprint && self.method == Method::Logical {
            problem("row_fingerprint", "is for physical backups: a logical backup always hashes its rows");
        }
        if !self.databases.is_empty() && self.method == Method::Physical {
            problem("databases", "is for logical backups: a physical backup always holds the whole server");
        }
        for (key, path) in
            [("data_dir", &self.data_dir), ("bin_dir", &self.bin_dir), ("ca_file", &self.ca_file)]
        {
            if path.as_ref().is_some_and(|p| !p.is_absolute()) {
                problem(key, "is not an absolute path");
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_and_the_defaults_are_sound() {
        let settings: Settings = toml::from_str("user = 'backup'").unwrap();
        assert_eq!(settings.port, 5432);
        assert!(settings.problems().is_empty());
        assert!(toml::from_str::<Settings>("passwrod = 'env:X'").is_err());
    }

    #[test]
    fn every_problem_is_reported_with_its_key() {
        let settings: Settings = toml::from_str(
            "host = ''\nport = 0\nca_file = 'ca.pem'\nmethod = 'logical'\nrow_fingerprint = true",
        )
        .unwrap();
        let problems = settings.problems();
        let keys: Vec<&str> = problems.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["host", "port", "ca_file", "row_fingerprint", "ca_file"]);
    }
}
