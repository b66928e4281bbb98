//! `JobActor`: one running job of a system. Owns its token and watches its progress; never restarted.
//!
//! The work itself is a task on the workers. A panic in it arrives as an error of kind `Bug`. A job whose progress does
//! not beat for [`STALL_AFTER`] is reported as stalled, once; it is not killed, because a slow server is not a dead one.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::work::{BackupOrder, Work};
use crate::error::Result;
use crate::runtime::JobContext;

pub const STALL_AFTER: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The job ended, well or not.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct JobFinished {
    pub order: BackupOrder,
    pub result: Result<()>,
}

/// The job has not moved for a while.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct JobStalled {
    pub order: BackupOrder,
}

/// Stops the job; the answer comes as [`JobFinished`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct CancelJob;

#[derive(Debug)]
pub struct JobActor {
    pub order: BackupOrder,
    pub work: Arc<dyn Work>,
    pub job: JobContext,
    pub finished: Recipient<JobFinished>,
    pub stalled: Recipient<JobStalled>,
    beats_seen: u64,
    silent: Duration,
}

impl JobActor {
    pub fn new(
        order: BackupOrder,
        work: Arc<dyn Work>,
        job: JobContext,
        finished: Recipient<JobFinished>,
        stalled: Recipient<JobStalled>,
    ) -> Self {
        Self { order, work, job, finished, stalled, beats_seen: 0, silent: Duration::ZERO }
    }

    fn look(&mut self) {
        let beats = self.job.progress().beats();
        if beats != self.beats_seen {
            self.beats_seen = beats;
            self.silent = Duration::ZERO;
            return;
        }
        self.silent += LOOK_EVERY;
        if self.silent == STALL_AFTER
            && self.stalled.try_send(JobStalled { order: self.order.clone() }).is_err()
        {
            tracing::debug!(run = %self.order.run, "owner of the stalled job is gone");
        }
    }
}

impl Actor for JobActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (work, job, order) = (self.work.clone(), self.job.clone(), self.order.clone());
        let task = self.job.workers().spawn("backup", async move { work.backup(order, &job).await });
        ctx.spawn(task.join().into_actor(self).map(|result, actor, ctx| {
            let news = JobFinished { order: actor.order.clone(), result };
            if let Err(error) = actor.finished.try_send(news) {
                tracing::warn!(run = %actor.order.run, %error, "nobody took the end of the job");
            }
            ctx.stop();
        }));
        ctx.run_interval(LOOK_EVERY, |actor, _| actor.look());
    }

    /// A job whose owner died is cancelled: its leases are released by the work itself.
    fn stopped(&mut self, _: &mut Self::Context) {
        self.job.cancel();
    }
}

impl Handler<CancelJob> for JobActor {
    type Result = ();

    fn handle(&mut self, _: CancelJob, _: &mut Self::Context) {
        self.job.cancel();
    }
}
