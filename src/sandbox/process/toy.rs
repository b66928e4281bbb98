//! For tests: a system that can only be put into a sandbox, with servers that behave and misbehave.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::backup::{BackupPlan, BackupRequest, Captured, Lease, Watermark};
use crate::domain::id::SystemName;
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{RestorePlan, RestoreRequest, Restored};
use crate::domain::verification::Verification;
use crate::error::{Error, IoContext, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::{BackupSink, BackupSource, DataSystem, Health, SandboxOrder, Sandboxing};

#[derive(Debug)]
pub(super) enum Server {
    Redis,
    /// Says something and ends.
    Ends,
    None,
    /// Somebody takes the port of the first start before the server does.
    PortTaken(std::sync::Mutex<Option<std::net::TcpListener>>),
}

/// A system that can only be put into a sandbox.
#[derive(Debug)]
pub(super) struct Toy {
    name: SystemName,
    server: Server,
    pub(super) starts: AtomicU32,
}

impl Toy {
    pub(super) fn new(server: Server) -> Self {
        Self { name: SystemName::parse("toy").unwrap(), server, starts: AtomicU32::new(0) }
    }
}

#[async_trait]
impl DataSystem for Toy {
    fn name(&self) -> &SystemName {
        &self.name
    }
    fn kind(&self) -> &'static str {
        "toy"
    }
    async fn probe(&self, _: &JobContext) -> Result<Health> {
        Err(Error::bug("probe a toy"))
    }
    async fn plan_backup(&self, _: &BackupRequest, _: &JobContext) -> Result<BackupPlan> {
        Err(Error::bug("back a toy up"))
    }
    async fn backup(&self, _: &BackupPlan, _: &dyn BackupSink, _: &JobContext) -> Result<Captured> {
        Err(Error::bug("back a toy up"))
    }
    async fn plan_restore(&self, _: RestoreRequest, _: &JobContext) -> Result<RestorePlan> {
        Err(Error::bug("restore a toy"))
    }
    async fn restore(&self, _: &RestorePlan, _: &dyn BackupSource, _: &JobContext) -> Result<Restored> {
        Err(Error::bug("restore a toy"))
    }
    async fn verify(
        &self,
        _: &[Manifest],
        _: &Place,
        _: &dyn BackupSource,
        _: &JobContext,
    ) -> Result<Verification> {
        Err(Error::bug("verify a toy"))
    }
    async fn watermark(&self, _: &Place, _: &JobContext) -> Result<Option<Watermark>> {
        Ok(None)
    }
    async fn release(&self, _: &Lease, _: &JobContext) -> Result<()> {
        Ok(())
    }
    fn sandboxing(&self) -> Option<&dyn Sandboxing> {
        Some(self)
    }
}

#[async_trait]
impl Sandboxing for Toy {
    fn programs(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn order(&self, _: &Captured) -> SandboxOrder {
        SandboxOrder::RestoreThenStart
    }
    async fn initialise(&self, dir: &Path, _: Option<&Account>, _: &JobContext) -> Result<()> {
        std::fs::write(dir.join("made"), "by initialise").or_io("write", dir)
    }
    async fn neutralise(&self, _: &Path, port: u16, _: &JobContext) -> Result<Vec<String>> {
        Ok(vec![format!("listens on {port} only")])
    }
    fn server(&self, dir: &Path, port: u16) -> Result<Option<Program>> {
        let shell = |script: &str| Program::find("sh", &[], "").map(|p| Some(p.args(["-c", script])));
        match &self.server {
            Server::None => return Ok(None),
            Server::Ends => return shell("echo first; echo no such tablespace >&2; exit 3"),
            Server::PortTaken(held) if self.starts.fetch_add(1, Ordering::Relaxed) == 0 => {
                let listener = std::net::TcpListener::bind(("127.0.0.1", port)).or_io("listen", dir)?;
                *held.lock().unwrap() = Some(listener);
            }
            Server::PortTaken(_) | Server::Redis => {}
        }
        let redis = Program::find("redis-server", &[], "install redis-server")?
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
            .arg("--dir")
            .arg(dir)
            .dir(dir);
        Ok(Some(redis))
    }
    async fn ready(&self, place: &Place, job: &JobContext) -> Result<()> {
        let Place::Server(at) = place else {
            return Err(Error::bug("wait for a directory"));
        };
        while std::net::TcpStream::connect((at.host.as_str(), at.port)).is_err() {
            job.sleep("wait for the toy", Duration::from_millis(5)).await?;
        }
        Ok(())
    }
}
