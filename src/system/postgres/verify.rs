//! Compares a copy with what its backup recorded: files of a directory, or rows of a server. Findings, not errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::base::MANIFEST_ARTIFACT;
use super::chain::Chain;
use super::listing::Listing;
use super::lsn::Lsn;
use super::physical::{FILES_ITEM, Physical};
use super::target::AUTO_CONF;
use super::{integrity, point, rows};
use crate::domain::backup::{Digest, Fingerprint};
use crate::domain::evidence::EvidenceLevel::{E1, E2, E4};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::{ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::{BackupSource, point as last_of};

/// Files that differ are named up to this many; the rest is counted.
const NAMED_MAX: usize = 100;
const READ_BYTES: usize = 256 * 1024;

impl Physical<'_> {
    pub async fn verify(
        &self,
        chain: &[Manifest],
        place: &Place,
        _source: &dyn BackupSource,
        job: &JobContext,
    ) -> Result<Verification> {
        let recorded = &last_of(chain)?.captured.fingerprint;
        match place {
            Place::Directory { path } => self.verify_files(chain, recorded, path, job).await,
            Place::Production | Place::Server(_) => self.verify_server(chain, recorded, place, job).await,
        }
    }

    async fn verify_files(
        &self,
        chain: &[Manifest],
        recorded: &Fingerprint,
        dir: &Path,
        job: &JobContext,
    ) -> Result<Verification> {
        let whole = Chain::read(chain)?;
        let wal: Vec<(String, u64)> = whole.wal.iter().map(|(n, (_, a))| (n.clone(), a.raw_bytes)).collect();
        let (dir, recorded, checking) = (dir.to_owned(), recorded.clone(), job.clone());
        job.workers()
            .block("verify files", move || {
                let mut found = Verification::new("files");
                check_listing(&dir, &recorded, &mut found, &checking)?;
                for (name, bytes) in &wal {
                    let actual = std::fs::metadata(dir.join("pg_wal").join(name)).map(|m| m.len());
                    if actual.as_ref().ok() != Some(bytes) {
                        found.push(Check::failed(
                            format!("WAL {name}"),
                            E1,
                            format!("{bytes} bytes"),
                            format!("{actual:?}"),
                        ));
                    }
                }
                found.push(Check::passed("WAL files looked for", E1, wal.len().to_string()));
                if recorded.unit == "rows" {
                    let why = "rows can only be compared on a server";
                    found.push(Check::inconclusive("rows", E4, why));
                }
                Ok(found)
            })
            .await
    }

    async fn verify_server(
        &self,
        chain: &[Manifest],
        recorded: &Fingerprint,
        place: &Place,
        job: &JobContext,
    ) -> Result<Verification> {
        let mut found = Verification::new("rows");
        job.progress().set_phase("verify");
        let client = match self.connector.connect(place, &self.settings.database, job).await {
            Ok(client) => client,
            Err(e)
                if matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Denied | ErrorKind::NotFound) =>
            {
                found.push(Check::failed("server answers", E2, "an answer", e.to_string()));
                return Ok(found);
            }
            Err(e) => return Err(e),
        };
        let recovering = client.text(job, "ask for state", "SELECT pg_is_in_recovery()").await?;
        if recovering.as_deref() != Some("f") {
            found.push(Check::failed("recovery has ended", E2, "ended", "still recovering"));
            return Ok(found);
        }
        found.push(Check::passed("server answers", E2, client.version_text()));
        let target: Lsn = last_of(chain)?.captured.position.end.parse()?;
        let reached = client.text(job, "read WAL position", "SELECT pg_current_wal_insert_lsn()").await?;
        let reached: Lsn = reached.unwrap_or_default().parse()?;
        found.push(if reached >= target {
            Check::passed("recovery reached the point", E2, reached.to_string())
        } else {
            Check::failed("recovery reached the point", E2, target.to_string(), reached.to_string())
        });
        let connector = self.connector.for_checks(place, &client, job).await?;
        integrity::check(&connector, place, &mut found, job).await?;
        if recorded.unit != "rows" || recorded.items.is_empty() {
            let why = "this backup carries no fingerprint of rows: set row_fingerprint = true";
            found.push(Check::inconclusive("rows", E4, why));
            return Ok(found);
        }
        if recorded.algorithm != rows::ALGORITHM {
            let why = format!("the fingerprint was taken in another way: {}", recorded.algorithm);
            found.push(Check::inconclusive("rows", E4, why));
            return Ok(found);
        }
        drop(client);
        match point::fingerprint_now(&connector, place, job).await {
            Ok(actual) => compare(&recorded.items, &actual.items, &mut found),
            Err(e) if matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::DeadlineExceeded) => {
                return Err(e);
            }
            Err(e) => found.push(Check::failed("rows can be read", E4, "all tables", e.to_string())),
        }
        Ok(found)
    }
}

/// One check per table. Tables on either side alone are failures too.
fn compare(recorded: &BTreeMap<String, Digest>, actual: &BTreeMap<String, Digest>, found: &mut Verification) {
    for (item, expected) in recorded {
        let Some(got) = actual.get(item) else {
            found.push(Check::failed(item, E4, format!("{} rows", expected.count), "missing"));
            continue;
        };
        found.compared += got.count;
        let count =
            Check::equal(format!("{item}: rows"), E4, expected.count.to_string(), got.count.to_string());
        found.push(count);
        found.push(Check::equal(format!("{item}: content"), E4, &expected.hash, &got.hash));
    }
    for (item, got) in actual {
        if !recorded.contains_key(item) {
            found.push(Check::failed(item, E4, "not there", format!("{} rows", got.count)));
        }
    }
}

/// Files that differ from the listing for good reasons: a restore writes them.
fn is_own(path: &Path) -> bool {
    let own = [AUTO_CONF, MANIFEST_ARTIFACT, "recovery.signal", "standby.signal"];
    own.iter().any(|name| path == Path::new(name)) || path.starts_with("pg_wal")
}

fn check_listing(
    dir: &Path,
    recorded: &Fingerprint,
    found: &mut Verification,
    job: &JobContext,
) -> Result<()> {
    let text = match std::fs::read(dir.join(MANIFEST_ARTIFACT)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            found.push(Check::inconclusive("files", E1, "there is no backup_manifest to compare with"));
            return Ok(());
        }
        Err(e) => return Err(e).or_io("read listing", dir),
    };
    if let Some(expected) = recorded.items.get(FILES_ITEM).filter(|_| recorded.unit == "files") {
        let actual = hex::encode(Sha256::digest(&text));
        found.push(Check::equal("backup_manifest", E4, &expected.hash, actual));
    }
    let listing = match Listing::parse(&text) {
        Ok(listing) => listing,
        Err(e) => {
            found.push(Check::failed("backup_manifest", E1, "readable", e.to_string()));
            return Ok(());
        }
    };
    let mut wrong = 0;
    let mut fail = |found: &mut Verification, check: Check| {
        wrong += 1;
        if wrong <= NAMED_MAX {
            found.push(check);
        }
    };
    for (path, listed) in listing.files.iter().filter(|(path, _)| !is_own(path)) {
        job.check("verify files")?;
        let shown = path.display().to_string();
        match hash_file(&dir.join(path)) {
            Ok((bytes, sha256)) if bytes == listed.bytes && sha256 == listed.sha256 => found.compared += 1,
            Ok((bytes, _)) if bytes != listed.bytes => {
                let sizes = (format!("{} bytes", listed.bytes), format!("{bytes} bytes"));
                fail(found, Check::failed(shown, E1, sizes.0, sizes.1));
            }
            Ok((_, sha256)) => {
                fail(found, Check::failed(shown, E1, hex::encode(listed.sha256), hex::encode(sha256)));
            }
            Err(e) => fail(found, Check::failed(shown, E1, "readable", e.to_string())),
        }
    }
    for path in files_below(dir)? {
        if !listing.files.contains_key(&path) && !is_own(&path) {
            fail(found, Check::failed(path.display().to_string(), E1, "not there", "an extra file"));
        }
    }
    let summary = format!("{} of {} files", found.compared, listing.files.len());
    found.push(if wrong == 0 && found.compared > 0 {
        Check::passed("files", E1, summary)
    } else {
        Check::failed("files", E1, format!("{} files", listing.files.len()), summary)
    });
    Ok(())
}

fn hash_file(path: &Path) -> std::io::Result<(u64, [u8; 32])> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; READ_BYTES], 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((bytes, hasher.finalize().into()));
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Every regular file below `dir`, relative to it. Links are followed where a tablespace may be one.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let here = dir.join(&below);
        for entry in std::fs::read_dir(&here).or_io("list directory", &here)? {
            let entry = entry.or_io("list directory", &here)?;
            let path = below.join(entry.file_name());
            let kind = entry.file_type().or_io("stat", &here)?;
            let tablespace = kind.is_symlink() && below == Path::new("pg_tblspc");
            if kind.is_dir() || tablespace {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    Ok(files)
}
