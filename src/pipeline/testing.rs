//! For tests of the pipeline: storage in a real directory that can be told to fail, and a set of keys with backups.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::keys::{self, Identities};
use super::signing::{SigningKey, TrustedSigners};
use super::sink::SegmentSink;
use crate::domain::backup::{BackupKind, Captured, Fingerprint, Position};
use crate::domain::id::{ArtifactName, BackupId, SystemName};
use crate::domain::manifest::{Artifact, FORMAT_VERSION, Manifest, SegmentEncoding};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::storage::{ObjectMeta, Overwrite, Storage};
use crate::system::BackupSink;

pub const SEGMENT_BYTES: u64 = 64 * 1024;

/// A directory; simple and slow.
#[derive(Debug)]
pub struct DirStorage {
    home: tempfile::TempDir,
    /// Puts that still succeed, and what the next ones fail with.
    pub fault: Mutex<Option<(usize, ErrorKind)>>,
    storing: AtomicUsize,
    /// Most puts under way at once.
    pub storing_max: AtomicUsize,
    /// When set, every put waits for one permit of it.
    pub gate: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
}

impl DirStorage {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            home: tempfile::tempdir().unwrap(),
            fault: Mutex::default(),
            storing: AtomicUsize::new(0),
            storing_max: AtomicUsize::new(0),
            gate: Mutex::default(),
        })
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.home.path().join(key)
    }

    pub fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(key)).unwrap();
        change(&mut bytes);
        std::fs::write(self.path(key), bytes).unwrap();
    }

    fn write(&self, key: &str, parts: &[Bytes], overwrite: Overwrite) -> Result<()> {
        let fault = &mut *self.fault.lock().unwrap();
        if let Some((left, kind)) = fault {
            if *left == 0 {
                return Err(Error::new(*kind, "put object").with("key", key).hint("make room"));
            }
            *left -= 1;
        }
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).or_io("make directory", &path)?;
        let mut open = std::fs::OpenOptions::new();
        open.write(true).truncate(true);
        let mut file = match overwrite {
            Overwrite::Forbid => open.create_new(true).open(&path),
            Overwrite::Allow => open.create(true).open(&path),
        }
        .or_io("make object", &path)?;
        for part in parts {
            std::io::Write::write_all(&mut file, part).or_io("write object", &path)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Storage for DirStorage {
    fn location(&self) -> String {
        self.home.path().display().to_string()
    }

    async fn put(&self, key: &str, parts: Vec<Bytes>, overwrite: Overwrite, job: &JobContext) -> Result<()> {
        let now = self.storing.fetch_add(1, Ordering::SeqCst) + 1;
        self.storing_max.fetch_max(now, Ordering::SeqCst);
        let gate = self.gate.lock().unwrap().clone();
        let result = match gate {
            Some(gate) => {
                let pass = async { gate.acquire().await.map_err(|e| Error::bug("pass").because(e)) };
                job.run("put object", pass).await.map(tokio::sync::SemaphorePermit::forget)
            }
            None => Ok(()),
        }
        .and_then(|()| self.write(key, &parts, overwrite));
        self.storing.fetch_sub(1, Ordering::SeqCst);
        result
    }

    async fn get(&self, key: &str, _job: &JobContext) -> Result<Bytes> {
        let path = self.path(key);
        std::fs::read(&path).map(Bytes::from).or_io("read object", &path)
    }

    async fn stat(&self, key: &str, _job: &JobContext) -> Result<Option<ObjectMeta>> {
        let found = std::fs::metadata(self.path(key)).ok();
        Ok(found.map(|m| ObjectMeta { key: key.to_owned(), bytes: m.len() }))
    }

    async fn list(&self, prefix: &str, _job: &JobContext) -> Result<Vec<ObjectMeta>> {
        let (mut objects, mut pending) = (Vec::new(), vec![self.home.path().to_owned()]);
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(&dir).or_io("list", &dir)? {
                let path = entry.or_io("list", &dir)?.path();
                let key = path.strip_prefix(self.home.path()).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    pending.push(path);
                } else if key.starts_with(prefix) {
                    let bytes = std::fs::metadata(&path).or_io("stat", &path)?.len();
                    objects.push(ObjectMeta { key, bytes });
                }
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    async fn delete(&self, key: &str, _job: &JobContext) -> Result<()> {
        match std::fs::remove_file(self.path(key)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).or_io("delete", &self.path(key)),
            _ => Ok(()),
        }
    }

    async fn free_bytes(&self, _job: &JobContext) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Keys of a test, and backups made with them.
#[derive(Debug)]
pub struct Fixture {
    pub home: tempfile::TempDir,
    pub identity_file: PathBuf,
    pub identities: Arc<Identities>,
    pub signing: SigningKey,
    pub trusted: TrustedSigners,
    pub encoding: SegmentEncoding,
    pub system: SystemName,
}

impl Fixture {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let made = keys::generate(home.path(), "2026-11-21T14:30:07Z".parse().unwrap()).unwrap();
        let signing = SigningKey::load(&made.signing).unwrap().keys;
        Self {
            identities: Arc::new(Identities::load(&[&made.identity]).unwrap().keys),
            identity_file: made.identity,
            trusted: TrustedSigners::of(&signing),
            signing,
            encoding: SegmentEncoding {
                segment_bytes: SEGMENT_BYTES,
                zstd_level: 3,
                recipients: vec![made.recipient],
            },
            system: SystemName::parse("orders").unwrap(),
            home,
        }
    }

    pub fn id(&self, number: u32) -> BackupId {
        BackupId::new("2026-11-21T14:30:07Z".parse().unwrap(), number)
    }

    pub fn sink(&self, storage: &Arc<DirStorage>, number: u32, job: &JobContext) -> SegmentSink {
        let (id, storage) = (self.id(number), storage.clone());
        SegmentSink::new(&self.system, &id, storage, &self.encoding, job.clone()).unwrap()
    }

    /// Stores the artifacts and gives the manifest, which is not committed.
    pub async fn backup(
        &self,
        storage: &Arc<DirStorage>,
        number: u32,
        artifacts: &[(&str, &[u8])],
        job: &JobContext,
    ) -> Manifest {
        let sink = self.sink(storage, number, job);
        for (name, bytes) in artifacts {
            let mut writer = sink.artifact(&ArtifactName::parse(*name).unwrap()).await.unwrap();
            writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
            writer.finish().await.unwrap();
        }
        self.manifest(number, sink.finish().await.unwrap())
    }

    pub fn manifest(&self, number: u32, artifacts: Vec<Artifact>) -> Manifest {
        let at = "2026-11-21T14:30:07Z".parse().unwrap();
        Manifest {
            format: FORMAT_VERSION,
            id: self.id(number),
            system: self.system.clone(),
            engine: "files".to_owned(),
            tier: None,
            kind: BackupKind::Full,
            parent: None,
            root: self.id(number),
            started_at: at,
            finished_at: at,
            lifeboat_version: "0.1.0".to_owned(),
            host: "test".to_owned(),
            captured: Captured {
                method: "tar".to_owned(),
                server_version: String::new(),
                position: Position { start: None, end: "1".to_owned() },
                captured_at: at,
                watermark: None,
                fingerprint: Fingerprint::default(),
                detail: serde_json::Value::Null,
                notes: Vec::new(),
            },
            segment_encoding: self.encoding.clone(),
            artifacts,
        }
    }
}

/// Bytes that compress a little and repeat nowhere: the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3] & 0x3f
    };
    (0..bytes).map(|_| next()).collect()
}
