//! Two connections to one catalog, and a catalog opened again.

use std::sync::Arc;

use super::example::{destination, instant, intent, lease, manifest, opened, owner, system};
use super::{Open, equal, refused};
use crate::catalog::{BackupQuery, Catalog, Resource};
use crate::domain::backup::LeaseScope;
use crate::domain::id::RunId;
use crate::error::{ErrorKind, Result};

/// How many numbers each of two connections draws while the other does the same.
const RACING_DRAWS: usize = 25;

pub(super) async fn one_of_two_adopters_wins(open: &Open) -> Result<()> {
    let (a, b) = (open()?, open()?);
    for n in 1..=10 {
        let run = opened(&*a, n).await?;
        let (mine, yours) = (owner(100 + n), owner(200 + n));
        let (left, right) = futures_util::join!(a.adopt_run(&run, 1, &mine), b.adopt_run(&run, 1, &yours));
        let (winner, loser) = if left.is_ok() { (mine, right) } else { (yours, left) };
        refused(loser, ErrorKind::Conflict, "the second of two adoptions")?;
        let record = b.run(&run).await?;
        equal(&(record.owner, record.epoch), &(winner, 2), "who adopted the run")?;
    }
    Ok(())
}

pub(super) async fn no_canary_number_is_given_twice(open: &Open) -> Result<()> {
    let (a, b, orders) = (open()?, open()?, system("orders")?);
    let draw = |from: Arc<dyn Catalog>| {
        let orders = &orders;
        async move {
            let drawn = (0..RACING_DRAWS).map(|_| from.next_canary(orders));
            futures_util::future::try_join_all(drawn).await
        }
    };
    let (left, right) = futures_util::try_join!(draw(a), draw(b))?;
    let mut numbers = [left, right].concat();
    numbers.sort_unstable();
    let expected: Vec<u64> = (1..).take(2 * RACING_DRAWS).collect();
    equal(&numbers, &expected, "numbers given by two connections")
}

pub(super) async fn reopening_keeps_everything(open: &Open) -> Result<()> {
    let catalog = open()?;
    let (run, at) = (opened(&*catalog, 1).await?, instant(2)?);
    catalog.append(&run, 1, &intent()?, at).await?;
    catalog.commit_backup(&manifest("orders", 1)?, &destination("near")?).await?;
    catalog.record_lease(&run, &lease("slot", LeaseScope::Chain)?, at).await?;
    let directory = Resource::Directory { path: "/tmp/box".into() };
    catalog.record_resource(&run, &owner(5), &directory, at).await?;
    catalog.next_canary(&system("orders")?).await?;
    let before = everything(&*catalog, &run).await?;
    drop(catalog);
    let catalog = open()?;
    equal(&everything(&*catalog, &run).await?, &before, "the catalog after it was opened again")?;
    equal(&catalog.next_canary(&system("orders")?).await?, &2, "next canary number")
}

async fn everything(catalog: &dyn Catalog, run: &RunId) -> Result<String> {
    Ok(format!(
        "{:?} {:?} {:?} {:?} {:?}",
        catalog.runs(10).await?,
        catalog.journal(run).await?,
        catalog.backups(&BackupQuery::default()).await?,
        catalog.leases().await?,
        catalog.resources().await?,
    ))
}
