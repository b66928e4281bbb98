//! The state of everything, for the person on call: what answers, what is lost, what can be had back, what to do next.

use serde::Serialize;

use crate::domain::Timestamp;
use crate::domain::backup::{BackupState, Watermark};
use crate::domain::id::{BackupId, SystemName};
use crate::error::Result;
use crate::operation::{Node, chain};
use crate::runtime::JobContext;
use crate::system::{Health, HealthState};

/// One system as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct SystemAssessment {
    pub name: SystemName,
    pub kind: String,
    pub health: Health,
    pub point: Option<PointAssessment>,
    /// Backups of this system that the catalog knows.
    pub backups: usize,
    /// Seconds since the watermark of the newest point that may be relied on (VERIFIED or PROVEN); `None`: there is none.
    pub exposure_seconds: Option<i64>,
    pub rpo_target_seconds: Option<u64>,
    pub rto_target_seconds: u64,
    /// What to do about it, most urgent first.
    pub advice: Vec<String>,
}

/// The newest restorable point of a system.
#[derive(Clone, Debug, Serialize)]
pub struct PointAssessment {
    pub backup: BackupId,
    pub state: BackupState,
    pub captured_at: Timestamp,
    pub watermark: Option<Watermark>,
    pub chain: usize,
    pub proven_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Assessment {
    pub as_of: Timestamp,
    pub healthy: bool,
    pub systems: Vec<SystemAssessment>,
    /// The scenario that fits what is down, if any.
    pub scenario: Option<String>,
    pub next: Vec<String>,
}

pub async fn assess(node: &Node, job: &JobContext) -> Result<Assessment> {
    let probes = node.systems.keys().map(|name| assess_system(node, name, job));
    let systems = futures_util::future::try_join_all(probes).await?;
    let down: Vec<&SystemAssessment> =
        systems.iter().filter(|s| s.health.state != HealthState::Healthy).collect();
    let scenario = fitting_scenario(&down);
    let next = match (&scenario, down.is_empty()) {
        (_, true) => {
            vec!["nothing is down; `lifeboat drill full-disaster` proves that it would come back".to_owned()]
        }
        (Some(name), false) => vec![
            format!("lifeboat recover {name} --dry-run"),
            format!("lifeboat recover {name} --in-place --reason \"...\""),
        ],
        (None, false) => vec!["no shipped scenario fits; write one under lifeboat.scenarios".to_owned()],
    };
    Ok(Assessment { as_of: job.now(), healthy: down.is_empty(), scenario, next, systems })
}

async fn assess_system(node: &Node, name: &SystemName, job: &JobContext) -> Result<SystemAssessment> {
    let (engine, config) = (node.system(name)?, node.system_config(name)?);
    let health = engine.probe(job).await.unwrap_or_else(|error| Health {
        state: HealthState::Down,
        version: None,
        summary: error.to_string(),
        findings: error.advice().map(str::to_owned).into_iter().collect(),
    });
    let query = crate::catalog::BackupQuery { system: Some(name.clone()), limit: None };
    let all = node.catalog.backups(&query).await?;
    let newest = chain::newest_point(node, name).await?;
    let relied_on = all.iter().filter(|r| matches!(r.state, BackupState::Verified | BackupState::Proven));
    let newest_relied = relied_on
        .map(|r| r.manifest.captured.watermark.map_or(r.manifest.captured.captured_at, |w| w.at))
        .max();
    let exposure = newest_relied.map(|at| (job.now() - at).num_seconds());
    let point = newest.as_ref().and_then(|chain| chain.last().map(|record| (chain.len(), record))).map(
        |(links, r)| PointAssessment {
            backup: r.manifest.id.clone(),
            state: r.state,
            captured_at: r.manifest.captured.captured_at,
            watermark: r.manifest.captured.watermark,
            chain: links,
            proven_at: r.proof.as_ref().map(|p| p.at),
        },
    );
    let advice = advice(name, &health, point.as_ref(), exposure, config.objectives.rpo.map(|d| d.as_secs()));
    Ok(SystemAssessment {
        name: name.clone(),
        kind: config.kind.clone(),
        health,
        point,
        backups: all.len(),
        exposure_seconds: exposure,
        rpo_target_seconds: config.objectives.rpo.map(|d| d.as_secs()),
        rto_target_seconds: config.objectives.rto.as_secs(),
        advice,
    })
}

fn advice(
    name: &SystemName,
    health: &Health,
    point: Option<&PointAssessment>,
    exposure: Option<i64>,
    rpo: Option<u64>,
) -> Vec<String> {
    let mut advice = Vec::new();
    match (point, health.state) {
        (None, HealthState::Down) => {
            advice.push("it is down and there is no backup: do not touch what is left of it".to_owned());
        }
        (None, HealthState::Healthy | HealthState::Degraded) => {
            advice.push(format!("there is no backup: lifeboat backup {name}"));
        }
        (Some(p), HealthState::Down) => {
            advice.push(format!("it is down; newest point {} of {}", p.backup, p.captured_at.to_rfc3339()));
        }
        (Some(p), HealthState::Healthy | HealthState::Degraded) if p.proven_at.is_none() => {
            advice.push("its newest point was never restored: drill it".to_owned());
        }
        (Some(_), HealthState::Healthy | HealthState::Degraded) => {}
    }
    if let (Some(exposure), Some(rpo)) = (exposure, rpo)
        && u64::try_from(exposure).is_ok_and(|e| e > rpo)
    {
        advice.push(format!("exposure of {exposure} s is over the RPO of {rpo} s: lifeboat backup {name}"));
    }
    advice.extend(health.findings.iter().cloned());
    advice
}

fn fitting_scenario(down: &[&SystemAssessment]) -> Option<String> {
    let name = match down {
        [] => return None,
        [one] => match one.kind.as_str() {
            "postgres" => "database-failure",
            "redis" => "redis-failure",
            "sqlite" => "sqlite-damaged",
            "files" => "files-lost",
            _ => "full-disaster",
        },
        _ => "full-disaster",
    };
    Some(name.to_owned())
}
