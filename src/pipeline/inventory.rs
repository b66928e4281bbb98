//! What is in a storage: the backups whose manifests are authentic, manifests that were refused, and what dead runs left.
//! Reads only.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};

use super::manifest;
use super::signing::TrustedSigners;
use crate::domain::id::{BackupId, SystemName};
use crate::domain::manifest::{MANIFEST_FILE, Manifest, backup_prefix};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::storage::Storage;

/// Manifests read at once.
const LOADS_MAX: usize = 8;

#[derive(Debug, Default)]
pub struct Inventory {
    /// Committed backups, by key: by system, then in order of their ids.
    pub backups: Vec<Manifest>,
    /// Manifests that are not believed. Their segments are nobody's garbage: a person must look.
    pub refused: Vec<Refused>,
    /// Segments without a manifest: a run that died, or one that is still under way.
    pub unfinished: Vec<Unfinished>,
}

#[derive(Debug)]
pub struct Refused {
    pub key: String,
    pub error: Error,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub system: SystemName,
    pub id: BackupId,
    /// Everything of it begins with this and a slash.
    pub prefix: String,
    pub objects: u64,
    pub bytes: u64,
}

/// Lists `storage`, or what it holds of one system. Objects that are not at a place of the format are passed over.
pub async fn inventory(
    storage: &dyn Storage,
    trusted: &TrustedSigners,
    system: Option<&SystemName>,
    job: &JobContext,
) -> Result<Inventory> {
    let under = system.map_or_else(String::new, |s| format!("{s}/"));
    let objects = job.run("list storage", storage.list(&under, job)).await?;
    let mut found: BTreeMap<String, Unfinished> = BTreeMap::new();
    let mut committed = BTreeSet::new();
    for object in objects {
        let Some((system, id, rest)) = place(&object.key) else {
            continue;
        };
        let prefix = backup_prefix(&system, &id);
        if rest == MANIFEST_FILE {
            committed.insert(prefix);
            continue;
        }
        let entry = found.entry(prefix.clone()).or_insert_with(|| Unfinished {
            system,
            id,
            prefix,
            objects: 0,
            bytes: 0,
        });
        entry.objects += 1;
        entry.bytes += object.bytes;
    }
    let mut inventory = Inventory {
        unfinished: found
            .into_iter()
            .filter(|(prefix, _)| !committed.contains(prefix))
            .map(|(_, u)| u)
            .collect(),
        ..Inventory::default()
    };
    let mut loads = stream::iter(committed.iter().map(|prefix| async move {
        let key = format!("{prefix}/{MANIFEST_FILE}");
        let loaded = manifest::load_signed(storage, &key, job).await;
        (key, loaded)
    }))
    .buffered(LOADS_MAX);
    while let Some((key, loaded)) = loads.next().await {
        // a storage that does not answer is an error of the listing; a manifest that is not believed is a finding
        match loaded {
            Ok(bytes) => match manifest::open(&bytes, trusted, &key) {
                Ok(manifest) => inventory.backups.push(manifest),
                Err(error) => inventory.refused.push(Refused { key, error }),
            },
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                inventory.refused.push(Refused { key, error });
            }
            // expired between the listing and the reading
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        job.progress().beat();
    }
    Ok(inventory)
}

/// Splits `{system}/{YYYY-MM-DD}/{id}/{rest}`; `None` for keys at any other place.
fn place(key: &str) -> Option<(SystemName, BackupId, &str)> {
    let mut parts = key.splitn(4, '/');
    let (system, date, id, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let system = SystemName::parse(system).ok()?;
    let id = BackupId::parse(id).ok()?;
    (backup_prefix(&system, &id) == format!("{system}/{date}/{id}")).then_some((system, id, rest))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{DirStorage, Fixture};
    use super::*;
    use crate::storage::Overwrite;

    #[tokio::test]
    async fn committed_refused_and_unfinished_backups_are_told_apart() {
        let (job, fixture) = (JobContext::plain(), Fixture::new());
        let storage = DirStorage::new();
        let good = fixture.backup(&storage, 1, &[("a", b"alpha")], &job).await;
        manifest::commit(&*storage, &good, &fixture.signing, &job).await.unwrap();
        let dead = fixture.backup(&storage, 2, &[("a", b"alpha"), ("b", b"beta")], &job).await;
        let altered = fixture.backup(&storage, 3, &[("a", b"alpha")], &job).await;
        let mut bytes = manifest::sign(&altered, &fixture.signing).unwrap();
        let at = bytes.iter().position(|b| *b == b'5').unwrap();
        bytes[at] = b'6';
        storage.put(&altered.key(), vec![bytes.into()], Overwrite::Forbid, &job).await.unwrap();
        storage.put("orders/log/1/000001.zst.age", vec!["x".into()], Overwrite::Forbid, &job).await.unwrap();

        let seen = inventory(&*storage, &fixture.trusted, None, &job).await.unwrap();
        assert_eq!(seen.backups, [good]);
        assert_eq!(seen.refused.len(), 1);
        assert_eq!(
            (seen.refused[0].key.clone(), seen.refused[0].error.kind()),
            (altered.key(), ErrorKind::Corrupt)
        );
        assert_eq!(seen.unfinished.len(), 1);
        assert_eq!((seen.unfinished[0].prefix.clone(), seen.unfinished[0].objects), (dead.prefix(), 2));
        assert_eq!(seen.unfinished[0].bytes, dead.stored_bytes());

        let other = SystemName::parse("other").unwrap();
        let none = inventory(&*storage, &fixture.trusted, Some(&other), &job).await.unwrap();
        assert!(none.backups.is_empty() && none.unfinished.is_empty());
    }
}
