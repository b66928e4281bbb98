//! Facts for planning: the configured systems, and the point that each would go to.

use std::collections::BTreeSet;

use super::NodeHost;
use crate::config::{Config, SystemConfig};
use crate::domain::Timestamp;
use crate::domain::id::SystemName;
use crate::domain::place::Place;
use crate::domain::restore::Existing;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{chain, forecast, restore};
use crate::runbook::fact::{Point, PointFact, ServiceAction, SystemFact};
use crate::runbook::host::{Act, RestoreAct};
use crate::runbook::model::Mode;
use crate::runtime::JobContext;
use crate::system::HealthState;

/// The configured systems, as runbooks and scenarios see them.
pub fn systems(config: &Config) -> Vec<SystemFact> {
    let fact = |s: &SystemConfig| {
        let configured = [
            (ServiceAction::Start, &s.service.start),
            (ServiceAction::Stop, &s.service.stop),
            (ServiceAction::Status, &s.service.status),
        ];
        let service_actions: BTreeSet<_> =
            configured.into_iter().filter(|(_, argv)| !argv.is_empty()).map(|(action, _)| action).collect();
        SystemFact {
            name: s.name.clone(),
            kind: s.kind.clone(),
            role: s.role,
            objectives: s.objectives,
            service_actions,
            checks: s.checks.iter().map(|c| c.name.clone()).collect(),
        }
    };
    config.systems.values().map(fact).collect()
}

impl NodeHost {
    pub(super) async fn find_point(
        &self,
        system: &SystemName,
        not_after: Option<Timestamp>,
        job: &JobContext,
    ) -> Result<PointFact> {
        let Some(chain) = chain::newest_point_until(&self.node, system, not_after).await? else {
            let missing = vec![format!("there is no usable backup of {system}: lifeboat backup {system}")];
            return Ok(PointFact { missing, ..PointFact::default() });
        };
        let Some(record) = chain.last() else {
            return Err(Error::bug("resolve an empty chain"));
        };
        let raw_bytes = chain.iter().map(|r| r.manifest.raw_bytes()).sum();
        let mut fact = PointFact {
            point: Some(Point {
                backup: record.manifest.id.clone(),
                chain: chain.iter().map(|r| r.manifest.id.clone()).collect(),
                kind: record.manifest.kind,
                captured_at: record.manifest.captured.captured_at,
                watermark: record.manifest.captured.watermark,
                state: record.state,
                raw_bytes,
                stored_bytes: chain.iter().map(|r| r.manifest.stored_bytes()).sum(),
            }),
            expected: forecast::restore_time(&self.node, system, raw_bytes).await?,
            ..PointFact::default()
        };
        fact.missing.extend(restore::missing_keys(&self.node, &chain));
        match self.mode {
            Mode::Recover | Mode::Plan => {
                let act = RestoreAct {
                    act: Act {
                        step: crate::domain::id::StepId::parse("plan")
                            .map_err(|e| Error::bug("name step").because(e))?,
                        attempt: 1,
                    },
                    system: system.clone(),
                    point: fact.point.clone().ok_or_else(|| Error::bug("resolve a point"))?,
                };
                self.look_at_production(&act, &mut fact, job).await?;
            }
            Mode::Drill => {
                let engine = self.node.system(system)?;
                match engine.sandboxing().map(crate::system::Sandboxing::programs) {
                    Some(Ok(programs)) => {
                        fact.actions.push(format!("restore into a sandbox with {programs:?}"));
                    }
                    Some(Err(error)) => fact.missing.push(error.to_string()),
                    None => fact.missing.push(format!("{} has no sandbox", engine.kind())),
                }
            }
        }
        Ok(fact)
    }

    /// What restoring into production would do, and what stands in its way.
    async fn look_at_production(
        &self,
        act: &RestoreAct,
        fact: &mut PointFact,
        job: &JobContext,
    ) -> Result<()> {
        let order = self.order(act, Place::Production, Existing::Replace);
        let planned = match restore::plan(&self.node, &order, job).await {
            Ok(planned) => planned.plan,
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                // one that the runbook or the restore itself starts will answer then
                if self.service_will_change(&act.system, job).await? {
                    fact.unknown.push(format!("what is there: {error}"));
                } else {
                    fact.missing.push(error.to_string());
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        fact.actions = planned.actions;
        fact.free_bytes = planned.free_bytes;
        fact.unknown = planned.unknown;
        let known = &fact.missing;
        let obstacles: Vec<String> = planned.missing.into_iter().filter(|m| !known.contains(m)).collect();
        let too_small = planned.free_bytes.is_some_and(|free| free < planned.bytes);
        // a service that the runbook starts or stops first does not stand in the way; the restore itself looks again
        if !obstacles.is_empty() && !too_small && self.service_will_change(&act.system, job).await? {
            let later = |o| format!("whether this still holds once the service was started or stopped: {o}");
            fact.unknown.extend(obstacles.into_iter().map(later));
        } else {
            fact.missing.extend(obstacles);
        }
        Ok(())
    }

    /// Whether a configured way to start or stop the service leads out of the state that it is in now.
    async fn service_will_change(&self, system: &SystemName, job: &JobContext) -> Result<bool> {
        let service = &self.node.system_config(system)?.service;
        let health = self.node.system(system)?.probe(job).await;
        let down = health.map_or(true, |h| h.state == HealthState::Down);
        Ok(if down { !service.start.is_empty() } else { !service.stop.is_empty() })
    }
}
