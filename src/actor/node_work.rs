//! The actors' work on a real node: the operations, with their metrics.

use async_trait::async_trait;

use super::work::{BackupOrder, Work};
use crate::domain::id::SystemName;
use crate::error::Result;
use crate::operation::{Node, backup, canary};
use crate::runtime::JobContext;
use crate::system::Health;

#[derive(Debug)]
pub struct NodeWork {
    pub node: Node,
}

#[async_trait]
impl Work for NodeWork {
    async fn probe(&self, system: &SystemName, job: &JobContext) -> Result<Health> {
        self.node.system(system)?.probe(job).await
    }

    async fn backup(&self, order: BackupOrder, job: &JobContext) -> Result<()> {
        let order = backup::Order {
            run: order.run,
            system: order.system,
            kind: order.kind,
            tier: order.tier,
            destination: None,
            verify: self.node.config.pipeline.verify_after_backup,
            reason: order.reason,
        };
        backup::take(&self.node, &order, job).await.map(drop)
    }

    async fn beat(&self, system: &SystemName, job: &JobContext) -> Result<()> {
        canary::write(&self.node, system, job).await.map(drop)
    }
}
