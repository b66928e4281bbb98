//! Against real database files. Here: the conformance suite, and the house in which the other live tests live.

mod damage;
mod writers;

use std::path::PathBuf;

use rusqlite::Connection;

use super::client::with_suffix;
use super::*;
use crate::domain::backup::BackupKind;
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::id::RunId;
use crate::domain::restore::{Existing, Selection};
use crate::system::HealthState;
use crate::system::conformance::{self, Subject};
use crate::system::testing::MemoryBackups;

struct Home {
    dir: tempfile::TempDir,
    system: SqliteSystem,
    backups: MemoryBackups,
    job: JobContext,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        let settings = format!("path = '{}'\nbusy_timeout = '30s'", dir.path().join("app/app.db").display());
        let deps =
            EngineDeps { name: SystemName::parse("app").unwrap(), state_dir: dir.path().join("state") };
        let system = SqliteSystem::build(toml::from_str(&settings).unwrap(), deps).unwrap();
        Self { dir, system, backups: MemoryBackups::default(), job: JobContext::plain() }
    }

    fn with(sql: &str) -> Self {
        let home = Self::new();
        home.production().execute_batch(sql).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.system.path()
    }

    fn production(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn place(&self, name: &str) -> Place {
        Place::Directory { path: self.dir.path().join(name) }
    }

    fn at(&self, place: &Place) -> PathBuf {
        self.system.path_at(place)
    }

    async fn take(&self, kind: BackupKind, chain: &[Manifest]) -> Result<Manifest> {
        self.backups.take(&self.system, kind, chain, &self.job).await
    }

    async fn full(&self) -> Manifest {
        self.take(BackupKind::Full, &[]).await.unwrap()
    }

    async fn restore(&self, chain: &[Manifest], place: &Place, existing: Existing) -> Result<Restored> {
        let run = RunId::new(self.job.now(), self.job.clock().random());
        self.restore_as(run, chain, place, existing).await
    }

    async fn restore_as(
        &self,
        run: RunId,
        chain: &[Manifest],
        place: &Place,
        existing: Existing,
    ) -> Result<Restored> {
        let request = RestoreRequest {
            run,
            chain: chain.to_vec(),
            place: place.clone(),
            existing,
            selection: Selection::default(),
        };
        let plan = self.system.plan_restore(request, &self.job).await?;
        self.system.restore(&plan, &self.backups, &self.job).await
    }

    async fn verify(&self, chain: &[Manifest], place: &Place) -> Verification {
        self.system.verify(chain, place, &self.backups, &self.job).await.unwrap()
    }

    async fn assert_green(&self, chain: &[Manifest], place: &Place) {
        let found = self.verify(chain, place).await;
        assert!(!found.is_red() && found.compared > 0, "{found:?}");
    }

    fn app_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("app")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const SOME: &str = "PRAGMA user_version = 7; PRAGMA application_id = 99; PRAGMA auto_vacuum = 1;\
    CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL, data BLOB);\
    CREATE TABLE note(item REFERENCES item(id), text);\
    CREATE INDEX by_price ON item(price);\
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)\
    INSERT INTO item SELECT i, 'name-' || i, i / 7.0, zeroblob(i) FROM n;\
    INSERT INTO note SELECT id, 'note' FROM item WHERE id % 2;";

struct SqliteSubject(Home, std::sync::atomic::AtomicU32);

#[async_trait]
impl Subject for SqliteSubject {
    fn system(&self) -> &dyn DataSystem {
        &self.0.system
    }

    async fn fill(&self, _job: &JobContext) -> Result<()> {
        self.0.production().execute_batch(&format!("PRAGMA journal_mode = WAL; {SOME}")).unwrap();
        Ok(())
    }

    async fn change(&self, _job: &JobContext) -> Result<()> {
        let sql = "INSERT INTO item(name) VALUES (hex(randomblob(8))); DELETE FROM note WHERE rowid = (SELECT max(rowid) FROM note);";
        self.0.production().execute_batch(sql).unwrap();
        Ok(())
    }

    async fn empty_place(&self, _job: &JobContext) -> Result<Place> {
        let number = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(self.0.place(&format!("copy-{number}")))
    }

    async fn start(&self, place: &Place, _job: &JobContext) -> Result<Place> {
        Ok(place.clone())
    }

    fn damages(&self) -> Vec<&'static str> {
        vec![
            "UPDATE item SET price = price + 1e-9 WHERE id = 250",
            "UPDATE item SET data = x'00' WHERE id = 2",
            "UPDATE note SET text = CAST(text AS BLOB) WHERE item = 1",
            "DELETE FROM item WHERE id = 250",
            "INSERT INTO item(id, name) VALUES (9999, 'extra')",
            "DELETE FROM note",
            "DROP TABLE note",
            "CREATE TABLE other(x)",
            "DROP INDEX by_price",
            "ALTER TABLE item ADD COLUMN more",
            "PRAGMA user_version = 8",
            "PRAGMA application_id = 1",
            "UPDATE note SET item = 1000000 WHERE item = 1",
            "file: emptied",
            "file: truncated",
            "file: gone",
            "file: no database",
        ]
    }

    async fn damage(&self, place: &Place, how: &str, _job: &JobContext) -> Result<()> {
        let path = self.0.at(place);
        match how {
            "file: emptied" => std::fs::write(&path, "").unwrap(),
            "file: truncated" => {
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
            "file: gone" => std::fs::remove_file(&path).unwrap(),
            "file: no database" => {
                std::fs::write(&path, "this is no database, whatever it is called").unwrap();
            }
            sql => {
                let copy = Connection::open(&path).unwrap();
                copy.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn sqlite_conforms() {
    let subject = SqliteSubject(Home::new(), 0.into());
    conformance::check(&subject, &subject.0.job).await.unwrap();
    let state = subject.0.dir.path().join("state");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0, "captures are removed");
}
