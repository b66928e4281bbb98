//! Taking a backup: a full holds every item, an incremental the changes since its parent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::FakeSystem;
use super::client::{Call, Content, encode};
use crate::domain::backup::{
    BackupKind, BackupPlan, BackupRequest, Captured, Digest, Fingerprint, Lease, LeaseScope, Position,
};
use crate::domain::canary::CanaryRecord;
use crate::domain::id::ArtifactName;
use crate::error::{Error, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSink, usable_chain};

pub(super) const FULL: &str = "items.json";
pub(super) const CHANGES: &str = "changes.json";

/// What an incremental stores.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Changes {
    pub version: u64,
    pub set: BTreeMap<String, String>,
    pub removed: BTreeSet<String>,
    pub canaries: Vec<CanaryRecord>,
}

/// The items as they were captured, so that the next incremental knows what changed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Detail {
    items: BTreeMap<String, String>,
}

impl FakeSystem {
    pub(super) async fn plan(&self, request: &BackupRequest, job: &JobContext) -> Result<BackupPlan> {
        self.server.pass(Call::PlanBackup, job).await?;
        let parent = usable_chain(request.kind, &request.chain).last().cloned();
        let (kind, notes) = match (request.kind, &parent) {
            (BackupKind::Full, _) | (_, Some(_)) => (request.kind, Vec::new()),
            (BackupKind::Incremental | BackupKind::Differential, None) => {
                (BackupKind::Full, vec!["a full: there is no backup to build on".to_owned()])
            }
        };
        Ok(BackupPlan {
            id: request.id.clone(),
            kind,
            parent,
            // named from the id alone: the caller writes it down before it exists
            leases: vec![Lease {
                system: self.deps.name.clone(),
                kind: "pin".to_owned(),
                name: format!("pin-{}", request.id),
                scope: LeaseScope::Run,
            }],
            bytes_estimate: None,
            notes,
            detail: serde_json::Value::Null,
        })
    }

    pub(super) async fn capture(
        &self,
        plan: &BackupPlan,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        self.server.pass(Call::Backup, job).await?;
        for lease in &plan.leases {
            self.pins().insert(lease.name.clone());
        }
        let captured_at = job.now();
        let content = self.server.read(&crate::domain::place::Place::Production)?;
        let (name, bytes) = match &plan.parent {
            None => (FULL, encode(&content)?),
            Some(parent) => {
                let before: Detail = serde_json::from_value(parent.captured.detail.clone())
                    .map_err(|e| Error::bug("read detail of parent").because(e))?;
                let changes = serde_json::to_vec(&changes(&before.items, &content));
                (CHANGES, changes.map_err(|e| Error::bug("write changes").because(e))?)
            }
        };
        let mut writer = sink.artifact(&artifact(name)?).await?;
        // in two pieces, so that there is a middle
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        writer.write(Bytes::copy_from_slice(head)).await?;
        self.server.pass(Call::BackupHalf, job).await?;
        writer.write(Bytes::copy_from_slice(tail)).await?;
        writer.finish().await?;
        job.progress().advance(bytes.len() as u64);
        job.progress().add_items(content.items.len() as u64);
        let detail = Detail { items: content.items.clone() };
        Ok(Captured {
            method: "memory".to_owned(),
            server_version: super::VERSION.to_owned(),
            position: Position {
                start: plan.parent.as_ref().map(|p| p.captured.position.end.clone()),
                end: content.version.to_string(),
            },
            captured_at,
            watermark: None,
            fingerprint: fingerprint(&content),
            detail: serde_json::to_value(detail).map_err(|e| Error::bug("write detail").because(e))?,
            notes: plan.notes.clone(),
        })
    }
}

fn changes(before: &BTreeMap<String, String>, now: &Content) -> Changes {
    let set = now.items.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let removed = before.keys().filter(|key| !now.items.contains_key(*key));
    Changes {
        version: now.version,
        set: set.map(|(k, v)| (k.clone(), v.clone())).collect(),
        removed: removed.cloned().collect(),
        canaries: now.canaries.clone(),
    }
}

pub(super) fn artifact(name: &str) -> Result<ArtifactName> {
    ArtifactName::parse(name).map_err(|e| Error::bug("name artifact").because(e))
}

/// Canaries are not content: they change with every heartbeat.
pub(super) fn fingerprint(content: &Content) -> Fingerprint {
    let mut hash = Sha256::new();
    for (key, value) in &content.items {
        for text in [key, value] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    let digest = Digest { count: content.items.len() as u64, hash: hex::encode(hash.finalize()) };
    Fingerprint {
        algorithm: "fake sorted sha256 1".to_owned(),
        unit: "items".to_owned(),
        items: BTreeMap::from([("items".to_owned(), digest)]),
    }
}
