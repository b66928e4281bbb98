//! `JobContext`: cancellation, deadline, progress, clock and workers of one piece of long work.
//!
//! Every port method that can take longer than a millisecond takes one, and every external await goes through
//! [`JobContext::run`]. A cancelled call documents what is then unknown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Clock, Progress, SystemClock, Workers};
use crate::domain::Timestamp;
use crate::error::{Error, ErrorKind, Result};

#[derive(Clone, Debug)]
pub struct JobContext {
    cancel: CancellationToken,
    deadline: Option<Instant>,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    workers: Workers,
}

impl JobContext {
    pub fn new(clock: Arc<dyn Clock>, workers: Workers) -> Self {
        Self { cancel: CancellationToken::new(), deadline: None, progress: Arc::default(), clock, workers }
    }

    /// System clock, all cores, no deadline: for tests and one-shot commands.
    pub fn plain() -> Self {
        Self::new(Arc::new(SystemClock), Workers::new())
    }

    /// A part of this job with its own, never later, deadline. Cancelled with the parent.
    #[must_use]
    pub fn child(&self, within: Duration) -> Self {
        let mine = Instant::now() + within;
        let deadline = Some(self.deadline.map_or(mine, |d| d.min(mine)));
        Self { cancel: self.cancel.child_token(), deadline, ..self.clone() }
    }

    /// A job of its own: own progress, no deadline; cancelled with this one.
    #[must_use]
    pub fn fresh_child(&self) -> Self {
        Self { cancel: self.cancel.child_token(), deadline: None, progress: Arc::default(), ..self.clone() }
    }

    /// The same job with progress of its own.
    #[must_use]
    pub fn with_progress(&self, progress: Arc<Progress>) -> Self {
        Self { progress, ..self.clone() }
    }

    /// Awaits `work` unless the job is cancelled or out of time.
    ///
    /// After `Cancelled` or `DeadlineExceeded` it is unknown whether the effect of `work` took place.
    pub async fn run<T, E>(
        &self,
        op: &'static str,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<T>
    where
        E: Into<Error>,
    {
        let deadline = self.deadline;
        let out_of_time = async move {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, op)),
            result = work => result.map_err(Into::into),
            () = out_of_time => Err(Error::new(ErrorKind::DeadlineExceeded, op)),
        }
    }

    /// Fails when the job is cancelled or out of time; for loops in blocking code.
    pub fn check(&self, op: &'static str) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, op));
        }
        match self.deadline {
            Some(at) if Instant::now() >= at => Err(Error::new(ErrorKind::DeadlineExceeded, op)),
            _ => Ok(()),
        }
    }

    /// Sleeps, or fails early with `Cancelled` or `DeadlineExceeded`.
    pub async fn sleep(&self, op: &'static str, time: Duration) -> Result<()> {
        self.run(op, async {
            tokio::time::sleep(time).await;
            Ok::<(), Error>(())
        })
        .await
    }

    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn shared_progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn workers(&self) -> &Workers {
        &self.workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_ends_with_the_deadline_or_the_cancel() {
        let job = JobContext::plain();
        let late = job.child(Duration::from_secs(5));
        let never = std::future::pending::<Result<()>>();
        assert_eq!(late.run("wait", never).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        job.cancel();
        let never = std::future::pending::<Result<()>>();
        assert_eq!(
            job.child(Duration::from_secs(5)).run("wait", never).await.unwrap_err().kind(),
            ErrorKind::Cancelled
        );
    }
}
