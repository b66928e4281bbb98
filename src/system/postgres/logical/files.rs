//! A logical backup as plain files: SQL that loads with `psql` alone, laid out as `toc.json` says.

use std::path::Path;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::Logical;
use super::toc::{PartToc, Toc};
use crate::domain::evidence::EvidenceLevel::E1;
use crate::domain::manifest::Manifest;
use crate::domain::restore::{Existing, Phase, RestorePlan, Restored};
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use crate::system::BackupSource;
use crate::system::postgres::rows::{RowHasher, RowSum, database_key};

/// In the directory while it is being filled; holds the run's id.
const UNFINISHED: &str = ".lifeboat-unfinished";

pub fn plan(plan: &mut RestorePlan, path: &Path) -> Result<()> {
    let existing_parent = path.ancestors().find(|p| p.is_dir());
    plan.free_bytes = existing_parent.and_then(super::plan::free_bytes);
    if !plan.request.selection.is_everything() {
        plan.missing.push("a selection of tables: plain files are written all or not at all".to_owned());
    }
    let ours = is_ours(path, plan);
    if !ours && plan.request.existing == Existing::Refuse && !is_empty(path)? {
        plan.missing.push(format!("an empty directory: {} holds something", path.display()));
    }
    plan.actions.push(format!("write SQL files and toc.json to {}", path.display()));
    Ok(())
}

fn is_ours(path: &Path, plan: &RestorePlan) -> bool {
    std::fs::read_to_string(path.join(UNFINISHED)).is_ok_and(|run| run == plan.request.run.as_str())
}

fn is_empty(path: &Path) -> Result<bool> {
    if !path.try_exists().or_io("look at directory", path)? {
        return Ok(true);
    }
    let mut entries = std::fs::read_dir(path).or_io("list directory", path)?;
    Ok(entries.next().is_none())
}

/// Empties the directory only when that was asked for, or a dead attempt of the same run left what is there.
pub async fn restore(
    plan: &RestorePlan,
    manifest: &Manifest,
    path: &Path,
    source: &dyn BackupSource,
    job: &JobContext,
) -> Result<Restored> {
    let started = std::time::Instant::now();
    let replace = plan.request.existing == Existing::Replace || is_ours(path, plan);
    let (dir, run) = (path.to_path_buf(), plan.request.run.clone());
    let prepare = move || {
        if replace && dir.try_exists().or_io("look at directory", &dir)? {
            std::fs::remove_dir_all(&dir).or_io("empty directory", &dir)?;
        }
        std::fs::create_dir_all(&dir).or_io("make directory", &dir)?;
        if !is_empty(&dir)? {
            return Err(Error::new(ErrorKind::Conflict, "write into directory")
                .with("path", dir.display())
                .why("it holds something"));
        }
        let mark = dir.join(UNFINISHED);
        std::fs::write(&mark, run.as_str()).or_io("mark directory", &mark)
    };
    job.workers().block("prepare directory", prepare).await?;
    let mut restored = Restored { point: Some(manifest.id.clone()), ..Restored::default() };
    for artifact in &manifest.artifacts {
        let file = path.join(artifact.name.as_str());
        let mut stream = source.open(&manifest.id, &artifact.name, job).await?;
        let write = async {
            if let Some(parent) = file.parent() {
                tokio::fs::create_dir_all(parent).await.or_io("make directory", parent)?;
            }
            let mut out = tokio::fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)
                .await
                .or_io("make file", &file)?;
            while let Some(chunk) = stream.next().await {
                let chunk = chunk?;
                out.write_all(&chunk).await.or_io("write file", &file)?;
                restored.bytes += chunk.len() as u64;
                job.progress().advance(chunk.len() as u64);
            }
            out.sync_all().await.or_io("write file", &file)
        };
        job.run("write file", write).await?;
        restored.items += 1;
    }
    let mark = path.join(UNFINISHED);
    let unmark = tokio::fs::remove_file(&mark);
    job.run("finish directory", async { unmark.await.or_io("finish directory", &mark) }).await?;
    restored.phases.push(Phase { name: "load".to_owned(), took: started.elapsed() });
    Ok(restored)
}

impl Logical<'_> {
    /// Hashes the rows in the files again and compares with the fingerprint.
    pub(super) async fn verify_files(
        &self,
        manifest: &Manifest,
        path: &Path,
        job: &JobContext,
    ) -> Result<Verification> {
        let mut found = Verification::new("rows");
        let (dir, expected) = (path.to_path_buf(), manifest.captured.fingerprint.clone());
        let Some(toc) = read_toc(&dir) else {
            found.push(Check::failed("table of contents", E1, "readable", "missing or damaged"));
            return Ok(found);
        };
        for database in &toc.databases {
            for table in &database.tables {
                let key = database_key(&database.name, &table.item());
                let (dir, parts, in_job) = (dir.clone(), table.parts.clone(), job.clone());
                let hashing = move || hash_parts(&dir, &parts, &in_job);
                let actual = match job.workers().compute("hash files", hashing).await {
                    Ok(sum) => sum.digest(),
                    Err(error) => {
                        job.check("hash files")?;
                        found.push(Check::failed(key, E1, "readable rows", error.to_string()));
                        continue;
                    }
                };
                // heartbeats are in the files and not in the fingerprint
                let wanted = expected.items.get(&key).cloned().unwrap_or(table.digest());
                if actual != wanted {
                    found.push(Check::failed(
                        key,
                        E1,
                        format!("{} rows, {}", wanted.count, wanted.hash),
                        format!("{} rows, {}", actual.count, actual.hash),
                    ));
                }
                found.compared += actual.count;
            }
        }
        if !found.is_red() && found.compared > 0 {
            let rows = format!("{} rows", found.compared);
            found.push(Check::passed("rows in files", E1, rows));
        } else if found.compared == 0 {
            found.push(Check::inconclusive("rows in files", E1, "nothing to compare"));
        }
        Ok(found)
    }
}

fn read_toc(dir: &Path) -> Option<Toc> {
    let text = std::fs::read_to_string(dir.join(super::toc::TOC)).ok()?;
    serde_json::from_str(&text).ok()
}

fn hash_parts(dir: &Path, parts: &[PartToc], job: &JobContext) -> Result<RowSum> {
    use std::io::{Read, Seek, SeekFrom};
    let mut sum = RowSum::default();
    for part in parts {
        let path = dir.join(&part.file);
        let mut file = std::fs::File::open(&path).or_io("open file", &path)?;
        let around = part.header_bytes + super::data::TRAILER.len() as u64;
        let length = file.metadata().or_io("stat file", &path)?.len();
        if length != part.bytes {
            return Err(Error::new(ErrorKind::Corrupt, "read rows of file")
                .with("path", path.display())
                .with("expected_bytes", part.bytes)
                .with("bytes", length));
        }
        file.seek(SeekFrom::Start(part.header_bytes)).or_io("read file", &path)?;
        let mut rows = file.take(part.bytes.saturating_sub(around));
        let (mut hasher, mut buffer) = (RowHasher::default(), vec![0; 256 * 1024]);
        loop {
            job.check("hash files")?;
            match rows.read(&mut buffer).or_io("read file", &path)? {
                0 => break,
                n => hasher.feed(&buffer[..n]),
            }
        }
        sum = sum.plus(hasher.finish()?);
    }
    Ok(sum)
}
