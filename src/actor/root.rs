//! `RootActor`: starts one supervised actor per system, restarts the dead, abandons the hung, gives up on the hopeless.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;

use super::board::{StatusBoard, Supervision};
use super::supervise::{ChildExited, Exit, Factory, Reaction, RestartPolicy, Slot};
use super::system::{Refused, Shutdown, StartBackup, SystemActor, SystemDeps};
use crate::domain::id::{RunId, SystemName};

const MAILBOX_MAX: usize = 256;

/// Current addresses of the system actors, for those who send commands.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    systems: Arc<Mutex<BTreeMap<SystemName, Addr<SystemActor>>>>,
}

impl Directory {
    fn publish(&self, system: &SystemName, addr: Option<Addr<SystemActor>>) {
        let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        match addr {
            Some(addr) => systems.insert(system.clone(), addr),
            None => systems.remove(system),
        };
    }

    pub fn system(&self, name: &SystemName) -> Option<Addr<SystemActor>> {
        self.systems.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Sends a command; a full mailbox, a dead or an unsupervised actor is a refusal.
    pub async fn start_backup(&self, system: &SystemName, command: StartBackup) -> Result<RunId, Refused> {
        let addr = self.system(system).ok_or(Refused::Unsupervised)?;
        let answer = addr.send(command).timeout(std::time::Duration::from_secs(5)).await;
        answer.unwrap_or(Err(Refused::Unsupervised))
    }
}

#[derive(Debug)]
pub struct RootActor {
    systems: Vec<SystemDeps>,
    board: StatusBoard,
    directory: Directory,
    policy: RestartPolicy,
    slots: BTreeMap<String, (SystemName, Slot)>,
}

impl RootActor {
    pub fn new(
        systems: Vec<SystemDeps>,
        board: StatusBoard,
        directory: Directory,
        policy: RestartPolicy,
    ) -> Self {
        Self { systems, board, directory, policy, slots: BTreeMap::new() }
    }

    fn slot(&self, deps: &SystemDeps) -> Slot {
        let (made_from, directory, name) = (deps.clone(), self.directory.clone(), deps.name.clone());
        let child = Factory::new(
            move |guard| SystemActor::new(guard, made_from.clone()),
            move |addr| directory.publish(&name, addr),
        );
        Slot::new(format!("system/{}", deps.name), self.policy, Box::new(child))
    }

    fn book_death(&mut self, child: &str, generation: u64, exit: Exit, ctx: &mut Context<Self>) {
        let Some((system, slot)) = self.slots.get_mut(child) else {
            return;
        };
        match slot.died(generation) {
            Reaction::Ignore => {}
            Reaction::RestartAfter(wait) => {
                tracing::error!(%system, ?exit, ?wait, "actor is gone, a fresh one will be started");
                self.board.update(system, |s| {
                    s.supervision = Supervision::Restarting;
                    s.job = None;
                });
                let child = child.to_owned();
                ctx.run_later(wait, move |root, ctx| root.start(&child, ctx));
            }
            Reaction::GiveUp => {
                tracing::error!(%system, ?exit, "actor died too often, its system is unsupervised");
                self.board.update(system, |s| {
                    s.supervision = Supervision::Unsupervised;
                    s.job = None;
                });
            }
        }
    }

    fn start(&mut self, child: &str, ctx: &mut Context<Self>) {
        if let Some((_, slot)) = self.slots.get_mut(child) {
            slot.start(ctx.address().recipient());
        }
    }

    fn beat_all(&mut self, ctx: &mut Context<Self>) {
        for (name, (_, slot)) in &self.slots {
            let name = name.clone();
            ctx.spawn(slot.beat().into_actor(self).map(move |(generation, alive), root, ctx| {
                if !alive {
                    root.book_death(&name, generation, Exit::Hung, ctx);
                }
            }));
        }
    }
}

impl Actor for RootActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MAX);
        for deps in std::mem::take(&mut self.systems) {
            let slot = self.slot(&deps);
            let name = slot.name().to_owned();
            self.board.update(&deps.name, |_| {});
            self.slots.insert(name.clone(), (deps.name, slot));
            self.start(&name, ctx);
        }
        ctx.run_interval(self.policy.beat_every, Self::beat_all);
    }
}

impl Handler<ChildExited> for RootActor {
    type Result = ();

    fn handle(&mut self, news: ChildExited, ctx: &mut Self::Context) {
        self.book_death(&news.child, news.generation, news.exit, ctx);
    }
}

impl Handler<Shutdown> for RootActor {
    type Result = ();

    /// Tells every system; the caller waits for the jobs through the workers' gate.
    fn handle(&mut self, message: Shutdown, _: &mut Self::Context) {
        for (system, slot) in self.slots.values_mut() {
            if let Some(addr) = self.directory.system(system)
                && addr.try_send(message).is_err()
            {
                tracing::debug!(%system, "actor cannot be told to shut down, it is stopped");
                slot.stop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::super::system::Sabotage;
    use super::super::work::{BackupOrder, Work};
    use super::*;
    use crate::domain::backup::BackupKind;
    use crate::error::Result;
    use crate::runtime::{JobContext, Workers};
    use crate::system::{Health, HealthState};

    #[derive(Debug)]
    struct Healthy;

    #[async_trait]
    impl Work for Healthy {
        async fn probe(&self, _: &SystemName, _: &JobContext) -> Result<Health> {
            Ok(Health {
                state: HealthState::Healthy,
                version: None,
                summary: String::new(),
                findings: Vec::new(),
            })
        }
        async fn backup(&self, order: BackupOrder, _: &JobContext) -> Result<()> {
            if order.reason == "panic" { panic!("the work panics") } else { Ok(()) }
        }
        async fn beat(&self, _: &SystemName, _: &JobContext) -> Result<()> {
            Ok(())
        }
    }

    struct World {
        board: StatusBoard,
        directory: Directory,
        a: SystemName,
        b: SystemName,
    }

    impl World {
        async fn until(
            &self,
            system: &SystemName,
            what: &str,
            reached: impl Fn(&super::super::board::SystemStatus) -> bool,
        ) {
            for _ in 0..2_000 {
                if self.board.system(system).is_some_and(|s| reached(&s)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("{system} did not become {what}: {:?}", self.board.system(system));
        }

        fn command(reason: &str) -> StartBackup {
            StartBackup { kind: BackupKind::Full, tier: None, reason: reason.to_owned() }
        }
    }

    /// Runs `test` inside an actix system on a multi-thread runtime, as `main` does.
    fn in_world<F: Future<Output = ()>>(deaths_max: usize, test: impl FnOnce(World) -> F) {
        let system = System::with_tokio_rt(|| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
        });
        system.block_on(async {
            let (board, directory) = (StatusBoard::default(), Directory::default());
            let job = JobContext::new(Arc::new(crate::runtime::SystemClock), Workers::new());
            let deps = |name: &str| SystemDeps {
                name: SystemName::parse(name).unwrap(),
                work: Arc::new(Healthy),
                board: board.clone(),
                job: job.clone(),
                probe_every: Duration::from_secs(60),
                canary_every: Duration::from_secs(60),
            };
            let policy = RestartPolicy {
                deaths_max,
                backoff_first: Duration::from_millis(1),
                beat_timeout: Duration::from_millis(100),
                beat_every: Duration::from_millis(50),
                ..RestartPolicy::default()
            };
            let (a, b) = (deps("a"), deps("b"));
            let world = World {
                board: board.clone(),
                directory: directory.clone(),
                a: a.name.clone(),
                b: b.name.clone(),
            };
            let _root = RootActor::new(vec![a, b], board.clone(), directory.clone(), policy).start();
            world.until(&world.a, "supervised", |s| s.health.is_some()).await;
            world.until(&world.b, "supervised", |s| s.health.is_some()).await;
            test(world).await;
        });
    }

    #[test]
    fn an_actor_that_panics_comes_back_fresh_and_takes_commands_again() {
        in_world(5, |w| async move {
            let old = w.directory.system(&w.a).unwrap();
            assert!(old.send(Sabotage::Panic).await.is_err());
            w.until(&w.a, "restarted", |s| s.generation == 2 && s.supervision == Supervision::Supervised)
                .await;
            assert!(w.directory.start_backup(&w.a, World::command("test")).await.is_ok());
            assert_eq!(w.board.system(&w.b).unwrap().generation, 1, "the other system was not touched");
        });
    }

    #[test]
    fn an_actor_that_hangs_is_detected_and_replaced() {
        in_world(5, |w| async move {
            let hung = w.directory.system(&w.a).unwrap();
            assert!(hung.try_send(Sabotage::Hang(Duration::from_secs(3))).is_ok());
            w.until(&w.a, "replaced", |s| s.generation == 2 && s.supervision == Supervision::Supervised)
                .await;
            assert!(w.directory.start_backup(&w.a, World::command("test")).await.is_ok());
        });
    }

    #[test]
    fn an_actor_that_keeps_dying_is_given_up_and_the_others_go_on() {
        in_world(3, |w| async move {
            for generation in 1..=3 {
                w.until(&w.a, "up", |s| {
                    s.generation == generation && s.supervision == Supervision::Supervised
                })
                .await;
                let addr = w.directory.system(&w.a).unwrap();
                assert!(addr.send(Sabotage::Panic).await.is_err());
            }
            w.until(&w.a, "unsupervised", |s| s.supervision == Supervision::Unsupervised).await;
            assert_eq!(
                w.directory.start_backup(&w.a, World::command("test")).await,
                Err(Refused::Unsupervised)
            );
            assert!(w.directory.start_backup(&w.b, World::command("test")).await.is_ok());
        });
    }

    #[test]
    fn a_panic_in_the_work_is_a_failed_job_and_not_a_dead_actor() {
        in_world(5, |w| async move {
            assert!(w.directory.start_backup(&w.a, World::command("panic")).await.is_ok());
            w.until(&w.a, "failed", |s| {
                s.last_error.as_deref().is_some_and(|e| e.contains("the work panics"))
            })
            .await;
            assert_eq!(w.board.system(&w.a).unwrap().generation, 1);
        });
    }
}
