//! For tests of engines: a backup kept in memory, and a throwaway server started from an engine's own sandbox ability.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use super::{ArtifactWriter, BackupSink, BackupSource, ByteStream, DataSystem};
use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Captured};
use crate::domain::id::{ArtifactName, BackupId};
use crate::domain::manifest::{Artifact, FORMAT_VERSION, Manifest, SegmentEncoding};
use crate::domain::place::{Place, ServerPlace};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;

type Store = Arc<Mutex<BTreeMap<(BackupId, ArtifactName), Vec<Bytes>>>>;

/// Sink and source in one: raw bytes of any number of backups in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryBackups {
    store: Store,
}

#[derive(Debug)]
struct MemorySink {
    id: BackupId,
    store: Store,
}

#[derive(Debug)]
struct MemoryWriter {
    id: BackupId,
    name: ArtifactName,
    store: Store,
    chunks: Vec<Bytes>,
}

impl MemoryBackups {
    pub fn sink(&self, id: &BackupId) -> impl BackupSink {
        MemorySink { id: id.clone(), store: self.store.clone() }
    }

    /// Replaces an artifact, to test what a damaged backup does.
    pub fn tamper(&self, id: &BackupId, name: &ArtifactName, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunks) = store.get_mut(&(id.clone(), name.clone())) {
            *chunks = vec![Bytes::from(change(chunks.concat()))];
        }
    }

    pub fn artifacts(&self, id: &BackupId) -> Vec<(ArtifactName, Bytes)> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store
            .iter()
            .filter(|((b, _), _)| b == id)
            .map(|((_, name), c)| (name.clone(), c.concat().into()))
            .collect()
    }

    /// Plans and takes a backup of `system` and gives its manifest, as the runner does, `committed` included.
    pub async fn take(
        &self,
        system: &dyn DataSystem,
        kind: BackupKind,
        chain: &[Manifest],
        job: &JobContext,
    ) -> Result<Manifest> {
        let id = BackupId::new(job.now(), job.clock().random());
        let request = BackupRequest { id: id.clone(), kind, tier: None, chain: chain.to_vec() };
        let started_at = job.now();
        let plan = system.plan_backup(&request, job).await?;
        let captured = system.backup(&plan, &self.sink(&id), job).await?;
        let manifest = self.manifest(system, &plan, captured, started_at, job);
        system.committed(&manifest, job).await?;
        Ok(manifest)
    }

    fn manifest(
        &self,
        system: &dyn DataSystem,
        plan: &BackupPlan,
        captured: Captured,
        started_at: crate::domain::Timestamp,
        job: &JobContext,
    ) -> Manifest {
        let artifact = |(name, bytes): (ArtifactName, Bytes)| Artifact {
            name,
            raw_bytes: bytes.len() as u64,
            segments: Vec::new(),
        };
        Manifest {
            format: FORMAT_VERSION,
            id: plan.id.clone(),
            system: system.name().clone(),
            engine: system.kind().to_owned(),
            tier: None,
            kind: plan.kind,
            parent: plan.parent.as_ref().map(|m| m.id.clone()),
            root: plan.parent.as_ref().map_or_else(|| plan.id.clone(), |m| m.root.clone()),
            started_at,
            finished_at: job.now(),
            lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: "test".to_owned(),
            captured,
            segment_encoding: SegmentEncoding { segment_bytes: 0, zstd_level: 0, recipients: Vec::new() },
            artifacts: self.artifacts(&plan.id).into_iter().map(artifact).collect(),
        }
    }
}

#[async_trait]
impl BackupSink for MemorySink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactWriter>> {
        let (id, name, store) = (self.id.clone(), name.clone(), self.store.clone());
        Ok(Box::new(MemoryWriter { id, name, store, chunks: Vec::new() }))
    }
}

#[async_trait]
impl ArtifactWriter for MemoryWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.chunks.push(chunk);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Artifact> {
        let raw_bytes = self.chunks.iter().map(|c| c.len() as u64).sum();
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if store.insert((self.id, self.name.clone()), self.chunks).is_some() {
            return Err(Error::new(ErrorKind::Conflict, "write artifact twice").with("artifact", &self.name));
        }
        Ok(Artifact { name: self.name, raw_bytes, segments: Vec::new() })
    }
}

#[async_trait]
impl BackupSource for MemoryBackups {
    async fn open(
        &self,
        backup: &BackupId,
        artifact: &ArtifactName,
        _job: &JobContext,
    ) -> Result<ByteStream> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = store.get(&(backup.clone(), artifact.clone())).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "open artifact").with("backup", backup).with("artifact", artifact)
        })?;
        Ok(futures_util::stream::iter(chunks.into_iter().map(Ok)).boxed())
    }
}

/// A TCP port on loopback that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let any = Path::new("127.0.0.1:0");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").or_io("find a free port", any)?;
    Ok(listener.local_addr().or_io("find a free port", any)?.port())
}

/// A throwaway server started from an engine's sandbox ability. Killed when dropped; its directory goes too.
#[derive(Debug)]
pub struct TestServer {
    pub place: ServerPlace,
    /// Runs as this account when the tests run as root.
    pub account: Option<Account>,
    child: Option<tokio::process::Child>,
    _home: tempfile::TempDir,
}

impl TestServer {
    /// An empty server in a new directory. `adjust` may change its files (configuration) before the start.
    pub async fn start(
        system: &dyn DataSystem,
        adjust: impl FnOnce(&Path) -> Result<()>,
        job: &JobContext,
    ) -> Result<Self> {
        let sandboxing =
            system.sandboxing().ok_or_else(|| Error::bug("start a server of a kind without sandboxes"))?;
        let account = Account::for_servers("nobody")?;
        let home = tempfile::Builder::new()
            .prefix("lifeboat-test-")
            .tempdir()
            .or_io("make directory", "/tmp".as_ref())?;
        let dir = home.path().join("data");
        std::fs::create_dir(&dir).or_io("make directory", &dir)?;
        open_to_account(home.path(), account.as_ref())?;
        sandboxing.initialise(&dir, account.as_ref(), job).await?;
        adjust(&dir)?;
        let place = ServerPlace { host: "127.0.0.1".to_owned(), port: free_port()?, dir };
        let mut server = Self { place, account, child: None, _home: home };
        server.resume(system, job).await?;
        Ok(server)
    }

    /// Starts the server again on the same directory and port, as after a kill.
    pub async fn resume(&mut self, system: &dyn DataSystem, job: &JobContext) -> Result<()> {
        let sandboxing =
            system.sandboxing().ok_or_else(|| Error::bug("start a server of a kind without sandboxes"))?;
        open_to_account(&self.place.dir, self.account.as_ref())?;
        let log = self.place.dir.with_file_name("server.log");
        if let Some(program) = sandboxing.server(&self.place.dir, self.place.port)? {
            self.child = Some(program.account(self.account.clone()).start_logged(&log)?);
        }
        sandboxing.ready(&self.place(), job).await
    }

    pub fn place(&self) -> Place {
        Place::Server(self.place.clone())
    }

    /// SIGKILL, as a power cut would.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.or_io("kill server", &self.place.dir)?;
        }
        Ok(())
    }
}

/// Lets the account use `path` and everything below it.
fn open_to_account(path: &Path, account: Option<&Account>) -> Result<()> {
    match account {
        Some(account) => account.own_tree(path),
        None => Ok(()),
    }
}
