//! Restoring a recovery point into a directory, or in place.

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{BackupRecord, RunEnd};
use crate::config::VerifyAfterBackup;
use crate::domain::backup::BackupKind;
use crate::domain::id::{BackupId, RunId, SystemName, TierName};
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestorePlan, RestoreRequest, Restored, Selection};
use crate::domain::run::RunKind;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Node, backup, chain};
use crate::pipeline::source::SegmentSource;
use crate::runtime::JobContext;
use crate::runtime::lock::SystemLock;
use crate::storage::Storage;
use crate::system::HealthState;
use crate::telemetry::metric::metrics;

/// Whether a backup of what will be overwritten is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    BackupFirst,
    /// A person said that it is not wanted.
    Waived,
}

/// A restore that was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    pub run: RunId,
    pub backup: BackupId,
    pub place: Place,
    pub existing: Existing,
    pub safety: Safety,
    pub selection: Selection,
}

/// A planned restore with everything needed to carry it out.
#[derive(Debug)]
pub struct Planned {
    pub plan: RestorePlan,
    pub system: SystemName,
    chain: Vec<BackupRecord>,
}

/// Plans without changing anything.
pub async fn plan(node: &Node, order: &Order, job: &JobContext) -> Result<Planned> {
    let chain = chain::chain_of(node, &order.backup).await?;
    let system = match chain.last() {
        Some(point) => point.manifest.system.clone(),
        None => return Err(Error::bug("plan the restore of an empty chain")),
    };
    let request = RestoreRequest {
        run: order.run.clone(),
        chain: chain::manifests(&chain),
        place: order.place.clone(),
        existing: order.existing,
        selection: order.selection.clone(),
    };
    let mut plan = job.run("plan restore", node.system(&system)?.plan_restore(request, job)).await?;
    plan.missing.extend(missing_keys(node, &chain));
    Ok(Planned { plan, system, chain })
}

/// The secret keys a chain needs and this machine does not have.
pub(super) fn missing_keys(node: &Node, chain: &[BackupRecord]) -> Option<String> {
    let needs: Vec<&Vec<String>> = chain.iter().map(|r| &r.manifest.segment_encoding.recipients).collect();
    if needs.iter().all(|r| r.is_empty()) {
        return None;
    }
    match node.identities() {
        Ok(keys) if needs.iter().all(|recipients| keys.open_any_of(recipients)) => None,
        Ok(_) => Some(
            "none of the secret keys here opens the backup: add the right one to encryption.identity_files"
                .to_owned(),
        ),
        Err(error) => Some(format!("a secret key: {error}")),
    }
}

/// The verified bytes of a chain, each backup from a destination that holds it.
pub fn source(node: &Node, chain: &[BackupRecord], job: &JobContext) -> Result<SegmentSource> {
    let mut stored: Vec<(crate::domain::manifest::Manifest, Arc<dyn Storage>)> = Vec::new();
    for record in chain {
        let destination =
            record.destinations.iter().find(|d| node.storages.contains_key(*d)).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "find a configured destination that holds the backup")
                    .with("backup", &record.manifest.id)
                    .hint("add the destination to the config; `lifeboat show` names it")
            })?;
        stored.push((record.manifest.clone(), node.storage(destination)?.clone()));
    }
    let encrypted = chain.iter().any(|r| !r.manifest.segment_encoding.recipients.is_empty());
    let identities =
        if encrypted { node.identities()? } else { crate::pipeline::keys::Identities::default() };
    Ok(SegmentSource::new(stored, Arc::new(identities), job))
}

/// Carries an order out as a run of its own.
pub async fn restore(node: &Node, order: &Order, job: &JobContext) -> Result<Restored> {
    let planned = plan(node, order, job).await?;
    let mut lock = SystemLock::acquire(&node.locks_dir(), &planned.system)?;
    lock.name_run(&order.run)?;
    let detail = serde_json::json!({ "place": order.place, "backup": order.backup });
    let subject = Some(order.backup.to_string());
    node.open_run(&order.run, RunKind::Restore, Some(&planned.system), subject, detail).await?;
    let result = apply(node, order, planned, lock, job).await;
    node.close_run(&order.run, result, RunEnd::default()).await
}

async fn apply(
    node: &Node,
    order: &Order,
    planned: Planned,
    lock: SystemLock,
    job: &JobContext,
) -> Result<Restored> {
    possible(&planned.plan)?;
    drop(lock);
    if order.place == Place::Production && order.safety == Safety::BackupFirst {
        safety_backup(node, &planned.system, job).await?;
    }
    let mut lock = SystemLock::acquire(&node.locks_dir(), &planned.system)?;
    lock.name_run(&order.run)?;
    execute(node, &planned, job).await
}

pub(super) async fn execute(node: &Node, planned: &Planned, job: &JobContext) -> Result<Restored> {
    job.progress().set_phase("restoring");
    job.progress().set_total(planned.plan.bytes);
    let source = source(node, &planned.chain, job)?;
    let label = &[planned.system.as_str()];
    metrics().restore_total.with_label_values(label).inc();
    let restored = node.system(&planned.system)?.restore(&planned.plan, &source, job).await?;
    metrics().restore_success_total.with_label_values(label).inc();
    Ok(restored)
}

pub(super) fn possible(plan: &RestorePlan) -> Result<()> {
    if plan.missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "restore now")
        .why(plan.missing.join("; "))
        .hint("see what is missing with `lifeboat restore --dry-run`"))
}

/// Backs up what is about to be overwritten, where it still answers. A system that is down has nothing to ask.
pub(super) async fn safety_backup(
    node: &Node,
    system: &SystemName,
    job: &JobContext,
) -> Result<Option<BackupId>> {
    let health = node.system(system)?.probe(job).await?;
    if health.state != HealthState::Healthy {
        tracing::info!(%system, summary = health.summary, "no safety backup: the system does not answer as it should");
        return Ok(None);
    }
    let order = backup::Order {
        run: node.new_run_id(),
        system: system.clone(),
        kind: BackupKind::Full,
        tier: Some(
            TierName::parse(chain::SAFETY_TIER).map_err(|e| Error::bug("name the safety tier").because(e))?,
        ),
        destination: None,
        verify: VerifyAfterBackup::ReadBack,
        reason: "before overwriting it".to_owned(),
    };
    let taken = backup::take(node, &order, &job.fresh_child()).await.map_err(|e| {
        e.during("take a safety backup of what would be overwritten")
            .hint("waive it with --no-safety-backup if what is there may be lost")
    })?;
    Ok(Some(taken.manifest.id))
}

/// Where a copy goes when a person names a directory.
pub fn directory(path: PathBuf) -> Place {
    Place::Directory { path }
}
