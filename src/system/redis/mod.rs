//! Redis and Valkey engine, version 6 and newer.
//!
//! Backup: the RDB as a replica gets it, remote and without file access, parsed while it streams. Restore: as a file for a
//! stopped server, or key by key into a running one. Verification reads a fresh RDB and never the keys themselves, so
//! that idle times stay what they are. One node at a time: a cluster is as many systems as it has masters.

mod backup;
mod canary;
mod connection;
mod feed;
mod fingerprint;
mod glob;
mod probe;
mod query;
mod rdb;
mod resp;
mod restore;
mod restore_file;
mod restore_keys;
mod sandbox;
mod server;
pub mod settings;
mod snapshot;
mod surroundings;
mod verify;

#[cfg(test)]
mod live_tests;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

pub use settings::Settings;

use self::connection::Endpoint;
use crate::domain::backup::{BackupPlan, BackupRequest, Captured, Lease, Watermark, WatermarkSource};
use crate::domain::id::{ArtifactName, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{
    BackupSink, BackupSource, Canary, DataSystem, Engine, EngineDeps, Health, Queries, Sandboxing,
};

pub const KIND: &str = "redis";
/// The artifact with the data, and the name of the file in directories that lifeboat fills itself.
const DUMP: &str = "dump.rdb";

#[derive(Clone, Debug)]
pub struct RedisSystem {
    name: SystemName,
    settings: Settings,
}

impl RedisSystem {
    /// How to reach a server at `place`; `None` where there are only files.
    fn endpoint(&self, place: &Place) -> Option<Endpoint> {
        match place {
            Place::Production => Some(self.settings.endpoint()),
            Place::Server(server) => Some(Endpoint::open(&server.host, server.port)),
            Place::Directory { .. } => None,
        }
    }
}

fn artifact(name: &str) -> Result<ArtifactName> {
    ArtifactName::parse(name).map_err(|e| Error::bug("name an artifact").because(e))
}

fn dump_in(directory: &Path) -> PathBuf {
    directory.join(DUMP)
}

fn needs_server(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what.to_owned())
        .hint("it needs a running server: start one on the directory")
}

/// The instant that a snapshot represents.
fn created_at(header: &rdb::Header) -> Option<crate::domain::Timestamp> {
    chrono::DateTime::from_timestamp(header.created_s?, 0)
}

fn watermark_of(header: &rdb::Header) -> Option<Watermark> {
    created_at(header).map(|at| Watermark { at, source: WatermarkSource::Engine })
}

impl Engine for RedisSystem {
    const KIND: &'static str = KIND;
    type Settings = Settings;

    fn check(settings: &Settings) -> Vec<(String, String)> {
        settings.problems()
    }

    fn build(settings: Settings, deps: EngineDeps) -> Result<Self> {
        Ok(Self { name: deps.name, settings })
    }
}

#[async_trait]
impl DataSystem for RedisSystem {
    fn name(&self) -> &SystemName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn probe(&self, job: &JobContext) -> Result<Health> {
        probe::probe(self, job).await
    }

    async fn plan_backup(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        backup::plan(self, request, job).await
    }

    async fn backup(&self, plan: &BackupPlan, sink: &dyn BackupSink, job: &JobContext) -> Result<Captured> {
        backup::run(self, plan, sink, job).await
    }

    async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        restore::plan(self, request, job).await
    }

    async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        restore::run(self, plan, source, job).await
    }

    async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        verify::verify(self, chain, place, source, job).await
    }

    async fn watermark(&self, place: &Place, job: &JobContext) -> Result<Option<Watermark>> {
        match place {
            Place::Directory { path } => {
                let header = feed::file_header(&dump_in(path), job).await?;
                Ok(watermark_of(&header))
            }
            // a running server keeps no record of when it was last written to
            Place::Production | Place::Server(_) => Ok(None),
        }
    }

    async fn release(&self, _lease: &Lease, _job: &JobContext) -> Result<()> {
        // a replica leaves nothing behind: there are no leases
        Ok(())
    }

    fn canary(&self) -> Option<&dyn Canary> {
        Some(self)
    }

    fn sandboxing(&self) -> Option<&dyn Sandboxing> {
        Some(self)
    }

    fn queries(&self) -> Option<&dyn Queries> {
        Some(self)
    }
}
