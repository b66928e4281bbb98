//! What every engine must do, as one suite over any [`Subject`]. Used by the tests of the engines.
//!
//! A broken promise is an error of kind `Failed` that names it; other kinds come from the engine itself.

use async_trait::async_trait;

use super::testing::MemoryBackups;
use super::{DataSystem, HealthState};
use crate::domain::backup::{BackupKind, BackupPlan, BackupRequest, Lease, LeaseScope};
use crate::domain::canary::CanaryRecord;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{BackupId, RunId};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestorePlan, RestoreRequest, Selection};
use crate::domain::verification::{Check, Outcome, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// A system with a running production that the suite may fill, change, and lose.
#[async_trait]
pub trait Subject: Send + Sync {
    fn system(&self) -> &dyn DataSystem;
    /// Puts some content into the empty production.
    async fn fill(&self, job: &JobContext) -> Result<()>;
    /// Changes production so that its content differs from every state before.
    async fn change(&self, job: &JobContext) -> Result<()>;
    /// A new, empty place to restore into. A fresh one each time.
    async fn empty_place(&self, job: &JobContext) -> Result<Place>;
    /// Does what must happen between restore and verify: starting a server on restored files.
    async fn start(&self, place: &Place, job: &JobContext) -> Result<Place>;
    /// Names of the ways to damage a restored copy: a changed value, a missing and an extra item, an emptied unit.
    fn damages(&self) -> Vec<&'static str>;
    async fn damage(&self, place: &Place, how: &str, job: &JobContext) -> Result<()>;
}

macro_rules! hold {
    ($test:expr, $($what:tt)*) => {
        if !$test {
            return Err(Error::new(ErrorKind::Failed, "trust engine").why(format!($($what)*)));
        }
    };
}

/// The whole suite. Production is filled and changed by it.
pub async fn check(subject: &dyn Subject, job: &JobContext) -> Result<()> {
    let suite = Suite { subject, system: subject.system(), backups: MemoryBackups::default(), job };
    subject.fill(job).await?;
    suite.probing().await?;
    let full = suite.round_trip().await?;
    suite.planning_changes_nothing(&full).await?;
    suite.refusals(&full).await?;
    suite.repeating(&full).await?;
    suite.damages_go_red(&full).await?;
    suite.chains(full).await?;
    suite.missing_data().await?;
    suite.cancelling().await?;
    suite.leases().await?;
    suite.canaries().await
}

struct Suite<'a> {
    subject: &'a dyn Subject,
    system: &'a dyn DataSystem,
    backups: MemoryBackups,
    job: &'a JobContext,
}

impl Suite<'_> {
    async fn take(&self, kind: BackupKind, chain: &[Manifest]) -> Result<Manifest> {
        self.backups.take(self.system, kind, chain, self.job).await
    }

    async fn plan_backup(&self, kind: BackupKind, chain: &[Manifest]) -> Result<BackupPlan> {
        let request = BackupRequest {
            id: BackupId::new(self.job.now(), self.job.clock().random()),
            kind,
            tier: None,
            chain: chain.to_vec(),
        };
        let plan = self.system.plan_backup(&request, self.job).await?;
        hold!(plan.id == request.id, "a plan is for another backup");
        Ok(plan)
    }

    fn request(&self, chain: &[Manifest], place: &Place, existing: Existing) -> RestoreRequest {
        RestoreRequest {
            run: RunId::new(self.job.now(), self.job.clock().random()),
            chain: chain.to_vec(),
            place: place.clone(),
            existing,
            selection: Selection::default(),
        }
    }

    async fn plan(&self, chain: &[Manifest], place: &Place, existing: Existing) -> Result<RestorePlan> {
        let request = self.request(chain, place, existing);
        self.system.plan_restore(request, self.job).await
    }

    /// Restores into a new place and gives where the copy is.
    async fn restore(&self, chain: &[Manifest]) -> Result<Place> {
        let place = self.subject.empty_place(self.job).await?;
        let plan = self.plan(chain, &place, Existing::Refuse).await?;
        hold!(plan.missing.is_empty(), "a complete chain misses {:?}", plan.missing);
        hold!(!plan.actions.is_empty(), "a plan says nothing of what it will do");
        let restored = self.system.restore(&plan, &self.backups, self.job).await?;
        let point = chain.last().map(|m| m.id.clone());
        hold!(restored.point == point, "restored {:?} instead of {point:?}", restored.point);
        self.subject.start(&place, self.job).await
    }

    async fn verify(&self, chain: &[Manifest], place: &Place) -> Result<Verification> {
        self.system.verify(chain, place, &self.backups, self.job).await
    }

    async fn expect_green(&self, chain: &[Manifest], place: &Place, what: &str) -> Result<()> {
        let found = self.verify(chain, place).await?;
        let passed = |c: &&Check| c.outcome == Outcome::Passed;
        let wrong: Vec<_> = found.checks.iter().filter(|c| !passed(c)).collect();
        hold!(wrong.is_empty(), "{what} does not verify: {wrong:?}");
        hold!(found.compared > 0, "{what} verifies without comparing anything");
        hold!(found.level() >= Some(EvidenceLevel::E4), "{what} reaches only {:?}", found.level());
        Ok(())
    }

    async fn probing(&self) -> Result<()> {
        let health = self.system.probe(self.job).await?;
        hold!(health.state == HealthState::Healthy, "a filled production is {health:?}");
        hold!(health.version.is_some(), "the probe saw no version");
        Ok(())
    }

    async fn round_trip(&self) -> Result<Manifest> {
        let full = self.take(BackupKind::Full, &[]).await?;
        hold!(
            full.kind == BackupKind::Full && full.parent.is_none(),
            "a full is {:?} of {:?}",
            full.kind,
            full.parent
        );
        hold!(!full.artifacts.is_empty(), "a full stores nothing");
        hold!(full.captured.fingerprint.total() > 0, "the fingerprint counts nothing");
        let instant = full.captured.captured_at;
        hold!(
            instant >= full.started_at && instant <= full.finished_at,
            "captured at {instant}, outside of the backup's time"
        );
        let chain = [full];
        let place = self.restore(&chain).await?;
        self.expect_green(&chain, &place, "a restored full").await?;
        let [full] = chain;
        Ok(full)
    }

    async fn planning_changes_nothing(&self, full: &Manifest) -> Result<()> {
        for kind in [BackupKind::Full, BackupKind::Incremental, BackupKind::Differential] {
            let plan = self.plan_backup(kind, std::slice::from_ref(full)).await?;
            let fits = (plan.kind == BackupKind::Full) == plan.parent.is_none();
            hold!(fits, "a {} has the parent {:?}", plan.kind, plan.parent.map(|p| p.id));
        }
        let place = self.subject.empty_place(self.job).await?;
        for _ in 0..2 {
            self.plan(std::slice::from_ref(full), &place, Existing::Refuse).await?;
        }
        let again = self.take(BackupKind::Full, &[]).await?;
        let same = again.captured.fingerprint == full.captured.fingerprint;
        hold!(same, "an unchanged production has another fingerprint");
        Ok(())
    }

    async fn refusals(&self, full: &Manifest) -> Result<()> {
        let chain = std::slice::from_ref(full);
        let place = self.subject.empty_place(self.job).await?;
        hold!(self.plan(&[], &place, Existing::Refuse).await.is_err(), "an empty chain can be planned");
        let mut foreign = full.clone();
        foreign.engine = "another".to_owned();
        let planned = self.plan(&[foreign], &place, Existing::Refuse).await;
        hold!(planned.is_err(), "a backup of another kind can be planned");
        let used = self.restore(chain).await?;
        match self.plan(chain, &used, Existing::Refuse).await {
            Err(error) => {
                hold!(error.kind() == ErrorKind::Conflict, "a used target is refused with {error}");
                hold!(error.advice().is_some(), "the refusal of a used target shows no way out");
            }
            Ok(plan) => hold!(!plan.missing.is_empty(), "a used target is not refused"),
        }
        // allowed, it is replaced
        let plan = self.plan(chain, &used, Existing::Replace).await?;
        self.system.restore(&plan, &self.backups, self.job).await?;
        let used = self.subject.start(&used, self.job).await?;
        self.expect_green(chain, &used, "a replaced copy").await
    }

    /// A run that died after its restore carries it out again.
    async fn repeating(&self, full: &Manifest) -> Result<()> {
        let chain = std::slice::from_ref(full);
        let place = self.subject.empty_place(self.job).await?;
        let request = self.request(chain, &place, Existing::Refuse);
        for _ in 0..2 {
            let plan = self.system.plan_restore(request.clone(), self.job).await?;
            self.system.restore(&plan, &self.backups, self.job).await?;
        }
        let place = self.subject.start(&place, self.job).await?;
        self.expect_green(chain, &place, "a copy restored twice by one run").await
    }

    async fn damages_go_red(&self, full: &Manifest) -> Result<()> {
        let (chain, damages) = (std::slice::from_ref(full), self.subject.damages());
        hold!(damages.len() >= 4, "too few ways of damaging: {damages:?}");
        for how in damages {
            let place = self.restore(chain).await?;
            self.subject.damage(&place, how, self.job).await?;
            let found = self.verify(chain, &place).await?;
            hold!(found.is_red(), "the damage `{how}` is not seen: {:?}", found.checks);
        }
        Ok(())
    }

    async fn chains(&self, full: Manifest) -> Result<()> {
        let mut chain = vec![full];
        let alone = self.take(BackupKind::Incremental, &[]).await?;
        hold!(alone.kind == BackupKind::Full, "an incremental without a parent is {}", alone.kind);
        // unchanged, then changed twice
        for round in 0..3 {
            if round > 0 {
                self.subject.change(self.job).await?;
            }
            let before = chain.clone();
            let next = self.take(BackupKind::Incremental, &chain).await?;
            if next.kind == BackupKind::Full {
                chain.clear();
            } else {
                let parent = before.last().map(|m| m.id.clone());
                hold!(next.parent == parent, "an incremental builds on {:?}", next.parent);
            }
            chain.push(next);
            let place = self.restore(&chain).await?;
            self.expect_green(&chain, &place, &format!("the chain after change {round}")).await?;
            if round > 0 {
                let found = self.verify(&before, &place).await?;
                hold!(found.is_red(), "a later copy passes for an earlier one");
            }
        }
        Ok(())
    }

    /// Artifacts that are gone or cut off never become a green copy.
    async fn missing_data(&self) -> Result<()> {
        let full = self.take(BackupKind::Full, &[]).await?;
        let place = self.subject.empty_place(self.job).await?;
        let plan = self.plan(std::slice::from_ref(&full), &place, Existing::Refuse).await?;
        let restored = self.system.restore(&plan, &MemoryBackups::default(), self.job).await;
        let kind = restored.map_err(|e| e.kind());
        hold!(kind.is_err() && kind != Err(ErrorKind::Bug), "restoring without artifacts gave {kind:?}");
        for artifact in &full.artifacts {
            self.backups.tamper(&full.id, &artifact.name, |mut bytes| {
                bytes.truncate(bytes.len() / 2);
                bytes
            });
        }
        let chain = [full];
        let copy = self.restore(&chain).await;
        let seen = match copy {
            Err(_) => true,
            Ok(place) => self.verify(&chain, &place).await.is_ok_and(|v| v.is_red()),
        };
        hold!(seen, "a restore from halves of artifacts passes");
        Ok(())
    }

    async fn cancelling(&self) -> Result<()> {
        let job = self.job.child(std::time::Duration::from_secs(3600));
        job.cancel();
        let taken = self.backups.take(self.system, BackupKind::Full, &[], &job).await;
        let kind = taken.map(|m| m.id).map_err(|e| e.kind());
        hold!(kind == Err(ErrorKind::Cancelled), "a cancelled backup gave {kind:?}");
        self.take(BackupKind::Full, &[]).await.map(|_| ())
    }

    async fn leases(&self) -> Result<()> {
        let plan = self.plan_backup(BackupKind::Full, &[]).await?;
        let never_acquired = Lease {
            system: self.system.name().clone(),
            kind: plan.leases.first().map_or_else(|| "none".to_owned(), |l| l.kind.clone()),
            name: "lifeboat_never_acquired".to_owned(),
            scope: LeaseScope::Run,
        };
        for lease in plan.leases.iter().chain([&never_acquired]) {
            hold!(lease.system == *self.system.name(), "a lease belongs to {}", lease.system);
            for _ in 0..2 {
                self.system.release(lease, self.job).await?;
            }
        }
        Ok(())
    }

    async fn canaries(&self) -> Result<()> {
        let Some(canary) = self.system.canary() else {
            return Ok(());
        };
        let before = self.take(BackupKind::Full, &[]).await?;
        let mut written = Vec::new();
        for seq in 1..=3 {
            let record = CanaryRecord { seq, utc: self.job.now(), mac: format!("{seq:064x}") };
            canary.write(&record, self.job).await?;
            written.push(record);
        }
        let mut read = canary.read(&Place::Production, self.job).await?;
        read.sort_by_key(|r| r.seq);
        hold!(read == written, "canaries read back as {read:?}");
        let after = self.take(BackupKind::Full, &[]).await?;
        let same = before.captured.fingerprint == after.captured.fingerprint;
        hold!(same, "canaries count as content");
        let chain = [after];
        let place = self.restore(&chain).await?;
        let mut read = canary.read(&place, self.job).await?;
        read.sort_by_key(|r| r.seq);
        hold!(read == written, "a restored copy holds the canaries {read:?}");
        self.expect_green(&chain, &place, "a copy with canaries").await
    }
}
