//! Throwaway servers: files first, then a server on them, with everything given on the command line and no
//! configuration file, so that nothing of production's can be in force.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::server::Info;
use super::{DUMP, RedisSystem, needs_server};
use crate::domain::backup::Captured;
use crate::domain::place::Place;
use crate::error::{Result, Retry};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::{SandboxOrder, Sandboxing};

const HINT: &str = "install it: apt install redis-server (or valkey-server), or set bin_dir";
const POLL: Duration = Duration::from_millis(20);
/// More than servers usually have, so that whatever database numbers a dump uses fit.
const DATABASES: &str = "1024";

impl RedisSystem {
    fn program(&self) -> Result<Program> {
        let dirs: Vec<&Path> = self.settings.bin_dir.iter().map(PathBuf::as_path).collect();
        Program::find("redis-server", &dirs, HINT).or_else(|_| Program::find("valkey-server", &dirs, HINT))
    }
}

#[async_trait]
impl Sandboxing for RedisSystem {
    fn programs(&self) -> Result<Vec<PathBuf>> {
        Ok(vec![self.program()?.path().to_owned()])
    }

    fn order(&self, _point: &Captured) -> SandboxOrder {
        SandboxOrder::RestoreThenStart
    }

    async fn initialise(&self, _dir: &Path, _account: Option<&Account>, _job: &JobContext) -> Result<()> {
        // an empty directory is an empty server
        Ok(())
    }

    async fn neutralise(&self, _dir: &Path, port: u16, _job: &JobContext) -> Result<Vec<String>> {
        Ok(vec![
            format!("started without a configuration file, on 127.0.0.1:{port} only"),
            "replication off, snapshots and append-only file off".to_owned(),
        ])
    }

    fn server(&self, dir: &Path, port: u16) -> Result<Option<Program>> {
        let port = port.to_string();
        let dir_text = dir.as_os_str();
        let program = self
            .program()?
            .args(["--port", &port, "--bind", "127.0.0.1", "--protected-mode", "yes"])
            .args(["--daemonize", "no", "--databases", DATABASES])
            .args(["--save", "", "--appendonly", "no", "--dbfilename", DUMP])
            .args(["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(dir_text)
            .dir(dir);
        Ok(Some(program))
    }

    async fn ready(&self, place: &Place, job: &JobContext) -> Result<()> {
        let endpoint = self.endpoint(place).ok_or_else(|| needs_server("wait for a server on files"))?;
        loop {
            let answer = async {
                let mut connection = endpoint.connect(job).await?;
                connection.ask(&["PING"], job).await?;
                Info::read(&mut connection, job).await
            };
            match answer.await {
                Ok(info) if info.is("loading", "0") => return Ok(()),
                Ok(_) => {}
                Err(error) if error.retry() == Retry::Later => {}
                Err(error) => return Err(error),
            }
            job.sleep("wait for redis", POLL).await?;
        }
    }
}
