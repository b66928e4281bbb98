//! Which steps set the time to service, and how much room the others had. Pure.

use std::collections::BTreeMap;

use crate::domain::Timestamp;
use crate::domain::id::StepId;
use crate::runbook::execute::{Execution, StepReport};
use crate::runbook::model::Need;
use crate::runbook::step::Action;

/// Walks back from the step that ended at service, always to the need that ended last.
pub fn critical_path(
    execution: &Execution,
    service_at: Option<Timestamp>,
) -> (Vec<StepId>, BTreeMap<StepId, f64>) {
    let by_id: BTreeMap<&StepId, &StepReport> = execution.steps.iter().map(|s| (&s.id, s)).collect();
    let Some(end) = service_at else {
        return (Vec::new(), BTreeMap::new());
    };
    let mut chain = Vec::new();
    let mut here = execution.steps.iter().find(|s| {
        s.ended_at == Some(end)
            && s.need == Need::Required
            && s.action.as_ref().is_some_and(Action::is_evidence)
    });
    while let Some(step) = here {
        chain.push(step.id.clone());
        let needs = step.needs.iter().filter_map(|n| by_id.get(n).copied());
        here = needs.filter(|s| s.ended_at.is_some()).max_by_key(|s| s.ended_at);
    }
    chain.reverse();
    let slack = slack(execution, end);
    let others = slack.into_iter().filter(|(id, _)| !chain.contains(id)).collect();
    (chain, others)
}

/// Latest end that would not have delayed service, minus the real end. Steps come in an order that follows needs, so one
/// pass from the back suffices.
fn slack(execution: &Execution, service_at: Timestamp) -> BTreeMap<StepId, f64> {
    let mut latest: BTreeMap<&StepId, Timestamp> = BTreeMap::new();
    let mut slack = BTreeMap::new();
    for step in execution.steps.iter().rev() {
        let (Some(start), Some(end)) = (step.started_at, step.ended_at) else {
            continue;
        };
        // service waits for no optional step, so none takes room from the others
        if end > service_at || step.need == Need::Optional {
            continue;
        }
        let allowed = latest.get(&step.id).copied().unwrap_or(service_at);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run")]
        slack.insert(step.id.clone(), (allowed - end).num_milliseconds() as f64 / 1000.0);
        let must_start = allowed - (end - start);
        for need in &step.needs {
            let known = latest.entry(need).or_insert(must_start);
            *known = (*known).min(must_start);
        }
    }
    slack
}
