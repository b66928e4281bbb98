//! Compares a copy with what a logical backup captured. Findings are checks, never errors.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::dump::Tools;
use super::snapshot::Snapshot;
use super::{CONNECTIONS_MAX, DatabaseDetail, Detail, Logical, losses};
use crate::domain::backup::{Captured, Digest};
use crate::domain::evidence::EvidenceLevel::{E2, E3, E4};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::Client;
use crate::system::postgres::programs::{self, Wanted};
use crate::system::postgres::rows::{ALGORITHM, Coverage, database_key, digest_database};
use crate::system::{BackupSource, point};

/// First server version with the functions behind `pg_amcheck`'s checks of tables.
const AMCHECK_MAJOR_MIN: u32 = 14;

impl Logical<'_> {
    pub async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        _source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        let manifest = point(chain)?;
        let captured = &manifest.captured;
        if let Place::Directory { path } = place {
            return self.verify_files(manifest, path, job).await;
        }
        let detail = Detail::of(captured)?;
        let mut found = Verification::new("rows");
        if captured.fingerprint.algorithm != ALGORITHM {
            let known = &captured.fingerprint.algorithm;
            found.push(Check::inconclusive(
                "fingerprint",
                E4,
                format!("hashed as {known}, which this version does not know"),
            ));
            return Ok(found);
        }
        let Some(admin) = self.start(&detail, place, &mut found, job).await? else {
            return Ok(found);
        };
        check_roles(&detail, &admin, &mut found, job).await?;
        let databases = check_databases(&detail, &admin, place, &mut found, job).await?;
        for database in databases {
            self.compare(database, &detail, captured, place, &mut found, job).await?;
        }
        if found.compared == 0 {
            found.push(Check::inconclusive("rows", E4, "no rows were compared"));
        }
        if matches!(place, Place::Server(_)) {
            for database in &detail.databases {
                let check = self.structure(&database.name, admin.major(), place, job).await?;
                check.into_iter().for_each(|c| found.push(c));
            }
        }
        Ok(found)
    }

    /// E2: the server answers in one of the databases.
    async fn start(
        &self,
        detail: &Detail,
        place: &Place,
        found: &mut Verification,
        job: &JobContext,
    ) -> Result<Option<Client>> {
        let first = detail.databases.first().map_or("postgres", |d| d.name.as_str());
        let tried = match self.connector.connect(place, first, job).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.connector.connect(place, "template1", job).await
            }
            other => other,
        };
        match tried {
            Ok(client) => {
                found.push(Check::passed("server answers", E2, client.version_text()));
                Ok(Some(client))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::DeadlineExceeded) => {
                Err(error)
            }
            Err(error) => {
                found.push(Check::failed("server answers", E2, "a session", error.to_string()));
                Ok(None)
            }
        }
    }

    /// Every table, sequence and large object of one database, in one snapshot.
    async fn compare(
        &self,
        database: &DatabaseDetail,
        detail: &Detail,
        captured: &Captured,
        place: &Place,
        found: &mut Verification,
        job: &JobContext,
    ) -> Result<()> {
        let name = &database.name;
        job.progress().set_phase(format!("compare {name}"));
        let snapshot = Snapshot::open(self.connector, place, name, job).await?;
        let count = job.workers().cores().clamp(1, CONNECTIONS_MAX);
        let joins = (0..count).map(|_| snapshot.join(self.connector, place, job));
        let clients = try_join_all(joins).await?;
        let prefix = database_key(name, "");
        let expected = captured
            .fingerprint
            .items
            .iter()
            .filter_map(|(key, digest)| key.strip_prefix(&prefix).map(|item| (item.to_owned(), digest)))
            .collect();
        let mut actual = digest_database(&clients, Coverage::Portable, job).await?;
        found.compared += compare_items(name, &expected, &mut actual, found);
        if snapshot.client.major() == detail.major {
            let mut objects = losses::objects(&snapshot.client, job).await?;
            let label = format!("{name} objects");
            let expected = database.objects.iter().map(|(k, d)| (k.clone(), d)).collect();
            compare_items(&label, &expected, &mut objects, found);
        }
        Ok(())
    }

    /// E3: the server's own check of tables and indexes, where it is installed. Only in sandboxes: it adds an extension for a while.
    async fn structure(
        &self,
        database: &str,
        major: u32,
        place: &Place,
        job: &JobContext,
    ) -> Result<Option<Check>> {
        let tools = Tools { settings: self.settings, connector: self.connector, place, major };
        // this program reads some names as connection strings
        let odd = database.contains('=') || database.contains("://");
        let installed = programs::find(self.settings, "pg_amcheck", Wanted::AtLeast(major)).is_ok();
        if major < AMCHECK_MAJOR_MIN || odd || !installed {
            return Ok(None);
        }
        let client = self.connector.connect(place, database, job).await?;
        let query = "SELECT (installed_version IS NOT NULL)::text FROM pg_available_extensions WHERE name = 'amcheck'";
        let Some(had) = client.text(job, "look for amcheck", query).await? else {
            return Ok(None);
        };
        job.progress().set_phase(format!("check structure of {database}"));
        let jobs = job.workers().cores().min(CONNECTIONS_MAX).to_string();
        let run = tools
            .program("pg_amcheck", database)?
            .args(["-w", "--install-missing", "--jobs", &jobs])
            .output(job)
            .await;
        if had != "true" {
            // the copy stays as it was restored
            client.execute_all(job, "remove amcheck again", "DROP EXTENSION IF EXISTS amcheck").await?;
        }
        let name = format!("structure of {database} (pg_amcheck)");
        match run {
            Ok(_) => Ok(Some(Check::passed(name, E3, "sound"))),
            Err(error) if error.kind() == ErrorKind::Failed => {
                // status 2 means that corruption was found, 1 that the check could not be made
                let text = error.to_string();
                Ok(Some(if text.contains("exit status: 2") {
                    Check::failed(name, E3, "sound", text)
                } else {
                    Check::inconclusive(name, E3, text)
                }))
            }
            Err(error) => Err(error),
        }
    }
}

async fn check_roles(
    detail: &Detail,
    admin: &Client,
    found: &mut Verification,
    job: &JobContext,
) -> Result<()> {
    let rows = admin.rows(job, "list roles", "SELECT rolname::text FROM pg_roles", &[]).await?;
    let present: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
    let missing: Vec<&str> =
        detail.roles.iter().filter(|r| !present.contains(r)).map(String::as_str).collect();
    let expected = format!("{} roles", detail.roles.len());
    found.push(if missing.is_empty() {
        Check::passed("roles", E4, expected)
    } else {
        Check::failed("roles", E4, expected, format!("missing: {}", missing.join(", ")))
    });
    Ok(())
}

/// Databases that are there; missing and, in a sandbox, extra ones are findings.
async fn check_databases<'d>(
    detail: &'d Detail,
    admin: &Client,
    place: &Place,
    found: &mut Verification,
    job: &JobContext,
) -> Result<Vec<&'d DatabaseDetail>> {
    let query =
        "SELECT datname::text FROM pg_database WHERE datname NOT IN ('template0', 'template1', 'postgres')";
    let with_default = "SELECT datname::text FROM pg_database";
    let names = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|r| r.get(0)).collect::<Vec<String>>();
    let present = names(admin.rows(job, "list databases", with_default, &[]).await?);
    let own = names(admin.rows(job, "list databases", query, &[]).await?);
    let (there, gone): (Vec<_>, Vec<_>) = detail.databases.iter().partition(|d| present.contains(&d.name));
    for database in gone {
        let name = format!("database {}", database.name);
        found.push(Check::failed(name, E4, "present", "missing"));
    }
    let extra = own.iter().filter(|n| !detail.databases.iter().any(|d| d.name == **n));
    if matches!(place, Place::Server(_)) {
        for name in extra {
            found.push(Check::failed(
                format!("database {name}"),
                E4,
                "absent",
                "present, and not in the backup",
            ));
        }
    }
    Ok(there)
}

/// One check for all that is equal, one for each that is not. Gives how many rows were compared.
fn compare_items(
    label: &str,
    expected: &BTreeMap<String, &Digest>,
    actual: &mut BTreeMap<String, Digest>,
    found: &mut Verification,
) -> u64 {
    let (mut equal, mut compared) = (0, 0);
    let shown = |d: &Digest| format!("{} with hash {}", d.count, d.hash);
    for (item, wanted) in expected {
        let name = format!("{label}: {item}");
        match actual.remove(item) {
            None => found.push(Check::failed(name, E4, shown(wanted), "missing")),
            Some(is) if is == **wanted => {
                equal += 1;
                compared += is.count;
            }
            Some(is) => {
                compared += is.count;
                found.push(Check::failed(name, E4, shown(wanted), shown(&is)));
            }
        }
    }
    for (item, is) in std::mem::take(actual) {
        let name = format!("{label}: {item}");
        found.push(Check::failed(name, E4, "absent", shown(&is)));
    }
    if equal > 0 {
        found.push(Check::passed(label.to_owned(), E4, format!("{equal} items equal")));
    }
    compared
}
