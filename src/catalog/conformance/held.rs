//! Leases, the sandbox ledger and canaries.

use super::example::{instant, lease, opened, owner, system};
use super::{broken, equal, refused};
use crate::catalog::{Catalog, Resource, RunEnd};
use crate::domain::backup::LeaseScope;
use crate::domain::canary::CanaryRecord;
use crate::domain::id::RunId;
use crate::domain::run::RunState;
use crate::error::{Error, ErrorKind, Result};

pub(super) async fn leases_outlive_their_run_only_when_kept(catalog: &dyn Catalog) -> Result<()> {
    let (run, other, at) = (opened(catalog, 1).await?, opened(catalog, 2).await?, instant(3)?);
    let (chain, own) = (lease("slot", LeaseScope::Chain)?, lease("pin", LeaseScope::Run)?);
    refused(catalog.keep_lease(&chain).await, ErrorKind::NotFound, "keeping an unknown lease")?;
    for lease in [&chain, &own, &chain] {
        catalog.record_lease(&run, lease, at).await?;
    }
    refused(catalog.keep_lease(&own).await, ErrorKind::Conflict, "keeping a lease of one run")?;
    refused(
        catalog.record_lease(&other, &chain, at).await,
        ErrorKind::Conflict,
        "recording a lease that a live run holds",
    )?;
    refused(
        catalog.record_lease(&RunId::new(at, 9), &chain, at).await,
        ErrorKind::NotFound,
        "recording a lease for an unknown run",
    )?;
    catalog.keep_lease(&chain).await?;
    catalog.clear_lease(&own).await?;
    catalog.clear_lease(&own).await?;
    let held = catalog.leases().await?;
    let held: Vec<_> = held.iter().map(|h| (&h.lease, h.run.as_ref(), h.since)).collect();
    equal(&held, &vec![(&chain, None, at)], "leases held")?;
    catalog.record_lease(&other, &chain, instant(8)?).await?;
    let held = catalog.leases().await?;
    let held: Vec<_> = held.iter().map(|h| (h.run.clone(), h.since)).collect();
    equal(&held, &vec![(Some(other.clone()), at)], "a kept lease, taken over")?;
    catalog.move_run(&other, 1, RunState::Interrupted, RunEnd::default(), at).await?;
    catalog.record_lease(&run, &chain, at).await?;
    catalog.clear_lease(&chain).await?;
    equal(&catalog.leases().await?.len(), &0, "leases left")
}

pub(super) async fn the_ledger_forgets_only_what_was_cleared(catalog: &dyn Catalog) -> Result<()> {
    let (run, at) = (RunId::new(instant(1)?, 1), instant(2)?);
    let directory = Resource::Directory { path: "/tmp/box".into() };
    let process = Resource::Process { pid: 12, started: "34@boot".to_owned(), program: "server".to_owned() };
    let first = catalog.record_resource(&run, &owner(5), &directory, at).await?;
    let second = catalog.record_resource(&run, &owner(5), &process, at).await?;
    catalog.clear_resource(first).await?;
    catalog.clear_resource(first).await?;
    let left = catalog.resources().await?;
    let left: Vec<_> = left.into_iter().map(|e| (e.id, e.run, e.owner, e.resource, e.since)).collect();
    equal(&left, &vec![(second, run.clone(), owner(5), process, at)], "ledger")?;
    catalog.clear_resource(second).await?;
    let third = catalog.record_resource(&run, &owner(5), &directory, at).await?;
    if third <= second {
        return Err(broken("a number in the ledger was used again"));
    }
    Ok(())
}

pub(super) async fn canaries_count_what_was_acknowledged(catalog: &dyn Catalog) -> Result<()> {
    let (orders, cache) = (system("orders")?, system("cache")?);
    let record =
        |seq, second| Ok::<_, Error>(CanaryRecord { seq, utc: instant(second)?, mac: "00".to_owned() });
    for n in 1..=5_u32 {
        equal(&catalog.next_canary(&orders).await?, &u64::from(n), "canary number")?;
        if n != 3 {
            catalog.canary_written(&orders, &record(u64::from(n), n)?).await?;
        }
    }
    catalog.canary_written(&orders, &record(5, 5)?).await?;
    let count = |of, above, until| async move { catalog.canaries_after(of, above, instant(until)?).await };
    equal(&count(&orders, 1, 4).await?, &2, "acknowledged between 1 and 4")?;
    equal(&count(&orders, 0, 99).await?, &4, "acknowledged in all")?;
    equal(&count(&cache, 0, 99).await?, &0, "acknowledged elsewhere")?;
    equal(&catalog.next_canary(&cache).await?, &1, "first number of another system")?;
    catalog.canary_written(&cache, &record(400, 6)?).await?;
    let next = catalog.next_canary(&cache).await?;
    equal(&next, &401, "number behind one found in the system")
}
