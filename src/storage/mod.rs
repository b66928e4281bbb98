//! Storage port: named immutable objects of bounded size.
//!
//! Objects are whole segments and manifests (at most [`OBJECT_BYTES_MAX`]), so one call stores one object and nothing is
//! visible before it is durable. Multi-part uploads, retries and `O_DIRECT` are the adapters' business.
//! `conformance` holds what every adapter must do.

pub mod conformance;
mod key;
pub mod local;
pub mod memory;
pub mod object;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::runtime::JobContext;

/// Largest object: the largest allowed segment (256 MiB) and room for its framing.
pub const OBJECT_BYTES_MAX: u64 = 260 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Create-only: `Conflict` when the object exists. Holds against concurrent writers.
    Forbid,
    Allow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Relative to the storage's root, `/`-separated.
    pub key: String,
    pub bytes: u64,
}

#[async_trait]
pub trait Storage: Debug + Send + Sync + 'static {
    /// Location for a person, without secrets: `/var/backups`, `s3://bucket/prefix`.
    fn location(&self) -> String;

    /// Stores `parts`, one after the other, as one object; durable when it returns.
    ///
    /// Errors: `Conflict` (exists, with `Forbid`), `Exhausted` (no space), `Denied`, `Unreachable`.
    /// Unknown after `Cancelled`, `DeadlineExceeded` or `Unreachable`: whether the object exists. Never half of it.
    async fn put(&self, key: &str, parts: Vec<Bytes>, overwrite: Overwrite, job: &JobContext) -> Result<()>;

    /// The whole object. `NotFound` when there is none.
    async fn get(&self, key: &str, job: &JobContext) -> Result<Bytes>;

    /// `None` when there is no such object.
    async fn stat(&self, key: &str, job: &JobContext) -> Result<Option<ObjectMeta>>;

    /// Every object whose key begins with `prefix` (a path prefix ending in `/`, or empty), in order of keys.
    /// Unfinished writes are not listed.
    async fn list(&self, prefix: &str, job: &JobContext) -> Result<Vec<ObjectMeta>>;

    /// A missing object is fine; a locked one is `Denied`.
    async fn delete(&self, key: &str, job: &JobContext) -> Result<()>;

    /// Removes what unfinished writes below `prefix` left, where a storage keeps such things, and gives their number.
    /// Only for a prefix that nobody writes to any more: the backup of a process that is gone.
    async fn discard_unfinished(&self, _prefix: &str, _job: &JobContext) -> Result<u64> {
        Ok(0)
    }

    /// Free bytes, where the storage can tell.
    async fn free_bytes(&self, job: &JobContext) -> Result<Option<u64>>;
}
