//! Logical backups: one snapshot per database, read through SQL; what is stored loads with `psql` alone.
//!
//! Parts: `snapshot` freezes a view, `data` copies rows and hashes them as they pass, `dump` takes definitions, `losses`
//! says what cannot be carried, `toc` is the table of contents; `plan`, `target`, `load` and `restore` bring it back,
//! `files` is the restore into plain files, `verify` compares a copy with the fingerprint.

mod backup;
mod data;
mod dump;
mod files;
mod globals;
#[cfg(test)]
mod live_tests;
mod load;
mod losses;
mod pieces;
mod plan;
mod restore;
mod script;
mod snapshot;
mod target;
mod toc;
mod verify;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::backup::{Captured, Digest};
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, Result};
use crate::system::postgres::client::Connector;
use crate::system::postgres::settings::Settings;

/// Connections that read or write rows at once, at most; as many as there are cores below that.
const CONNECTIONS_MAX: usize = 4;

#[derive(Clone, Copy, Debug)]
pub struct Logical<'a> {
    pub settings: &'a Settings,
    pub connector: &'a Connector,
    pub system: &'a SystemName,
}

/// What a logical backup notes about itself in `Captured::detail`: enough to plan without opening it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Detail {
    major: u32,
    databases: Vec<DatabaseDetail>,
    /// Roles besides the server's own.
    roles: Vec<String>,
    tablespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DatabaseDetail {
    name: String,
    /// Of tables with TOAST, as they were on the server.
    bytes: u64,
    lsn: String,
    tables: u64,
    objects: BTreeMap<String, Digest>,
}

impl Detail {
    fn of(captured: &Captured) -> Result<Self> {
        serde_json::from_value(captured.detail.clone())
            .map_err(|e| Error::new(ErrorKind::Corrupt, "read notes of a logical backup").because(e))
    }
}
