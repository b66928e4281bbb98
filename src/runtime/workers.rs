//! The only place that starts tasks, blocking work and threads. Owns their bound, their tracking, and that a panic in
//! one becomes an error of kind `Bug`.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};

/// Blocking jobs that wait on I/O rather than burn CPU: tar readers, catalog calls.
const IO_BLOCKING_MAX: usize = 32;

#[derive(Clone)]
pub struct Workers {
    tracker: TaskTracker,
    cpu: Arc<Semaphore>,
    io: Arc<Semaphore>,
    cores: Arc<AtomicUsize>,
    /// The runtime that was current when this was made. Tasks go there even when started from an actor's thread, whose
    /// own runtime must never carry work.
    home: Option<Handle>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("cores", &self.cores)
            .field("inside", &self.tracker.len())
            .finish_non_exhaustive()
    }
}

/// A started task. Dropping it aborts the task; awaiting gives its result, a panic as `Bug`.
#[derive(Debug)]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<Result<T>>,
    detached: bool,
}

impl<T> Task<T> {
    /// Lets the task run on without its result; it stays tracked.
    pub fn detach(mut self) {
        self.detached = true;
    }

    pub async fn join(mut self) -> Result<T> {
        match (&mut self.handle).await {
            Ok(result) => result,
            Err(error) => Err(Error::bug("finish task").with("task", self.name).because(error)),
        }
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.abort();
        }
    }
}

impl Workers {
    /// As many CPU-bound jobs at once as the machine has cores.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self::with_cores(cores)
    }

    pub fn with_cores(cores: usize) -> Self {
        let cores = cores.max(1);
        Self {
            tracker: TaskTracker::new(),
            cpu: Arc::new(Semaphore::new(cores)),
            io: Arc::new(Semaphore::new(IO_BLOCKING_MAX)),
            cores: Arc::new(AtomicUsize::new(cores)),
            home: Handle::try_current().ok(),
        }
    }

    pub fn cores(&self) -> usize {
        self.cores.load(Ordering::Relaxed)
    }

    /// Sets how many CPU-bound jobs may run at once, for every clone. To be called before there is work.
    pub fn set_cores(&self, cores: usize) {
        let cores = cores.max(1);
        let before = self.cores.swap(cores, Ordering::Relaxed);
        if cores > before {
            self.cpu.add_permits(cores - before);
        } else {
            self.cpu.forget_permits(before - cores);
        }
    }

    /// Runs `work` as a tracked task on the runtime's workers.
    pub fn spawn<T, F>(&self, name: &'static str, work: F) -> Task<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let guarded = AssertUnwindSafe(work)
            .catch_unwind()
            .map(move |r| r.unwrap_or_else(|p| Err(panicked(name, &*p))));
        let tracked = self.tracker.track_future(guarded);
        let handle = match &self.home {
            Some(home) => home.spawn(tracked),
            #[expect(
                clippy::disallowed_methods,
                reason = "the one door: tracked, and panics are turned into errors"
            )]
            None => tokio::spawn(tracked),
        };
        Task { name, handle, detached: false }
    }

    /// Runs CPU-bound `work` on a blocking thread, at most one per core at a time.
    pub async fn compute<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(name, &self.cpu, work).await
    }

    /// Runs blocking I/O on a blocking thread. Not cancelled by dropping: it runs to its end.
    pub async fn block<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(name, &self.io, work).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        gate: &Arc<Semaphore>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit =
            gate.clone().acquire_owned().await.map_err(|e| Error::bug("enter workers").because(e))?;
        let token = self.tracker.token();
        let guarded = move || {
            let (_permit, _token) = (permit, token);
            std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|p| Err(panicked(name, &*p)))
        };
        let handle = match &self.home {
            Some(home) => home.spawn_blocking(guarded),
            #[expect(clippy::disallowed_methods, reason = "the one door: bounded by a semaphore and tracked")]
            None => tokio::task::spawn_blocking(guarded),
        };
        handle.await.map_err(|e| Error::bug("finish blocking work").with("work", name).because(e))?
    }

    /// Is CPU-bound or blocking work, or a task that was not detached, under way?
    pub fn busy(&self) -> bool {
        self.cpu.available_permits() < self.cores() || self.io.available_permits() < IO_BLOCKING_MAX
    }

    /// Closes the door and waits until everyone inside has left.
    pub async fn drain(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self::new()
    }
}

fn panicked(name: &'static str, payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::bug("finish work that panicked").with("work", name).why(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn the_number_of_cores_is_one_for_all_clones() {
        let workers = Workers::with_cores(4);
        let clone = workers.clone();
        clone.set_cores(1);
        assert_eq!((workers.cores(), workers.cpu.available_permits()), (1, 1));
        workers.set_cores(3);
        assert_eq!((clone.cores(), clone.cpu.available_permits()), (3, 3));
    }

    #[tokio::test]
    async fn a_panic_in_work_becomes_a_bug() {
        let workers = Workers::with_cores(1);
        let error = workers.spawn::<(), _>("boom", async { panic!("ouch") }).join().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
        let error = workers.compute::<()>("boom", || panic!("ouch")).await.unwrap_err();
        assert!(error.to_string().contains("ouch"), "{error}");
    }
}
