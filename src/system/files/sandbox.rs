//! A tree needs no server: a sandbox of this kind is a directory.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::FilesSystem;
use crate::domain::backup::Captured;
use crate::domain::place::Place;
use crate::error::{IoContext, Result};
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::system::{SandboxOrder, Sandboxing};

#[async_trait]
impl Sandboxing for FilesSystem {
    fn programs(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn order(&self, _point: &Captured) -> SandboxOrder {
        SandboxOrder::FilesOnly
    }

    async fn initialise(&self, dir: &Path, _account: Option<&Account>, job: &JobContext) -> Result<()> {
        let dir = dir.to_path_buf();
        job.workers()
            .block("make directory", move || std::fs::create_dir_all(&dir).or_io("make directory", &dir))
            .await
    }

    async fn neutralise(&self, _dir: &Path, _port: u16, _job: &JobContext) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn server(&self, _dir: &Path, _port: u16) -> Result<Option<Program>> {
        Ok(None)
    }

    async fn ready(&self, _place: &Place, _job: &JobContext) -> Result<()> {
        Ok(())
    }
}
