//! Runs: legal moves, fencing, the journal.

use super::example::{instant, intent, named, opened, owner};
use super::{equal, hinted, refused};
use crate::catalog::{Catalog, RunEnd};
use crate::domain::evidence::{EvidenceLevel, Verdict};
use crate::domain::id::{RunId, StepId};
use crate::domain::run::{RunEvent, RunState, StepOutcome};
use crate::error::{ErrorKind, Result};

pub(super) async fn runs_move_only_legally(catalog: &dyn Catalog) -> Result<()> {
    let first = opened(catalog, 1).await?;
    let end = |error: &str| RunEnd { error: Some(error.to_owned()), ..RunEnd::default() };
    let at = instant(9)?;
    catalog.move_run(&first, 1, RunState::Paused, end("step failed"), at).await?;
    let paused = catalog.run(&first).await?;
    equal(&paused.error.as_deref(), &Some("step failed"), "why it paused")?;
    equal(&paused.finished_at, &None, "a paused run has not finished")?;
    let done = catalog.move_run(&first, 1, RunState::Succeeded, RunEnd::default(), at).await;
    refused(done, ErrorKind::Conflict, "success out of a pause")?;
    catalog.move_run(&first, 1, RunState::Running, RunEnd::default(), at).await?;
    equal(&catalog.run(&first).await?.error, &None, "a run that goes on has no error")?;

    let passed = RunEnd {
        verdict: Some(Verdict::Pass),
        level: Some(EvidenceLevel::E6),
        error: None,
        detail: Some(serde_json::json!({"rto": 12.5})),
    };
    catalog.move_run(&first, 1, RunState::Succeeded, passed, at).await?;
    let ended = catalog.run(&first).await?;
    equal(
        &(ended.state, ended.finished_at, ended.verdict, ended.level),
        &(RunState::Succeeded, Some(at), Some(Verdict::Pass), Some(EvidenceLevel::E6)),
        "how the run ended",
    )?;
    equal(&ended.detail, &serde_json::json!({"rto": 12.5}), "detail given at the end")?;
    for next in [RunState::Running, RunState::Aborted, RunState::Succeeded] {
        let moved = catalog.move_run(&first, 1, next, RunEnd::default(), at).await;
        refused(moved, ErrorKind::Conflict, "leaving a final state")?;
    }
    refused(
        catalog.adopt_run(&first, 1, &owner(9)).await,
        ErrorKind::Conflict,
        "adopting a run that has ended",
    )?;
    Ok(())
}

pub(super) async fn runs_are_listed_in_order_and_an_unknown_one_is_not_found(
    catalog: &dyn Catalog,
) -> Result<()> {
    let (first, second) = (opened(catalog, 1).await?, opened(catalog, 2).await?);
    let listed: Vec<_> = catalog.runs(10).await?.into_iter().map(|r| r.id).collect();
    equal(&listed, &vec![second.clone(), first.clone()], "runs, newest first")?;
    equal(&catalog.runs(1).await?.len(), &1, "runs within the limit")?;
    let at = instant(9)?;
    catalog.move_run(&first, 1, RunState::Failed, RunEnd::default(), at).await?;
    catalog.move_run(&second, 1, RunState::Interrupted, RunEnd::default(), at).await?;
    let third = opened(catalog, 3).await?;
    let unfinished: Vec<_> = catalog.unfinished_runs().await?.into_iter().map(|r| r.id).collect();
    equal(&unfinished, &vec![second, third], "unfinished runs, oldest first")?;
    let nobody = RunId::new(at, 99);
    for found in [catalog.run(&nobody).await.map(|_| ()), catalog.journal(&nobody).await.map(|_| ())] {
        hinted(&found, "lifeboat runs", "an unknown run")?;
        refused(found, ErrorKind::NotFound, "an unknown run")?;
    }
    Ok(())
}

pub(super) async fn an_old_epoch_changes_nothing(catalog: &dyn Catalog) -> Result<()> {
    let run = opened(catalog, 1).await?;
    let at = instant(5)?;
    catalog.append(&run, 1, &intent()?, at).await?;
    equal(&catalog.adopt_run(&run, 1, &owner(77)).await?, &2, "epoch after adoption")?;
    let before = catalog.run(&run).await?;
    equal(&before.owner, &owner(77), "owner after adoption")?;
    for epoch in [1, 3] {
        refused(
            catalog.append(&run, epoch, &intent()?, at).await,
            ErrorKind::Conflict,
            "appending with a wrong epoch",
        )?;
        refused(
            catalog.move_run(&run, epoch, RunState::Failed, RunEnd::default(), at).await,
            ErrorKind::Conflict,
            "moving with a wrong epoch",
        )?;
        refused(
            catalog.set_run_detail(&run, epoch, &serde_json::json!(1)).await,
            ErrorKind::Conflict,
            "setting detail with a wrong epoch",
        )?;
        refused(
            catalog.adopt_run(&run, epoch, &owner(78)).await,
            ErrorKind::Conflict,
            "adopting with a wrong epoch",
        )?;
    }
    equal(&catalog.run(&run).await?, &before, "the run")?;
    equal(&catalog.journal(&run).await?.len(), &1, "records in the journal")
}

pub(super) async fn the_journal_counts_from_one_and_keeps_everything(catalog: &dyn Catalog) -> Result<()> {
    let (run, other) = (opened(catalog, 1).await?, opened(catalog, 2).await?);
    let outcome = RunEvent::Outcome {
        step: named(StepId::parse("pg.restore"))?,
        attempt: 1,
        outcome: StepOutcome::Succeeded { output: serde_json::json!({"rows": u64::MAX}) },
    };
    let note = RunEvent::Note { text: "über \u{0} 'quotes'\n".to_owned() };
    let events = [intent()?, outcome, note];
    for (n, event) in (1_u32..).zip(&events) {
        equal(&catalog.append(&run, 1, event, instant(n)?).await?, &u64::from(n), "sequence")?;
    }
    equal(&catalog.append(&other, 1, &intent()?, instant(8)?).await?, &1, "sequence of another run")?;
    let journal = catalog.journal(&run).await?;
    let kept: Vec<_> = journal.iter().map(|r| r.event.clone()).collect();
    equal(&kept, &events.to_vec(), "events")?;
    equal(&journal[2].at, &instant(3)?, "instant to the nanosecond")?;
    catalog.set_run_detail(&run, 1, &serde_json::json!({"x": [1.5]})).await?;
    equal(&catalog.run(&run).await?.detail, &serde_json::json!({"x": [1.5]}), "detail")
}
