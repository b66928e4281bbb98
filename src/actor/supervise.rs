//! Supervision: a child that dies, panicked or not, is made anew from its factory; one that hangs is abandoned.
//!
//! `actix::Supervisor` does not survive a panic (docs/adr/0002). Here a child holds an [`ExitGuard`] whose `Drop` tells the
//! parent that it is gone and whether it was panicking. Invariants: a fresh value on every start, never an old one; news
//! of an older generation is ignored; after [`RestartPolicy::deaths_max`] deaths within the window nothing is started any
//! more and the slot is given up.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

/// Name of a supervised child: `system/orders`, `scheduler`.
pub type ChildName = String;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Stopped by itself or dropped, without a panic.
    Finished,
    Panicked,
    /// Did not answer a heartbeat in time; its thread is abandoned.
    Hung,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChildExited {
    pub child: ChildName,
    pub generation: u64,
    pub exit: Exit,
}

/// Heartbeat: every supervised actor answers it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Beat;

/// Held by every supervised child; tells the parent that the child is gone, and how.
pub struct ExitGuard {
    to: Recipient<ChildExited>,
    child: ChildName,
    generation: u64,
}

impl fmt::Debug for ExitGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExitGuard({}, generation {})", self.child, self.generation)
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        let exit = if std::thread::panicking() { Exit::Panicked } else { Exit::Finished };
        let news = ChildExited { child: self.child.clone(), generation: self.generation, exit };
        #[expect(
            clippy::disallowed_methods,
            reason = "the news of a death must not be lost to a full mailbox"
        )]
        self.to.do_send(news);
    }
}

/// How often a child may die, and how long to wait before the next start.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    pub deaths_max: usize,
    pub window: Duration,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// Time for a heartbeat to be answered.
    pub beat_timeout: Duration,
    pub beat_every: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            deaths_max: 5,
            window: Duration::from_secs(600),
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            beat_timeout: Duration::from_secs(5),
            beat_every: Duration::from_secs(5),
        }
    }
}

/// What to do after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// News of an older generation.
    Ignore,
    RestartAfter(Duration),
    GiveUp,
}

/// A child that can be started again and again. Erases the actor type.
pub trait Child {
    /// Starts a fresh value on a thread of its own.
    fn start(&mut self, guard: ExitGuard);
    /// Resolves to whether the child answered in time; a child that is not running counts as answering.
    fn beat(&self, within: Duration) -> LocalBoxFuture<'static, bool>;
    /// Forgets the running value. Its thread ends when it can.
    fn abandon(&mut self);
}

/// Makes an actor of type `A` on its own arbiter, and hands its address to `publish`.
pub struct Factory<A: Actor<Context = Context<A>>, M, P> {
    make: M,
    publish: P,
    running: Option<(Addr<A>, Arbiter)>,
}

impl<A: Actor<Context = Context<A>>, M, P> fmt::Debug for Factory<A, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Factory<{}>", std::any::type_name::<A>())
    }
}

impl<A, M, P> Factory<A, M, P>
where
    A: Actor<Context = Context<A>> + Handler<Beat>,
    M: Fn(ExitGuard) -> A + Clone + Send + 'static,
    P: Fn(Option<Addr<A>>),
{
    pub fn new(make: M, publish: P) -> Self {
        Self { make, publish, running: None }
    }
}

impl<A, M, P> Child for Factory<A, M, P>
where
    A: Actor<Context = Context<A>> + Handler<Beat>,
    M: Fn(ExitGuard) -> A + Clone + Send + 'static,
    P: Fn(Option<Addr<A>>),
{
    fn start(&mut self, guard: ExitGuard) {
        let arbiter = Arbiter::new();
        let make = self.make.clone();
        let addr = A::start_in_arbiter(&arbiter.handle(), move |_| make(guard));
        (self.publish)(Some(addr.clone()));
        self.running = Some((addr, arbiter));
    }

    fn beat(&self, within: Duration) -> LocalBoxFuture<'static, bool> {
        match &self.running {
            // a closed mailbox is not a hang: the guard reports the death
            Some((addr, _)) => {
                let answer = addr.send(Beat).timeout(within);
                Box::pin(async move { !matches!(answer.await, Err(MailboxError::Timeout)) })
            }
            None => Box::pin(std::future::ready(true)),
        }
    }

    fn abandon(&mut self) {
        (self.publish)(None);
        if let Some((_, arbiter)) = self.running.take() {
            // false: the arbiter is already gone, which is what was wanted
            let _was_running = arbiter.stop();
        }
    }
}

/// One supervised place: the child, its generation, and its recent deaths.
pub struct Slot {
    name: ChildName,
    child: Box<dyn Child>,
    policy: RestartPolicy,
    generation: u64,
    deaths: VecDeque<Instant>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Slot {
    pub fn new(name: impl Into<ChildName>, policy: RestartPolicy, child: Box<dyn Child>) -> Self {
        Self { name: name.into(), child, policy, generation: 0, deaths: VecDeque::new() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn start(&mut self, parent: Recipient<ChildExited>) {
        self.generation += 1;
        self.child.start(ExitGuard { to: parent, child: self.name.clone(), generation: self.generation });
    }

    /// Resolves to this slot's generation and whether it answered.
    pub fn beat(&self) -> LocalBoxFuture<'static, (u64, bool)> {
        let (generation, answer) = (self.generation, self.child.beat(self.policy.beat_timeout));
        Box::pin(async move { (generation, answer.await) })
    }

    /// Books a death and says what to do. The dead value is forgotten.
    pub fn died(&mut self, generation: u64) -> Reaction {
        if generation != self.generation {
            return Reaction::Ignore;
        }
        self.child.abandon();
        // the guard of an abandoned value may report later: it now belongs to an older generation
        self.generation += 1;
        let now = Instant::now();
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|at| now.duration_since(*at) > self.policy.window) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= self.policy.deaths_max {
            return Reaction::GiveUp;
        }
        let doublings = u32::try_from(self.deaths.len() - 1).unwrap_or(u32::MAX).min(16);
        Reaction::RestartAfter(
            self.policy.backoff_first.saturating_mul(1 << doublings).min(self.policy.backoff_max),
        )
    }

    pub fn stop(&mut self) {
        self.generation += 1;
        self.child.abandon();
    }
}
