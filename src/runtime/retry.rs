//! Bounded retries with exponential backoff, for errors that say that trying later can help.

use std::future::Future;
use std::time::Duration;

use super::JobContext;
use crate::error::{Result, Retry};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub attempts_max: u32,
    pub first_wait: Duration,
    pub wait_max: Duration,
}

impl RetryPolicy {
    pub const NETWORK: Self =
        Self { attempts_max: 4, first_wait: Duration::from_millis(250), wait_max: Duration::from_secs(10) };

    /// Wait before attempt `next` (2 is the first retry).
    pub fn wait(&self, next: u32) -> Duration {
        let doublings = next.saturating_sub(2).min(20);
        self.first_wait.saturating_mul(1 << doublings).min(self.wait_max)
    }

    /// Runs `work` until it succeeds, fails for good, or the attempts are used up. Gives the last error.
    pub async fn run<T, F, Fut>(&self, job: &JobContext, op: &'static str, mut work: F) -> Result<T>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut attempt = 1;
        loop {
            match job.run(op, work(attempt)).await {
                Err(error) if error.retry() == Retry::Later && attempt < self.attempts_max => {
                    tracing::debug!(op, attempt, %error, "will be tried again");
                    attempt += 1;
                    job.sleep(op, self.wait(attempt)).await?;
                }
                result => return result,
            }
        }
    }
}
