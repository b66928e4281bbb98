//! The running tree of actors, for those who start and stop it without knowing actix.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};

use super::board::StatusBoard;
use super::node_work::NodeWork;
use super::root::{Directory, RootActor};
use super::supervise::RestartPolicy;
use super::system::{Shutdown, SystemDeps};
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;
use crate::runtime::JobContext;

const ROOT_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Daemon {
    root: Addr<RootActor>,
    /// Parent of every job; cancelled by [`Daemon::stop`] and by nothing else.
    jobs: JobContext,
    pub board: StatusBoard,
    pub directory: Directory,
}

impl Daemon {
    /// Starts one supervised actor per system. Must be called inside the actix system of `main`.
    pub fn start(node: &Node) -> Self {
        let (board, directory) = (StatusBoard::default(), Directory::default());
        let jobs = node.job();
        let work = Arc::new(NodeWork { node: node.clone() });
        let deps = |name: &SystemName| SystemDeps {
            name: name.clone(),
            work: work.clone(),
            board: board.clone(),
            job: jobs.fresh_child(),
            probe_every: node.config.server.probe_interval,
            canary_every: node.config.canary_interval,
        };
        let systems = node.systems.keys().map(deps).collect();
        let root =
            RootActor::new(systems, board.clone(), directory.clone(), RestartPolicy::default()).start();
        Self { root, jobs, board, directory }
    }

    /// Refuses new commands, cancels what runs and waits for it. `DeadlineExceeded` when something is still running
    /// after `grace`; what it holds is given back at the next start.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        if self.root.send(Shutdown).timeout(ROOT_ANSWERS_WITHIN).await.is_err() {
            tracing::warn!("the root actor does not answer");
        }
        self.jobs.cancel();
        let idle = async {
            while self.jobs.workers().busy() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(grace, idle).await.map_err(|_| {
            Error::new(ErrorKind::DeadlineExceeded, "stop every job in time")
                .hint("what they held is given back at the next start; raise server.shutdown_grace")
        })
    }
}
