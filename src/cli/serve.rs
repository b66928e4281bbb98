//! `lifeboat serve`: the daemon. Boots, serves, and shuts down in order.

use std::process::ExitCode;

use clap::Args;

use super::Context;
use crate::actor::daemon::Daemon;
use crate::error::{Error, ErrorKind, Result};
use crate::web;

#[derive(Debug, Args)]
pub struct Serve {}

impl Serve {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open_swept().await?;
        let daemon = Daemon::start(&node);
        let faces =
            web::Faces { node: node.clone(), board: daemon.board.clone(), started_at: node.clock.now() };
        let server = web::start(faces)?;
        let handle = server.handle();
        let address = node.config.server.listen;
        context
            .output
            .note(&format!("lifeboat serves {} systems, status on http://{address}/", node.systems.len()))?;
        tokio::select! {
            () = context.job.token().cancelled() => {}
            ended = server => {
                return Err(Error::new(ErrorKind::Failed, "go on serving").why(format!("the web server ended: {ended:?}")));
            }
        }
        tracing::info!("shutting down");
        let stopped = daemon.stop(node.config.server.shutdown_grace).await;
        // last, so that /health tells the truth while jobs stop
        handle.stop(true).await;
        stopped.map(|()| ExitCode::SUCCESS)
    }
}
