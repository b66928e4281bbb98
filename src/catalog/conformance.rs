//! What every adapter of this port must do; run by each of them in its tests.
//!
//! Every part gets a catalog of its own and may open it several times: what holds between two connections of one
//! process is what must hold between the daemon and the command line.

mod backups;
pub(super) mod example;
mod held;
mod runs;
mod shared;

use std::sync::Arc;

use super::Catalog;
use crate::error::{Error, ErrorKind, Result};

/// Opens one more connection to the same catalog.
pub type Open = Box<dyn Fn() -> Result<Arc<dyn Catalog>> + Send + Sync>;

/// Runs the whole suite; `fresh` gives a new, empty catalog every time.
pub async fn all(fresh: impl Fn() -> Open) -> Result<()> {
    runs::runs_move_only_legally(&*fresh()()?).await?;
    runs::runs_are_listed_in_order_and_an_unknown_one_is_not_found(&*fresh()()?).await?;
    runs::an_old_epoch_changes_nothing(&*fresh()()?).await?;
    runs::the_journal_counts_from_one_and_keeps_everything(&*fresh()()?).await?;
    backups::a_commit_keeps_what_is_known_better(&*fresh()()?).await?;
    backups::another_manifest_starts_anew_and_copies_go_one_by_one(&*fresh()()?).await?;
    backups::backups_are_listed_newest_first(&*fresh()()?).await?;
    held::leases_outlive_their_run_only_when_kept(&*fresh()()?).await?;
    held::the_ledger_forgets_only_what_was_cleared(&*fresh()()?).await?;
    held::canaries_count_what_was_acknowledged(&*fresh()()?).await?;
    shared::one_of_two_adopters_wins(&fresh()).await?;
    shared::no_canary_number_is_given_twice(&fresh()).await?;
    shared::reopening_keeps_everything(&fresh()).await
}

fn broken(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Failed, "conform to the catalog port").why(what)
}

fn equal<T: PartialEq + std::fmt::Debug>(seen: &T, expected: &T, what: &str) -> Result<()> {
    if seen == expected {
        return Ok(());
    }
    Err(broken(format!("{what}: {seen:?} instead of {expected:?}")))
}

fn refused<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<()> {
    match result {
        Ok(_) => Err(broken(format!("{what} was allowed"))),
        Err(error) => equal(&error.kind(), &kind, what),
    }
}

/// The error tells a person which command shows the right names.
fn hinted<T>(result: &Result<T>, command: &str, what: &str) -> Result<()> {
    let advice = result.as_ref().err().and_then(Error::advice).unwrap_or_default();
    if advice.contains(command) {
        return Ok(());
    }
    Err(broken(format!("{what} comes without the way out: `{advice}`")))
}
