//! Rebuilding the catalog from storage alone: which records to add, which copies to forget. Reads no storage.
//!
//! What only the catalog knew stays where it still applies: state, verification and proof of a backup that is still
//! stored as it was. In a new catalog every backup is STORED: nobody has looked at it since.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{BackupQuery, Catalog};
use crate::domain::id::{BackupId, DestinationName};
use crate::domain::manifest::Manifest;
use crate::error::Result;
use crate::runtime::JobContext;

/// What a rebuild changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// Backups that storage holds and the catalog did not know, or knew otherwise.
    pub added: Vec<BackupId>,
    /// Backups that no destination holds any more.
    pub removed: Vec<BackupId>,
    /// Backups that were known as they are stored.
    pub kept: usize,
    /// Copies of kept backups that were not known.
    pub copies_added: usize,
    /// Copies of kept backups that are gone.
    pub copies_removed: usize,
    /// Copies whose manifest says something else than the first one read under the same id. Not in the catalog.
    pub conflicting: Vec<(BackupId, DestinationName)>,
}

type Stored = BTreeMap<BackupId, (Manifest, BTreeSet<DestinationName>)>;

/// Makes the catalog's backups equal to `entries`: every authentic manifest of *every* destination. The caller stops
/// when a destination cannot be listed, because a copy that is not among the entries is forgotten.
///
/// Repeating it after a failure is safe.
pub async fn rebuild(
    catalog: &dyn Catalog,
    entries: Vec<(Manifest, DestinationName)>,
    job: &JobContext,
) -> Result<RebuildReport> {
    let mut report = RebuildReport::default();
    let stored = by_id(entries, &mut report);
    let known = job.run("list backups", catalog.backups(&BackupQuery::default())).await?;
    let mut known: BTreeMap<BackupId, _> = known.into_iter().map(|r| (r.manifest.id.clone(), r)).collect();

    for (id, (manifest, destinations)) in &stored {
        let before = known.remove(id).filter(|record| record.manifest == *manifest);
        let had: BTreeSet<DestinationName> =
            before.iter().flat_map(|record| record.destinations.clone()).collect();
        // new copies first: a record goes with its last copy
        for destination in destinations.difference(&had) {
            job.run("add copy", catalog.commit_backup(manifest, destination)).await?;
        }
        for destination in had.difference(destinations) {
            job.run("forget copy", catalog.forget_copy(id, destination)).await?;
        }
        if before.is_some() {
            report.kept += 1;
            report.copies_added += destinations.difference(&had).count();
            report.copies_removed += had.difference(destinations).count();
        } else {
            report.added.push(id.clone());
        }
    }
    for id in known.into_keys() {
        job.run("forget backup", catalog.forget_backup(&id)).await?;
        report.removed.push(id);
    }
    Ok(report)
}

fn by_id(entries: Vec<(Manifest, DestinationName)>, report: &mut RebuildReport) -> Stored {
    let mut stored = Stored::new();
    for (manifest, destination) in entries {
        let id = manifest.id.clone();
        let (first, destinations) =
            stored.entry(id.clone()).or_insert_with(|| (manifest.clone(), BTreeSet::new()));
        if *first == manifest {
            destinations.insert(destination);
        } else {
            report.conflicting.push((id, destination));
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::conformance::example::{destination, instant, manifest as example_manifest};
    use crate::catalog::sqlite::SqliteCatalog;
    use crate::catalog::{BackupRecord, Proof};
    use crate::domain::backup::BackupState;
    use crate::domain::evidence::{EvidenceLevel, Verdict};
    use crate::domain::id::RunId;
    use crate::runtime::Workers;

    fn entries(records: &[BackupRecord]) -> Vec<(Manifest, DestinationName)> {
        records.iter().flat_map(|r| r.destinations.iter().map(|d| (r.manifest.clone(), d.clone()))).collect()
    }

    async fn filled(home: &std::path::Path) -> SqliteCatalog {
        let catalog = SqliteCatalog::open(home.join("catalog.db"), Workers::new()).unwrap();
        for n in 1..=4 {
            let manifest = example_manifest("orders", n).unwrap();
            catalog.commit_backup(&manifest, &destination("near").unwrap()).await.unwrap();
            if n % 2 == 0 {
                catalog.commit_backup(&manifest, &destination("far").unwrap()).await.unwrap();
            }
        }
        catalog
    }

    #[tokio::test]
    async fn a_lost_catalog_comes_back_from_storage_with_states_that_claim_nothing() {
        let (home, job) = (tempfile::tempdir().unwrap(), JobContext::plain());
        let catalog = filled(home.path()).await;
        let id = example_manifest("orders", 2).unwrap().id;
        catalog.set_backup_state(&id, BackupState::Proven, instant(90).unwrap()).await.unwrap();
        let original = catalog.backups(&BackupQuery::default()).await.unwrap();
        drop(catalog);
        std::fs::remove_file(home.path().join("catalog.db")).unwrap();

        let catalog = SqliteCatalog::open(home.path().join("catalog.db"), Workers::new()).unwrap();
        let mut storage = entries(&original);
        storage.reverse();
        let report = rebuild(&catalog, storage, &job).await.unwrap();
        assert_eq!(report.added.len(), 4);
        let rebuilt = catalog.backups(&BackupQuery::default()).await.unwrap();
        let expected: Vec<_> =
            original.into_iter().map(|r| BackupRecord { state: BackupState::Stored, ..r }).collect();
        assert_eq!(rebuilt, expected);
    }

    #[tokio::test]
    async fn what_is_known_about_stored_backups_stays_and_what_is_gone_is_forgotten() {
        let (home, job) = (tempfile::tempdir().unwrap(), JobContext::plain());
        let catalog = filled(home.path()).await;
        let manifest = |n| example_manifest("orders", n).unwrap();
        let (near, far) = (destination("near").unwrap(), destination("far").unwrap());
        let proof = Proof {
            at: instant(80).unwrap(),
            run: RunId::new(instant(70).unwrap(), 7),
            level: EvidenceLevel::E4,
            verdict: Verdict::Pass,
        };
        catalog.set_backup_state(&manifest(2).id, BackupState::Proven, instant(90).unwrap()).await.unwrap();
        catalog.record_proof(&manifest(2).id, &proof).await.unwrap();

        // 1 gained a copy and lost its first, 2 lost one copy, 3 is gone, 4 is as it was, 5 is new
        let mut altered = manifest(4);
        altered.host = "elsewhere".to_owned();
        let storage = vec![
            (manifest(1), far.clone()),
            (manifest(2), near.clone()),
            (manifest(4), near.clone()),
            (manifest(4), far.clone()),
            (altered, destination("odd").unwrap()),
            (manifest(5), near.clone()),
        ];
        let report = rebuild(&catalog, storage.clone(), &job).await.unwrap();
        assert_eq!(report.added, [manifest(5).id]);
        assert_eq!(report.removed, [manifest(3).id]);
        assert_eq!((report.kept, report.copies_added, report.copies_removed), (3, 1, 2));
        assert_eq!(report.conflicting, [(manifest(4).id, destination("odd").unwrap())]);

        let two = catalog.backup(&manifest(2).id).await.unwrap();
        assert_eq!((two.state, two.proof), (BackupState::Proven, Some(proof)));
        assert_eq!(two.destinations, [near]);
        assert_eq!(catalog.backup(&manifest(1).id).await.unwrap().destinations, [far]);

        let again = rebuild(&catalog, storage, &job).await.unwrap();
        assert_eq!((again.added.len(), again.removed.len(), again.kept), (0, 0, 4));
    }
}
