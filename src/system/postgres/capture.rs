//! Carries a planned physical backup out: base backup if it is a full one, recovery point, WAL up to it, rows at it.

use std::collections::BTreeMap;

use super::base::{self, Base};
use super::lsn::Lsn;
use super::notes;
use super::physical::{Detail, FILES_ALGORITHM, FILES_ITEM, Physical, Server, tablespaces};
use super::point::{self, Point, Quiet};
use super::replication::Replication;
use super::{slot, wal};
use crate::domain::backup::{BackupPlan, Captured, Digest, Fingerprint, Position};
use crate::domain::id::ArtifactName;
use crate::domain::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::BackupSink;

impl Physical<'_> {
    pub async fn backup(
        &self,
        plan: &BackupPlan,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        let server = self.look(job).await?;
        match &plan.parent {
            None => self.full(plan, &server, sink, job).await,
            Some(parent) => self.incremental(plan, parent, &server, sink, job).await,
        }
    }

    async fn full(
        &self,
        plan: &BackupPlan,
        server: &Server,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        if let Some(lease) = plan.leases.first() {
            slot::ensure(&server.control, &lease.name, job).await?;
        }
        let before = tablespaces(&server.control, job).await?;
        job.progress().set_phase("base backup");
        let mut connection = Replication::open(self.connector, job).await?;
        let label = format!("lifeboat {}", plan.id);
        let base = base::take(&mut connection, server.control.major(), &label, sink, job).await?;
        if base.timeline != server.shape.timeline {
            return Err(changed("its timeline changed"));
        }
        let listed = base.tablespaces.iter().map(|t| (t.oid.to_string(), t.location.clone()));
        if before != listed.collect() {
            return Err(changed("a tablespace was created or dropped"));
        }
        if base.timeline > 1 {
            store_history(&mut connection, base.timeline, sink, job).await?;
        }
        drop(connection);
        let mut notes = plan.notes.clone();
        notes.extend(notes::about(self.connector, &server.control, job).await?);
        let files = files_fingerprint(&base);
        let capture =
            Capture { server, wal_from: base.start, not_before: base.end, start: None, tablespaces: before };
        self.finish(capture, files, notes, sink, job).await
    }

    async fn incremental(
        &self,
        plan: &BackupPlan,
        parent: &Manifest,
        server: &Server,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        let detail = Detail::of(parent)?;
        let same = detail.system_identifier == server.identity.system_identifier
            && detail.timeline == server.identity.timeline;
        if !same {
            return Err(changed("it is another server or another timeline than when this was planned"));
        }
        let from: Lsn = parent.captured.position.end.parse()?;
        // what the files of the base looked like still holds: they are where a restore begins
        let files = if parent.captured.fingerprint.unit == "files" {
            parent.captured.fingerprint.clone()
        } else {
            Fingerprint::default()
        };
        let capture = Capture {
            server,
            wal_from: from,
            not_before: from,
            start: Some(from),
            tablespaces: detail.tablespaces,
        };
        self.finish(capture, files, plan.notes.clone(), sink, job).await
    }

    /// Chooses the point and stores the WAL up to it, reading the rows at the same time.
    async fn finish(
        &self,
        capture: Capture<'_>,
        files: Fingerprint,
        mut notes: Vec<String>,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Captured> {
        let control = &capture.server.control;
        job.progress().set_phase("recovery point");
        let (point, quiet) = if self.settings.row_fingerprint {
            point::take_quiet(self.connector, control, job).await?
        } else {
            (point::take(control, job).await?, Quiet::NotFound(String::new()))
        };
        if point.lsn < capture.not_before {
            return Err(changed("its WAL position went backwards"));
        }
        job.progress().set_phase("WAL");
        let shape = capture.server.shape;
        let wal = wal::store(self.connector, sink, shape, capture.wal_from, point.wal_end, job);
        let rows = async {
            match quiet {
                Quiet::Found(snapshots) => snapshots.fingerprint(self.connector, job).await.map(Ok),
                Quiet::NotFound(why) => Ok(Err(why)),
            }
        };
        let ((), rows) = futures_util::future::try_join(wal, rows).await?;
        if capture.tablespaces != tablespaces(control, job).await? {
            return Err(changed("a tablespace was created or dropped"));
        }
        let fingerprint = rows.unwrap_or_else(|why| {
            if !why.is_empty() {
                notes.push(why);
            }
            files
        });
        self.captured(&capture, &point, fingerprint, notes)
    }

    fn captured(
        &self,
        capture: &Capture<'_>,
        point: &Point,
        fingerprint: Fingerprint,
        notes: Vec<String>,
    ) -> Result<Captured> {
        let server = capture.server;
        let detail = Detail {
            system_identifier: server.identity.system_identifier.clone(),
            timeline: server.shape.timeline,
            segment_bytes: server.shape.segment_bytes,
            major: server.control.major(),
            wal_start: capture.wal_from.to_string(),
            wal_end: point.wal_end.to_string(),
            slot: self.leases().first().map(|lease| lease.name.clone()),
            tablespaces: capture.tablespaces.clone(),
        };
        Ok(Captured {
            method: "physical".to_owned(),
            server_version: server.control.version_text().to_owned(),
            position: Position {
                start: capture.start.map(|lsn| lsn.to_string()),
                end: point.lsn.to_string(),
            },
            captured_at: point.at,
            watermark: Some(point.watermark),
            fingerprint,
            detail: serde_json::to_value(detail).map_err(|e| Error::bug("write detail").because(e))?,
            notes,
        })
    }
}

/// What is being captured, once its beginning is known.
struct Capture<'a> {
    server: &'a Server,
    wal_from: Lsn,
    /// A point before this could not be recovered to.
    not_before: Lsn,
    start: Option<Lsn>,
    tablespaces: BTreeMap<String, String>,
}

/// A restore never replays the creation of a tablespace: on the same machine it would write into the original's directory.
fn changed(what: &str) -> Error {
    Error::new(ErrorKind::Conflict, "back up a server that changed meanwhile")
        .why(what)
        .hint("take the backup again; it will be a full one")
}

async fn store_history(
    connection: &mut Replication,
    timeline: u32,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<()> {
    let (name, content) = connection.timeline_history(timeline, job).await?;
    if !super::lsn::is_wal_name(&name) {
        return Err(Error::new(ErrorKind::Corrupt, "read timeline history").with("name", name));
    }
    let name = ArtifactName::parse(wal::segment_artifact(&name))
        .map_err(|e| Error::bug("name artifact").because(e))?;
    let mut artifact = sink.artifact(&name).await?;
    artifact.write(content).await?;
    artifact.finish().await.map(drop)
}

fn files_fingerprint(base: &Base) -> Fingerprint {
    let Some(manifest) = &base.manifest else {
        return Fingerprint::default();
    };
    let digest = Digest { count: manifest.files, hash: manifest.sha256.clone() };
    Fingerprint {
        algorithm: FILES_ALGORITHM.to_owned(),
        unit: "files".to_owned(),
        items: BTreeMap::from([(FILES_ITEM.to_owned(), digest)]),
    }
}
