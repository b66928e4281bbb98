//! Restoring: what is asked, what is planned, what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backup::Watermark;
use super::id::{BackupId, RunId};
use super::manifest::Manifest;
use super::place::Place;

/// What may happen to what is already at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Refuse a target that holds anything.
    Refuse,
    /// Replace it. The caller has taken a safety backup or was told not to.
    Replace,
}

/// Names to restore: tables `schema.table`, keys, paths, as glob patterns. Empty means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub patterns: Vec<String>,
}

impl Selection {
    pub fn is_everything(&self) -> bool {
        self.patterns.is_empty()
    }
}

#[derive(Clone, Debug)]
pub struct RestoreRequest {
    pub run: RunId,
    /// Full first, every one building on the one before; the last is the recovery point.
    pub chain: Vec<Manifest>,
    pub place: Place,
    pub existing: Existing,
    pub selection: Selection,
}

impl RestoreRequest {
    /// The recovery point. `None` only for an empty chain, which planning refuses.
    pub fn point(&self) -> Option<&Manifest> {
        self.chain.last()
    }
}

/// What a restore will do. Can be shown, stored and approved; making it changes nothing.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    pub request: RestoreRequest,
    /// One line each, for a person.
    pub actions: Vec<String>,
    /// Raw bytes that will be written.
    pub bytes: u64,
    pub free_bytes: Option<u64>,
    /// What makes it impossible now. Not empty: `restore` would fail.
    pub missing: Vec<String>,
    /// What could not be found out.
    pub unknown: Vec<String>,
    pub detail: serde_json::Value,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    pub point: Option<BackupId>,
    /// Rows, keys or files written, where the engine counts them.
    pub items: u64,
    pub bytes: u64,
    /// Read from the restored data where that is possible without a server.
    pub watermark: Option<Watermark>,
    pub phases: Vec<Phase>,
    pub notes: Vec<String>,
}

/// Where the time went: `fetch`, `load`, `replay`, `rebuild`, `verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub took: Duration,
}
