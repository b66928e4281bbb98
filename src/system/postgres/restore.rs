//! Restores a chain of physical backups as a data directory that recovers to its exact end when a server starts on it.
//!
//! Every file is checked against the server's own listing while it is written; nothing is in place before all of it is.

use std::path::Path;
use std::time::Duration;

use super::chain::Chain;
use super::fill::Work;
use super::physical::Physical;
use super::target::{self, Target, TargetKind};
use crate::domain::restore::{Phase, RestorePlan, RestoreRequest, Restored};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::BackupSource;

/// How long the rest of a stopped server may take to go away.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
const STOP_POLL: Duration = Duration::from_millis(50);
/// Kept free beside what is written: a server that starts makes WAL and temporary files of its own.
const HEADROOM_BYTES: u64 = 64 << 20;

impl Physical<'_> {
    pub async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        if !request.selection.is_everything() {
            return Err(Error::new(ErrorKind::Unsupported, "restore a part of a physical backup")
                .hint("restore it whole into a sandbox and copy from there, or take logical backups"));
        }
        let target = Target::of(&request.place, self.settings, &request.run)?;
        let chain = Chain::read(&request.chain)?;
        let existing = request.existing;
        let checked = target.clone();
        let mut missing = Vec::new();
        let check = move || {
            // a server that still runs may be stopped by the time of the restore, which looks again
            if let Some(pid) = target::running_on(&checked.dir) {
                return Ok(Some(format!(
                    "the server on {} must be stopped first (pid {pid})",
                    checked.dir.display()
                )));
            }
            checked.check(existing).map(|()| None)
        };
        missing.extend(job.workers().block("check target", check).await?);
        if target.kind == TargetKind::Production && missing.is_empty() && self.answers(job).await? {
            missing.push("something answers at the server's address: stop it first".to_owned());
        }
        let bytes = chain.bytes();
        let free_bytes = target.free_bytes();
        if free_bytes.is_some_and(|free| free < bytes + HEADROOM_BYTES) {
            missing.push(format!("{bytes} bytes are needed and {} are free", free_bytes.unwrap_or(0)));
        }
        let actions = self.actions(&target, &chain);
        Ok(RestorePlan {
            actions,
            bytes,
            free_bytes,
            missing,
            unknown: Vec::new(),
            detail: serde_json::Value::Null,
            request,
        })
    }

    fn actions(&self, target: &Target, chain: &Chain<'_>) -> Vec<String> {
        let mut actions = vec![
            format!("unpack the base backup of {} into {}", chain.base.id, target.dir.display()),
            format!("add {} WAL files", chain.wal.len()),
            format!("recover to {} when a server starts on it", chain.target),
        ];
        for (oid, location) in &chain.detail.tablespaces {
            actions.push(match target.kind {
                TargetKind::Production => format!("put tablespace {oid} back at {location}"),
                TargetKind::Directory => format!("put tablespace {oid} inside, as pg_tblspc/{oid}"),
            });
        }
        actions
    }

    async fn answers(&self, job: &JobContext) -> Result<bool> {
        let connector = self.connector.clone();
        job.workers().block("look for a server", move || Ok(target::answers(&connector))).await
    }

    /// After a kill the server's children live on for a moment; nothing may be replaced under them.
    async fn wait_until_stopped(&self, target: &Target, job: &JobContext) -> Result<()> {
        let began = tokio::time::Instant::now();
        loop {
            let dir = target.dir.clone();
            let look = move || Ok(target::running_on(&dir).or_else(|| target::working_in(&dir)));
            let process = job.workers().block("look for processes", look).await?;
            let answers = target.kind == TargetKind::Production && self.answers(job).await?;
            if process.is_none() && !answers {
                return Ok(());
            }
            if began.elapsed() > STOP_WAIT_MAX {
                let error = Error::new(ErrorKind::Conflict, "restore under a running server")
                    .with("dir", target.dir.display())
                    .hint("stop the server first");
                return Err(match process {
                    Some(pid) => error.with("pid", pid),
                    None => error.why("something answers at the server's address"),
                });
            }
            job.sleep("wait for the server to stop", STOP_POLL).await?;
        }
    }

    pub async fn restore(
        &self,
        plan: &RestorePlan,
        source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Restored> {
        let request = &plan.request;
        let target = Target::of(&request.place, self.settings, &request.run)?;
        let chain = Chain::read(&request.chain)?;
        self.wait_until_stopped(&target, job).await?;
        let (checked, existing) = (target.clone(), request.existing);
        let staging = job
            .workers()
            .block("prepare target", move || checked.check(existing).and_then(|()| checked.stage()))
            .await?;
        job.progress().set_total(chain.bytes());
        let began = tokio::time::Instant::now();
        let work = Work { physical: self, target: &target, chain: &chain, staging: &staging, source, job };
        let spaces = work.spaces()?;
        let result = work.fill(&spaces).await;
        let files = match result {
            Ok(files) => files,
            Err(error) => {
                let (staging, spaces) = (staging.clone(), spaces.clone());
                let cleaned = job.workers().block("remove unfinished restore", move || {
                    spaces
                        .values()
                        .filter(|s| s.is_staged())
                        .try_for_each(|s| target::remove_tree(&s.root))?;
                    target::remove_tree(&staging)
                });
                if let Err(left) = cleaned.await {
                    tracing::warn!(error = %left, "unfinished restore was not removed");
                }
                return Err(error);
            }
        };
        let loaded = began.elapsed();
        let notes = work.commit(spaces).await?;
        Ok(Restored {
            point: request.point().map(|m| m.id.clone()),
            items: files,
            bytes: chain.bytes(),
            watermark: None,
            phases: vec![Phase { name: "load".to_owned(), took: loaded }],
            notes,
        })
    }
}

/// Settings that a restore writes; also used to tell them apart from the server's own.
pub fn is_recovery_line(line: &str) -> bool {
    let key = line.split(['=', ' ']).next().unwrap_or_default();
    key.starts_with("recovery_target")
        || key == "restore_command"
        || key == "allow_in_place_tablespaces"
        || line.starts_with("# lifeboat:")
}

pub fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .or_io("write file", path)?;
    file.write_all(content).or_io("write file", path)
}
