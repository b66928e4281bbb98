//! Backups: what a commit keeps, copies, order.

use super::example::{destination, instant, manifest, system};
use super::{equal, hinted, refused};
use crate::catalog::{BackupQuery, Catalog, Proof};
use crate::domain::backup::BackupState;
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::RunId;
use crate::error::{Error, ErrorKind, Result};

pub(super) async fn a_commit_keeps_what_is_known_better(catalog: &dyn Catalog) -> Result<()> {
    let (manifest, at) = (manifest("orders", 1)?, instant(50)?);
    let (near, far) = (destination("near")?, destination("far")?);
    catalog.commit_backup(&manifest, &near).await?;
    equal(&catalog.backup(&manifest.id).await?.state, &BackupState::Stored, "state of a new backup")?;
    catalog.set_backup_state(&manifest.id, BackupState::Verified, at).await?;
    catalog.commit_backup(&manifest, &near).await?;
    catalog.commit_backup(&manifest, &far).await?;
    let record = catalog.backup(&manifest.id).await?;
    equal(&record.manifest, &manifest, "manifest")?;
    equal(
        &(record.state, record.verified_at),
        &(BackupState::Verified, Some(at)),
        "state after two more commits",
    )?;
    equal(&record.destinations, &vec![far.clone(), near.clone()], "destinations by name")?;

    let proof = |n| {
        Ok::<_, Error>(Proof {
            at: instant(n)?,
            run: RunId::new(instant(n)?, n),
            level: EvidenceLevel::E4,
            verdict: Verdict::Pass,
        })
    };
    catalog.record_proof(&manifest.id, &proof(60)?).await?;
    catalog.record_proof(&manifest.id, &proof(55)?).await?;
    catalog.set_backup_state(&manifest.id, BackupState::Proven, at).await?;
    catalog.set_backup_state(&manifest.id, BackupState::Verified, instant(61)?).await?;
    let record = catalog.backup(&manifest.id).await?;
    equal(&record.proof, &Some(proof(60)?), "the newest proof")?;
    equal(
        &(record.state, record.verified_at),
        &(BackupState::Proven, Some(instant(61)?)),
        "a proven backup after it was read back",
    )?;
    Ok(())
}

pub(super) async fn another_manifest_starts_anew_and_copies_go_one_by_one(
    catalog: &dyn Catalog,
) -> Result<()> {
    let (manifest, at) = (manifest("orders", 1)?, instant(50)?);
    let (near, far) = (destination("near")?, destination("far")?);
    for destination in [&near, &far] {
        catalog.commit_backup(&manifest, destination).await?;
    }
    catalog.set_backup_state(&manifest.id, BackupState::Verified, at).await?;
    let mut other = manifest.clone();
    other.host = "elsewhere".to_owned();
    catalog.commit_backup(&other, &near).await?;
    let record = catalog.backup(&manifest.id).await?;
    equal(
        &(record.state, record.proof, record.verified_at, record.destinations),
        &(BackupState::Stored, None, None, vec![near.clone()]),
        "another manifest under the same id",
    )?;
    catalog.commit_backup(&other, &far).await?;
    catalog.forget_copy(&manifest.id, &near).await?;
    equal(&catalog.backup(&manifest.id).await?.destinations, &vec![far.clone()], "copies left")?;
    catalog.forget_copy(&manifest.id, &far).await?;
    refused(catalog.backup(&manifest.id).await, ErrorKind::NotFound, "a backup without copies")?;
    catalog.forget_copy(&manifest.id, &far).await
}

pub(super) async fn backups_are_listed_newest_first(catalog: &dyn Catalog) -> Result<()> {
    for (of, n) in [("orders", 2), ("cache", 3), ("orders", 1)] {
        catalog.commit_backup(&manifest(of, n)?, &destination("near")?).await?;
    }
    let ids = |query: BackupQuery| async move {
        let records = catalog.backups(&query).await?;
        Ok::<_, Error>(records.into_iter().map(|r| r.manifest.id).collect::<Vec<_>>())
    };
    let id = |of, n| manifest(of, n).map(|m| m.id);
    let every = ids(BackupQuery::default()).await?;
    equal(&every, &vec![id("cache", 3)?, id("orders", 2)?, id("orders", 1)?], "all backups")?;
    let newest = BackupQuery { system: Some(system("orders")?), limit: Some(1) };
    equal(&ids(newest).await?, &vec![id("orders", 2)?], "the newest backup of a system")?;

    let gone = id("cache", 3)?;
    catalog.forget_backup(&gone).await?;
    catalog.forget_backup(&gone).await?;
    let at = instant(9)?;
    let missing = catalog.backup(&gone).await.map(|_| ());
    hinted(&missing, "lifeboat list", "an unknown backup")?;
    refused(missing, ErrorKind::NotFound, "a forgotten backup")?;
    refused(
        catalog.set_backup_state(&gone, BackupState::Failed, at).await,
        ErrorKind::NotFound,
        "the state of a forgotten backup",
    )
}
