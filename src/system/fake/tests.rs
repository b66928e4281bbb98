//! The fake conforms like a real engine, and its faults strike when asked.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::domain::backup::BackupKind;
use crate::system::conformance::{self, Subject};
use crate::system::testing::MemoryBackups;

struct FakeSubject {
    system: FakeSystem,
    home: tempfile::TempDir,
    places: AtomicU32,
}

fn subject() -> FakeSubject {
    let home = tempfile::tempdir().unwrap();
    let deps = EngineDeps { name: SystemName::parse("fake").unwrap(), state_dir: home.path().join("state") };
    FakeSubject {
        system: FakeSystem::build(Settings::default(), deps).unwrap(),
        home,
        places: AtomicU32::new(0),
    }
}

#[async_trait]
impl Subject for FakeSubject {
    fn system(&self) -> &dyn DataSystem {
        &self.system
    }

    async fn fill(&self, _job: &JobContext) -> Result<()> {
        for n in 0..20 {
            self.system.set(&format!("key-{n}"), Some("value"));
        }
        Ok(())
    }

    async fn change(&self, _job: &JobContext) -> Result<()> {
        let first = self.system.content(&Place::Production)?.items.into_keys().next().unwrap();
        self.system.set(&first, None);
        self.system.set(&format!("{first}-again"), Some("new"));
        Ok(())
    }

    async fn empty_place(&self, _job: &JobContext) -> Result<Place> {
        let number = self.places.fetch_add(1, Ordering::Relaxed);
        let path = self.home.path().join(number.to_string());
        Ok(Place::Directory { path })
    }

    async fn start(&self, place: &Place, _job: &JobContext) -> Result<Place> {
        Ok(place.clone())
    }

    fn damages(&self) -> Vec<&'static str> {
        vec!["changed", "missing", "extra", "emptied", "gone"]
    }

    async fn damage(&self, place: &Place, how: &str, _job: &JobContext) -> Result<()> {
        let mut content = self.system.content(place)?;
        match how {
            "changed" => *content.items.get_mut("key-3").unwrap() = "Value".to_owned(),
            "missing" => drop(content.items.remove("key-3")),
            "extra" => drop(content.items.insert("key-x".to_owned(), String::new())),
            "emptied" => content.items.clear(),
            _ => std::fs::remove_dir_all(client::file(place).unwrap().parent().unwrap()).unwrap(),
        }
        if how != "gone" {
            self.system.replace(place, content)?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_fake_conforms() {
    let subject = subject();
    conformance::check(&subject, &JobContext::plain()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn faults_strike_once_at_the_chosen_call() {
    let (subject, job) = (subject(), JobContext::plain());
    let system = &subject.system;
    system.inject(Call::Probe, 2, Fault::Fail(ErrorKind::Denied));
    system.probe(&job).await.unwrap();
    assert_eq!(system.probe(&job).await.unwrap_err().kind(), ErrorKind::Denied);
    system.probe(&job).await.unwrap();
    system.inject(Call::Probe, 1, Fault::Hang);
    let late = job.child(Duration::from_secs(9));
    assert_eq!(system.probe(&late).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn a_lost_production_is_down_until_it_is_restored() {
    let (subject, job) = (subject(), JobContext::plain());
    let backups = MemoryBackups::default();
    subject.fill(&job).await.unwrap();
    let full = backups.take(&subject.system, BackupKind::Full, &[], &job).await.unwrap();
    assert_eq!(subject.system.held(), [format!("pin-{}", full.id)]);
    subject.system.lose();
    assert_eq!(subject.system.probe(&job).await.unwrap().state, HealthState::Down);
    let request = RestoreRequest {
        run: RunId::new(job.now(), 1),
        chain: vec![full],
        place: Place::Production,
        existing: crate::domain::restore::Existing::Refuse,
        selection: crate::domain::restore::Selection::default(),
    };
    let plan = subject.system.plan_restore(request, &job).await.unwrap();
    subject.system.restore(&plan, &backups, &job).await.unwrap();
    assert_eq!(subject.system.probe(&job).await.unwrap().state, HealthState::Healthy);
}
