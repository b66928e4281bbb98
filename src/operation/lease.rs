//! Giving back what dead or ended runs held: replication slots, half-written backups, sandboxes.

use crate::domain::backup::{Lease, LeaseScope};
use crate::domain::id::RunId;
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::error::{Error, Result};
use crate::operation::Node;
use crate::runtime::JobContext;
use crate::runtime::process::{Liveness, liveness};

/// What to do with the chain leases of a run that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunFate {
    Succeeded,
    Failed,
}

/// Settles every lease of `run`: chain leases of a successful run are kept, everything else is given back.
pub(super) async fn settle(node: &Node, run: &RunId, fate: RunFate, job: &JobContext) -> Result<()> {
    let mut first_error = None;
    for held in node.catalog.leases().await?.into_iter().filter(|h| h.run.as_ref() == Some(run)) {
        let settled = match (held.lease.scope, fate) {
            (LeaseScope::Chain, RunFate::Succeeded) => node.catalog.keep_lease(&held.lease).await,
            (LeaseScope::Chain, RunFate::Failed) | (LeaseScope::Run, _) => {
                give_back(node, &held.lease, job).await
            }
        };
        if let Err(error) = settled {
            tracing::warn!(lease = %held.lease.name, system = %held.lease.system, %error, "lease not given back, will be tried again");
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn give_back(node: &Node, lease: &Lease, job: &JobContext) -> Result<()> {
    let system = node.system(&lease.system)?;
    job.run("give back lease", system.release(lease, job)).await?;
    node.catalog.clear_lease(lease).await
}

/// What was found and settled after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Runs whose process is gone: backups, restores and verifications are failed, recoveries and drills can be resumed.
    pub interrupted: Vec<RunId>,
    pub removed: Vec<String>,
    /// What could not be settled now.
    pub left: Vec<String>,
}

/// Settles what dead processes left: run at the start of every command that changes something, and by `serve`.
pub async fn sweep(node: &Node, job: &JobContext) -> Result<Swept> {
    let mut swept = Swept::default();
    for run in node.catalog.unfinished_runs().await? {
        if run.state == RunState::Running && liveness(&run.owner) == Liveness::Gone {
            if let Err(error) = bury(node, &run, &mut swept, job).await {
                swept.left.push(format!("run {}: {error}", run.id));
            }
            swept.interrupted.push(run.id);
        }
    }
    let removed = node.sandboxes.sweep(job).await;
    match removed {
        Ok(removed) => swept.removed.extend(removed),
        Err(error) => swept.left.push(format!("sandboxes: {error}")),
    }
    Ok(swept)
}

async fn bury(node: &Node, run: &RunRecord, swept: &mut Swept, job: &JobContext) -> Result<()> {
    let epoch = node.catalog.adopt_run(&run.id, run.epoch, &crate::runtime::process::own_identity()).await?;
    let half = match run.kind {
        RunKind::Backup => remove_half_backup(node, run, job).await?,
        RunKind::Restore | RunKind::Verify | RunKind::Recover | RunKind::Drill => Half::Nothing,
    };
    // a committed backup keeps what its chain needs, whatever became of the run
    let fate = if half == Half::Committed { RunFate::Succeeded } else { RunFate::Failed };
    if let Err(error) = settle(node, &run.id, fate, job).await {
        swept.left.push(format!("leases of run {}: {error}", run.id));
    }
    let (state, why) = match run.kind {
        RunKind::Recover => {
            (RunState::Interrupted, "the process that carried it is gone; `lifeboat runs resume` continues")
        }
        RunKind::Drill => {
            (RunState::Aborted, "the process that carried it is gone, and its sandboxes with it; drill again")
        }
        RunKind::Backup => match half {
            Half::Committed => (
                RunState::Failed,
                "the process that carried it is gone; its backup was committed before and was not read back: `lifeboat verify`",
            ),
            Half::Nothing => {
                (RunState::Failed, "the process that carried it is gone; nothing of it is listed as a backup")
            }
            Half::Removed(line) => {
                swept.removed.push(line);
                (RunState::Failed, "the process that carried it is gone; nothing of it is listed as a backup")
            }
        },
        RunKind::Restore | RunKind::Verify => (RunState::Failed, "the process that carried it is gone"),
    };
    let end = crate::catalog::RunEnd { error: Some(why.to_owned()), ..Default::default() };
    node.catalog.move_run(&run.id, epoch, state, end, node.clock.now()).await
}

/// What was found of a dead run's backup.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Half {
    Nothing,
    /// Its manifest is stored: it is a backup.
    Committed,
    Removed(String),
}

/// Deletes the segments of a backup that has no manifest, half-written ones included.
async fn remove_half_backup(node: &Node, run: &RunRecord, job: &JobContext) -> Result<Half> {
    let text = |key: &str| run.detail.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let (Some(prefix), Some(destination)) = (text("prefix"), text("destination")) else {
        return Ok(Half::Nothing);
    };
    let destination = crate::domain::id::DestinationName::parse(destination)
        .map_err(|e| Error::bug("read destination of run").because(e))?;
    let storage = node.storage(&destination)?;
    let below = format!("{prefix}/");
    let objects = storage.list(&below, job).await?;
    if objects.iter().any(|o| crate::pipeline::manifest::is_manifest_key(&o.key)) {
        return Ok(Half::Committed);
    }
    for object in &objects {
        job.run("delete half backup", storage.delete(&object.key, job)).await?;
    }
    let unfinished = job.run("discard unfinished writes", storage.discard_unfinished(&below, job)).await?;
    if objects.is_empty() && unfinished == 0 {
        return Ok(Half::Nothing);
    }
    Ok(Half::Removed(format!(
        "{} stored objects of the unfinished backup {prefix}",
        objects.len() as u64 + unfinished
    )))
}
