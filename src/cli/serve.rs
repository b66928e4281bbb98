//! `lifeboat serve`: the daemon. Boots, serves, and shuts down in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use clap::Args;

use super::Context;
use crate::actor::board::StatusBoard;
use crate::actor::node_work::NodeWork;
use crate::actor::root::{Directory, RootActor};
use crate::actor::supervise::RestartPolicy;
use crate::actor::system::{Shutdown, SystemDeps};
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Node;
use crate::runtime::JobContext;
use crate::web;

#[derive(Debug, Args)]
pub struct Serve {}

impl Serve {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open_swept().await?;
        let board = StatusBoard::default();
        let jobs = context.job.fresh_child();
        // jobs get their own token: they are cancelled by the actors, in order, not by the signal itself
        let jobs = JobContext::new(node.clock.clone(), jobs.workers().clone());
        let root = RootActor::new(
            systems(&node, &board, &jobs),
            board.clone(),
            Directory::default(),
            RestartPolicy::default(),
        );
        let root = root.start();
        let faces = web::Faces {
            node: node.clone(),
            board,
            started_at: node.clock.now(),
        };
        let server = web::start(faces)?;
        let handle = server.handle();
        let address = node.config.server.listen;
        context.output.note(&format!(
            "lifeboat serves {} systems, status on http://{address}/",
            node.systems.len()
        ))?;
        tokio::select! {
            () = context.job.token().cancelled() => {}
            ended = server => {
                return Err(Error::new(ErrorKind::Failed, "go on serving").why(format!("the web server ended: {ended:?}")));
            }
        }
        tracing::info!("shutting down");
        if root.send(Shutdown).timeout(Duration::from_secs(2)).await.is_err() {
            tracing::warn!("the root actor does not answer");
        }
        jobs.cancel();
        let drained = tokio::time::timeout(node.config.server.shutdown_grace, idle(&jobs)).await;
        handle.stop(true).await;
        match drained {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "stop every job in time")
                .hint("what they held is given back at the next start; raise server.shutdown_grace")),
        }
    }
}

/// Waits until no job is left.
async fn idle(jobs: &JobContext) {
    // the watcher of signals is inside too, so the gate is never empty: two quiet looks are enough
    while jobs.workers().busy() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn systems(node: &Node, board: &StatusBoard, jobs: &JobContext) -> Vec<SystemDeps> {
    let work = Arc::new(NodeWork { node: node.clone() });
    let deps = |name: &crate::domain::id::SystemName| SystemDeps {
        name: name.clone(),
        work: work.clone(),
        board: board.clone(),
        job: jobs.fresh_child(),
        probe_every: node.config.server.probe_interval,
        canary_every: node.config.canary_interval,
    };
    node.systems.keys().map(deps).collect()
}
