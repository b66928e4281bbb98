//! Taking a backup: lock, leases, capture, manifest, catalog, and everything given back on every exit path.
//!
//! Order of commitment: segments, then the manifest (create-only: the commit point), then the catalog, then the engine's
//! own cursors. A failure before the manifest leaves no backup and no objects; after it the backup exists and the
//! catalog can be rebuilt from it.

use std::sync::Arc;

use crate::catalog::{BackupRecord, RunEnd};
use crate::config::VerifyAfterBackup;
use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Captured};
use crate::domain::id::{BackupId, DestinationName, RunId, SystemName, TierName};
use crate::domain::manifest::{
    Artifact, FORMAT_VERSION, Manifest, SegmentEncoding, backup_prefix, segment_key,
};
use crate::domain::run::RunKind;
use crate::domain::{Timestamp, evidence::EvidenceLevel};
use crate::error::{Error, ErrorKind, Result};
use crate::operation::lease::{RunFate, settle};
use crate::operation::{Node, canary, chain, verify};
use crate::pipeline::sink::SegmentSink;
use crate::runtime::lock::SystemLock;
use crate::runtime::{JobContext, process};
use crate::storage::Storage;
use crate::system::{DataSystem, HealthState};
use crate::telemetry::metric::metrics;

/// A backup that was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    pub run: RunId,
    pub system: SystemName,
    pub kind: BackupKind,
    pub tier: Option<TierName>,
    /// `None`: the system's own destination.
    pub destination: Option<DestinationName>,
    pub verify: VerifyAfterBackup,
    pub reason: String,
}

/// Everything of one backup while it is being taken.
struct Taking<'a> {
    node: &'a Node,
    order: &'a Order,
    system: &'a dyn DataSystem,
    storage: &'a Arc<dyn Storage>,
    destination: DestinationName,
    id: BackupId,
    started_at: Timestamp,
    encoding: SegmentEncoding,
}

/// Takes a backup. On an error nothing of it is listed, stored or held; what could not be cleaned up is in the log and
/// is tried again at the next start.
///
/// Unknown after `Cancelled` or `Unreachable` while committing: whether the backup exists; `lifeboat catalog rebuild` tells.
pub async fn take(node: &Node, order: &Order, job: &JobContext) -> Result<BackupRecord> {
    let system = node.system(&order.system)?.clone();
    let config = node.system_config(&order.system)?;
    let destination = order.destination.clone().unwrap_or_else(|| config.destination.clone());
    let storage = node.storage(&destination)?;
    let mut lock = SystemLock::acquire(&node.locks_dir(), &order.system)?;
    lock.name_run(&order.run)?;
    // before the run is opened: an error here must not leave one that never ends
    let encoding = encoding(node)?;
    let started_at = job.now();
    let id = BackupId::new(started_at, node.clock.random());
    let detail = serde_json::json!({
        "backup": id, "kind": order.kind, "tier": order.tier, "reason": order.reason,
        "destination": destination, "prefix": backup_prefix(&order.system, &id),
    });
    node.open_run(&order.run, RunKind::Backup, Some(&order.system), Some(id.to_string()), detail).await?;
    let taking = Taking { node, order, system: &*system, storage, destination, id, started_at, encoding };
    let result = taking.run(job).await;
    count(&order.system, started_at, job.now(), &result);
    let level = result.as_ref().ok().map(|r| r.verified_at.map_or(EvidenceLevel::E0, |_| EvidenceLevel::E1));
    node.close_run(&order.run, result, RunEnd { level, ..RunEnd::default() }).await
}

fn count(system: &SystemName, from: Timestamp, to: Timestamp, result: &Result<BackupRecord>) {
    let label = &[system.as_str()];
    metrics().backup_total.with_label_values(label).inc();
    match result {
        Ok(record) => {
            metrics().backup_success_total.with_label_values(label).inc();
            metrics().backup_duration_seconds.with_label_values(label).observe((to - from).as_seconds_f64());
            let bytes = i64::try_from(record.manifest.stored_bytes()).unwrap_or(i64::MAX);
            metrics().backup_size_bytes.with_label_values(label).set(bytes);
        }
        Err(_) => metrics().backup_failed_total.with_label_values(label).inc(),
    }
}

fn encoding(node: &Node) -> Result<SegmentEncoding> {
    let pipeline = &node.config.pipeline;
    Ok(SegmentEncoding {
        segment_bytes: pipeline.segment_bytes,
        zstd_level: pipeline.compression_level,
        recipients: node.recipients()?.to_strings(),
    })
}

impl Taking<'_> {
    async fn run(&self, job: &JobContext) -> Result<BackupRecord> {
        let signing = self.node.signing_key()?;
        let plan = self.plan(job).await?;
        for lease in &plan.leases {
            self.node.catalog.record_lease(&self.order.run, lease, job.now()).await?;
        }
        let captured = self.capture(&plan, job).await;
        let committed = match captured {
            Ok((captured, artifacts)) => self.commit(&plan, captured, artifacts, &signing, job).await,
            Err(error) => Err(error),
        };
        let fate = if committed.is_ok() { RunFate::Succeeded } else { RunFate::Failed };
        if let Err(error) = settle(self.node, &self.order.run, fate, &self.node.cleanup_job()).await {
            tracing::warn!(run = %self.order.run, %error, "leases are left for the next start");
        }
        let manifest = committed?;
        if let Err(error) = self.system.committed(&manifest, job).await {
            tracing::warn!(backup = %manifest.id, %error, "the engine could not move its cursor; the next backup will be a full");
        }
        if self.order.verify == VerifyAfterBackup::ReadBack {
            job.progress().set_phase("reading back");
            verify::read_back(self.node, &manifest.id, job).await?;
        }
        self.node.catalog.backup(&manifest.id).await
    }

    async fn plan(&self, job: &JobContext) -> Result<BackupPlan> {
        job.progress().set_phase("planning");
        let health = self.system.probe(job).await?;
        if health.state == HealthState::Down {
            return Err(Error::new(ErrorKind::Unreachable, "back up a system that is down")
                .with("system", &self.order.system)
                .why(health.summary)
                .hint("`lifeboat assess` shows what is wrong and what to do"));
        }
        if let Err(error) = canary::write(self.node, &self.order.system, job).await {
            tracing::warn!(system = %self.order.system, %error, "no heartbeat record was written before the backup");
        }
        let parents = match self.order.kind {
            BackupKind::Full => Vec::new(),
            BackupKind::Incremental | BackupKind::Differential => self.parents().await?,
        };
        let request = BackupRequest {
            id: self.id.clone(),
            kind: self.order.kind,
            tier: self.order.tier.clone(),
            chain: parents,
        };
        let plan = self.system.plan_backup(&request, job).await?;
        job.progress().set_total(plan.bytes_estimate.unwrap_or(0));
        Ok(plan)
    }

    /// The newest chain at this backup's own destination: an incremental must never need a second place.
    async fn parents(&self) -> Result<Vec<Manifest>> {
        let newest = chain::newest_point(self.node, &self.order.system).await?.unwrap_or_default();
        let here = newest.iter().all(|r| r.destinations.contains(&self.destination));
        Ok(if here { chain::manifests(&newest) } else { Vec::new() })
    }

    async fn capture(&self, plan: &BackupPlan, job: &JobContext) -> Result<(Captured, Vec<Artifact>)> {
        job.progress().set_phase("capturing");
        let sink = SegmentSink::new(
            &self.order.system,
            &self.id,
            self.storage.clone(),
            &self.encoding,
            job.clone(),
        )?;
        let captured = self.system.backup(plan, &sink, job).await;
        // the pipeline's own failure is the cause when there is one: an engine only sees that its writer failed
        match (captured, sink.finish().await) {
            (Ok(captured), Ok(artifacts)) => Ok((captured, artifacts)),
            (Ok(_), Err(error)) => Err(self.abort(&sink, error).await),
            (Err(error), _) => Err(self.abort(&sink, error).await),
        }
    }

    async fn abort(&self, sink: &SegmentSink, error: Error) -> Error {
        let aborted = sink.abort(&self.node.cleanup_job()).await;
        for (key, error) in aborted.left {
            tracing::warn!(key, %error, "segment of the failed backup is left for the next start");
        }
        error
    }

    async fn delete_objects(&self, artifacts: &[Artifact], job: &JobContext) {
        let suffix = self.encoding.suffix();
        let prefix = backup_prefix(&self.order.system, &self.id);
        for artifact in artifacts {
            for number in 1..=artifact.segments.len() {
                let key = segment_key(&prefix, &artifact.name, number, suffix);
                if let Err(error) = self.storage.delete(&key, job).await {
                    tracing::warn!(key, %error, "segment of the failed backup is left for the next start");
                }
            }
        }
    }

    async fn commit(
        &self,
        plan: &BackupPlan,
        mut captured: Captured,
        artifacts: Vec<Artifact>,
        signing: &crate::pipeline::signing::SigningKey,
        job: &JobContext,
    ) -> Result<Manifest> {
        job.progress().set_phase("committing");
        captured.notes.splice(
            0..0,
            plan.notes.iter().filter(|n| !captured.notes.contains(n)).cloned().collect::<Vec<_>>(),
        );
        let manifest = Manifest {
            format: FORMAT_VERSION,
            id: self.id.clone(),
            system: self.order.system.clone(),
            engine: self.system.kind().to_owned(),
            tier: self.order.tier.clone(),
            kind: plan.kind,
            parent: plan.parent.as_ref().map(|m| m.id.clone()),
            root: plan.parent.as_ref().map_or_else(|| self.id.clone(), |m| m.root.clone()),
            started_at: self.started_at,
            finished_at: job.now(),
            lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: process::host_name(),
            captured,
            segment_encoding: self.encoding.clone(),
            artifacts,
        };
        let stored = crate::pipeline::manifest::commit(&**self.storage, &manifest, signing, job).await;
        if let Err(error) = stored {
            self.delete_objects(&manifest.artifacts, &self.node.cleanup_job()).await;
            return Err(error);
        }
        self.node.catalog.commit_backup(&manifest, &self.destination).await?;
        Ok(manifest)
    }
}
