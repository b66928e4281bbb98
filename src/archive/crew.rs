//! A queue of small pieces of work that a main thread shares with helpers. The main thread helps itself while it waits,
//! so nothing depends on a helper ever getting a thread: there is no deadlock, only less speed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub struct Crew {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    running: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// A piece of work panicked: what waits for its result would wait for ever.
    Broken,
    Closed,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Crew")
            .field("queued", &state.queue.len())
            .field("running", &state.running)
            .finish_non_exhaustive()
    }
}

/// Lets the helpers go home when the main thread leaves, however it leaves.
#[derive(Debug)]
pub struct Shift<'a>(&'a Crew);

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::Closed;
        self.0.changed.notify_all();
    }
}

/// One piece of work in hand; counts itself off, also when it panics.
struct Running<'a>(&'a Crew);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        if std::thread::panicking() {
            state.phase = Phase::Broken;
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main thread holds this as long as it may submit.
    pub fn shift(&self) -> Shift<'_> {
        Shift(self)
    }

    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        self.lock().queue.push_back(Box::new(work));
        self.changed.notify_one();
    }

    pub fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    /// A helper's life: works until the shift is over.
    pub fn serve(&self) {
        let mut state = self.lock();
        loop {
            if state.phase != Phase::Open {
                return;
            }
            state = match state.queue.pop_front() {
                Some(work) => {
                    state.running += 1;
                    drop(state);
                    self.carry_out(work);
                    self.lock()
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Does one piece of queued work on this thread, if there is any.
    pub fn help(&self) {
        let mut state = self.lock();
        if let Some(work) = state.queue.pop_front() {
            state.running += 1;
            drop(state);
            self.carry_out(work);
        }
    }

    /// Works until `done` holds; `done` must become true by work that was submitted.
    pub fn work_until(&self, done: impl Fn() -> bool) -> Result<()> {
        self.until(|_| done())
    }

    /// Works until everything submitted is done.
    pub fn settle(&self) -> Result<()> {
        self.until(|state| state.queue.is_empty() && state.running == 0)
    }

    fn until(&self, done: impl Fn(&State) -> bool) -> Result<()> {
        let mut state = self.lock();
        loop {
            if state.phase == Phase::Broken {
                return Err(Error::bug("finish work that panicked").with("work", "helper"));
            }
            if done(&state) {
                return Ok(());
            }
            state = match state.queue.pop_front() {
                Some(work) => {
                    state.running += 1;
                    drop(state);
                    self.carry_out(work);
                    self.lock()
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn carry_out(&self, work: Work) {
        let _running = Running(self);
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_main_thread_does_everything_when_no_helper_comes() {
        let crew = Crew::default();
        let done = Arc::new(AtomicU32::new(0));
        let shift = crew.shift();
        for _ in 0..10 {
            let done = done.clone();
            crew.submit(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        crew.settle().unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 10);
        drop(shift);
        crew.serve();
    }

    #[test]
    fn a_panic_of_a_helper_ends_the_wait_with_an_error() {
        let crew = Crew::default();
        std::thread::scope(|scope| {
            let _shift = crew.shift();
            crew.submit(|| panic!("ouch"));
            let helper = scope.spawn(|| crew.serve());
            assert!(helper.join().is_err());
            assert_eq!(crew.work_until(|| false).unwrap_err().kind(), ErrorKind::Bug);
        });
    }
}
