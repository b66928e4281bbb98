//! Takes a base backup: the server's files as tar streams and its manifest, straight into the sink.
//!
//! Before version 15 every tablespace and the manifest are a COPY of their own; since then one COPY carries typed messages.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::lsn::Lsn;
use super::replication::{AnswerRow, Replication, Streamed};
use crate::domain::id::ArtifactName;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::{ArtifactWriter, BackupSink};

pub const BASE_ARTIFACT: &str = "base.tar";
pub const MANIFEST_ARTIFACT: &str = "backup_manifest";

/// A tablespace other than the built-in ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    pub oid: u32,
    pub location: String,
}

impl Tablespace {
    pub fn artifact(oid: u32) -> String {
        format!("tablespace/{oid}.tar")
    }
}

/// What a finished base backup is.
#[derive(Debug)]
pub struct Base {
    /// WAL is needed from here.
    pub start: Lsn,
    pub timeline: u32,
    /// The files are consistent once WAL is replayed to here; every recovery point lies behind it.
    pub end: Lsn,
    pub tablespaces: Vec<Tablespace>,
    /// `None` before version 13.
    pub manifest: Option<ManifestSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestSummary {
    pub files: u64,
    /// SHA-256 of the manifest's text, lowercase hex.
    pub sha256: String,
}

fn command(label: &str, major: u32) -> String {
    let label = label.replace('\'', "''");
    match major {
        15.. => format!(
            "BASE_BACKUP (LABEL '{label}', PROGRESS true, CHECKPOINT 'fast', WAIT false, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
        ),
        13 | 14 => {
            format!(
                "BASE_BACKUP LABEL '{label}' PROGRESS FAST NOWAIT MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'"
            )
        }
        _ => format!("BASE_BACKUP LABEL '{label}' PROGRESS FAST NOWAIT"),
    }
}

/// Runs the base backup. After an error the connection is of no more use; the server ends its backup mode by itself.
pub async fn take(
    connection: &mut Replication,
    major: u32,
    label: &str,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<Base> {
    connection.send(job, &command(label, major)).await?;
    let mut receiving = Receiving {
        sink,
        job,
        major,
        results: vec![Vec::new()],
        copies: 0,
        open: None,
        counting: None,
        manifest: None,
    };
    loop {
        match connection.next(job).await? {
            Streamed::Row(row) => receiving.row(row),
            Streamed::ResultEnd => receiving.results.push(Vec::new()),
            Streamed::Data(bytes) => receiving.data(bytes).await?,
            Streamed::CopyEnd => receiving.copy_end().await?,
            Streamed::End => return receiving.finish(),
        }
    }
}

struct Receiving<'a> {
    sink: &'a dyn BackupSink,
    job: &'a JobContext,
    major: u32,
    /// Start position, tablespaces, end position.
    results: Vec<Vec<AnswerRow>>,
    copies: usize,
    open: Option<Box<dyn ArtifactWriter>>,
    counting: Option<ManifestCounter>,
    manifest: Option<ManifestSummary>,
}

impl Receiving<'_> {
    fn row(&mut self, row: AnswerRow) {
        if let Some(last) = self.results.last_mut() {
            last.push(row);
        }
    }

    async fn data(&mut self, bytes: Bytes) -> Result<()> {
        if self.major < 15 {
            if self.open.is_none() {
                self.open_copy().await?;
            }
            return self.store(bytes).await;
        }
        match bytes.first() {
            Some(b'd') => self.store(bytes.slice(1..)).await,
            Some(b'n') => {
                let name = bytes[1..].split(|b| *b == 0).next().unwrap_or_default();
                let artifact = archive_artifact(&String::from_utf8_lossy(name))?;
                self.begin(&artifact).await
            }
            Some(b'm') => self.begin(MANIFEST_ARTIFACT).await,
            Some(b'p') => Ok(()),
            _ => Err(malformed("a message of unknown type")),
        }
    }

    /// Before version 15: COPY number n belongs to row n of the tablespaces, the one after the last is the manifest.
    async fn open_copy(&mut self) -> Result<()> {
        let spaces = self.results.get(1).ok_or_else(|| malformed("data before the tablespaces"))?;
        let artifact = match spaces.get(self.copies) {
            Some(row) if row.first().is_none_or(String::is_empty) => BASE_ARTIFACT.to_owned(),
            Some(row) => archive_artifact(&format!("{}.tar", row[0]))?,
            None => MANIFEST_ARTIFACT.to_owned(),
        };
        self.begin(&artifact).await
    }

    async fn begin(&mut self, artifact: &str) -> Result<()> {
        self.close().await?;
        if self.copies == 0 && self.manifest.is_none() {
            self.expect_total();
        }
        if artifact == MANIFEST_ARTIFACT {
            self.counting = Some(ManifestCounter::default());
        }
        let name = ArtifactName::parse(artifact).map_err(|e| Error::bug("name artifact").because(e))?;
        self.open = Some(self.sink.artifact(&name).await?);
        Ok(())
    }

    fn expect_total(&self) {
        let spaces = self.results.get(1).map(Vec::as_slice).unwrap_or_default();
        let kilobytes = |row: &AnswerRow| row.get(2).and_then(|k| k.parse::<u64>().ok()).unwrap_or(0);
        self.job.progress().set_total(spaces.iter().map(kilobytes).sum::<u64>() * 1024);
    }

    async fn store(&mut self, bytes: Bytes) -> Result<()> {
        if let Some(counter) = &mut self.counting {
            counter.feed(&bytes);
        }
        self.job.progress().advance(bytes.len() as u64);
        let open = self.open.as_mut().ok_or_else(|| malformed("data without a name"))?;
        let write = open.write(bytes);
        self.job.run("store base backup", write).await
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.job.run("finish artifact", open.finish()).await?;
            self.copies += 1;
        }
        if let Some(counter) = self.counting.take() {
            self.manifest = Some(counter.finish());
        }
        Ok(())
    }

    async fn copy_end(&mut self) -> Result<()> {
        if self.major < 15 && self.open.is_none() {
            // a tablespace without a single byte still is an archive
            self.open_copy().await?;
        }
        self.close().await
    }

    fn finish(self) -> Result<Base> {
        if self.open.is_some() {
            return Err(malformed("no end of the last archive"));
        }
        let filled: Vec<Vec<AnswerRow>> = self.results.into_iter().filter(|r| !r.is_empty()).collect();
        let [start, spaces, end] = filled.as_slice() else {
            return Err(malformed("an incomplete answer"));
        };
        let cell = |rows: &[AnswerRow], n: usize| rows[0].get(n).cloned().unwrap_or_default();
        let number = |text: String| text.parse::<u32>().map_err(|_| malformed("no timeline"));
        if cell(start, 1) != cell(end, 1) {
            return Err(Error::new(ErrorKind::Conflict, "take base backup")
                .why("the server changed its timeline meanwhile")
                .hint("take the backup again"));
        }
        let mut tablespaces = Vec::new();
        for row in spaces.iter().filter(|row| row.first().is_some_and(|oid| !oid.is_empty())) {
            tablespaces.push(Tablespace {
                oid: number(row[0].clone())?,
                location: row.get(1).cloned().unwrap_or_default(),
            });
        }
        if self.copies < 1 + tablespaces.len() {
            return Err(malformed("fewer archives than tablespaces"));
        }
        if self.manifest.is_none() && self.major >= 13 {
            return Err(malformed("no manifest"));
        }
        Ok(Base {
            start: cell(start, 0).parse()?,
            timeline: number(cell(start, 1))?,
            end: cell(end, 0).parse()?,
            tablespaces,
            manifest: self.manifest,
        })
    }
}

/// `base.tar` stays, `16390.tar` becomes `tablespace/16390.tar`; anything else is refused.
fn archive_artifact(name: &str) -> Result<String> {
    if name == BASE_ARTIFACT {
        return Ok(name.to_owned());
    }
    let oid = name.strip_suffix(".tar").and_then(|oid| oid.parse::<u32>().ok());
    oid.map(Tablespace::artifact).ok_or_else(|| malformed("an archive of unknown name"))
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Failed, "receive base backup").why(format!("the server sent {what}"))
}

/// Counts the files that a manifest names and hashes its text, as it passes.
#[derive(Default)]
struct ManifestCounter {
    hasher: Sha256,
    files: u64,
    line: Vec<u8>,
}

/// What is kept of one line: its beginning says whether it names a file.
const LINE_KEPT_BYTES: usize = 32;

impl ManifestCounter {
    fn feed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        for (n, part) in bytes.split(|b| *b == b'\n').enumerate() {
            if n > 0 {
                self.end_line();
            }
            let room = LINE_KEPT_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
        }
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let start = text.trim_start_matches(['{', ' ']);
        if start.starts_with("\"Path\"") || start.starts_with("\"Encoded-Path\"") {
            self.files += 1;
        }
        self.line.clear();
    }

    fn finish(mut self) -> ManifestSummary {
        self.end_line();
        ManifestSummary { files: self.files, sha256: hex::encode(self.hasher.finalize()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_manifest_are_counted_however_it_is_cut() {
        let text = b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{ \"Path\": \"backup_label\", \"Size\": 3 },\n\
            { \"Encoded-Path\": \"66\", \"Size\": 1 }\n],\n\"WAL-Ranges\": [] }\n";
        for cut in 0..text.len() {
            let mut counter = ManifestCounter::default();
            counter.feed(&text[..cut]);
            counter.feed(&text[cut..]);
            assert_eq!(counter.finish().files, 2, "cut at {cut}");
        }
    }

    #[test]
    fn an_archive_that_names_a_path_is_refused() {
        assert_eq!(archive_artifact("16390.tar").unwrap(), "tablespace/16390.tar");
        assert!(archive_artifact("../etc.tar").is_err());
    }
}
