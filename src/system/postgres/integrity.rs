//! The server's own integrity check (amcheck) over every table and index of every database.
//!
//! The extension is created in a transaction that is rolled back, so that nothing is left behind, also in production.

use super::client::{Client, Connector};
use super::point::databases_to_read;
use super::rows::{quote_ident, quote_literal};
use crate::domain::evidence::EvidenceLevel::E3;
use crate::domain::place::Place;
use crate::domain::verification::{Check, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// Tables are checked page by page since this version; before, only indexes are.
const HEAP_CHECK_SINCE: u32 = 14;

const BEGIN: &str = "BEGIN; CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA pg_catalog";

const SCHEMA: &str = "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
    WHERE e.extname = 'amcheck'";

/// One check per database.
pub async fn check(
    connector: &Connector,
    place: &Place,
    found: &mut Verification,
    job: &JobContext,
) -> Result<()> {
    let control = connector.connect(place, &connector.settings().database, job).await?;
    for database in databases_to_read(&control, job).await? {
        let name = format!("integrity of {} (amcheck)", quote_ident(&database));
        let result = async {
            let client = connector.connect(place, &database, job).await?;
            check_database(&client, job).await
        };
        found.push(match result.await {
            Ok(Outcome::Sound { relations }) => {
                Check::passed(name, E3, format!("{relations} tables and indexes"))
            }
            Ok(Outcome::Damaged(damage)) => Check::failed(name, E3, "no damage", damage),
            Ok(Outcome::Unable(why)) => Check::inconclusive(name, E3, why),
            Err(e) if matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::DeadlineExceeded) => {
                return Err(e);
            }
            Err(e) => Check::failed(name, E3, "no damage", e.to_string()),
        });
    }
    Ok(())
}

enum Outcome {
    Sound {
        relations: u64,
    },
    Damaged(String),
    /// Nothing was checked, and why.
    Unable(String),
}

async fn check_database(client: &Client, job: &JobContext) -> Result<Outcome> {
    match client.execute_all(job, "prepare integrity check", BEGIN).await {
        Err(e) if is_inability(&e) => return Ok(Outcome::Unable(e.to_string())),
        other => other?,
    }
    let schema: String = client.row(job, "prepare integrity check", SCHEMA, &[]).await?.get(0);
    let schema = quote_ident(&schema);
    let mut relations = 0;
    if client.major() >= HEAP_CHECK_SINCE {
        for table in names(client, TABLES, job).await? {
            let sql = format!(
                "SELECT blkno::text || ': ' || msg FROM {schema}.verify_heapam({}::regclass) LIMIT 1",
                quote_literal(&table)
            );
            let rows = client
                .rows(job, "check table", &sql, &[])
                .await
                .map_err(|e| e.during(format!("check {table}")))?;
            if let Some(row) = rows.first() {
                return Ok(Outcome::Damaged(format!("{table}, block {}", row.get::<_, &str>(0))));
            }
            relations += 1;
            job.progress().beat();
        }
    }
    for index in names(client, INDEXES, job).await? {
        let sql = format!("SELECT {schema}.bt_index_check({}::regclass)", quote_literal(&index));
        client.execute_all(job, "check index", &sql).await.map_err(|e| e.during(format!("check {index}")))?;
        relations += 1;
        job.progress().beat();
    }
    client.execute_all(job, "end integrity check", "ROLLBACK").await?;
    Ok(Outcome::Sound { relations })
}

/// Missing rights or a missing extension say nothing about the data.
fn is_inability(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported | ErrorKind::NotFound)
}

const TABLES: &str = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
    WHERE c.relkind IN ('r', 'm', 't') AND a.amname = 'heap' AND c.relpersistence <> 't' ORDER BY 1";

const INDEXES: &str = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
    JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relkind = 'i' AND a.amname = 'btree' \
    AND i.indisvalid AND i.indisready AND c.relpersistence <> 't' ORDER BY 1";

async fn names(client: &Client, sql: &str, job: &JobContext) -> Result<Vec<String>> {
    let rows = client.rows(job, "list what to check", sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
