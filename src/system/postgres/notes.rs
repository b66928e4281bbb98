//! What a physical backup does not carry, found by looking at this server. Never fails a backup.

use super::client::{Client, Connector};
use super::point::databases_to_read;
use crate::domain::place::Place;
use crate::error::Result;
use crate::runtime::JobContext;

/// Names shown in one note.
const NAMES_MAX: usize = 5;

/// Notes about the whole server and each database. What may not be looked at is said, not skipped.
pub async fn about(connector: &Connector, control: &Client, job: &JobContext) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (sql, tell) in WHOLE_SERVER {
        let rows = control.rows(job, "look for what is not carried", sql, &[]).await?;
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if !names.is_empty() {
            notes.push(format!("{tell}: {}", some(&names)));
        }
    }
    for database in databases_to_read(control, job).await? {
        let client = match connector.connect(&Place::Production, &database, job).await {
            Ok(client) => client,
            Err(error) => {
                notes.push(format!("database {database} was not looked at for unlogged tables: {error}"));
                continue;
            }
        };
        let rows = client.rows(job, "look for unlogged tables", UNLOGGED, &[]).await?;
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if !names.is_empty() {
            notes.push(format!(
                "unlogged tables of database {database} are empty after a restore: {}",
                some(&names)
            ));
        }
    }
    Ok(notes)
}

const UNLOGGED: &str = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'm') ORDER BY 1";

const WHOLE_SERVER: [(&str, &str); 4] = [
    (
        "SELECT slot_name::text FROM pg_replication_slots WHERE NOT slot_name LIKE 'lifeboat\\_%' ORDER BY 1",
        "replication slots do not come back",
    ),
    (
        "SELECT gid FROM pg_prepared_xacts ORDER BY 1",
        "prepared transactions come back prepared and hold their locks",
    ),
    (
        "SELECT name FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') \
         AND setting NOT LIKE (SELECT setting || '/%' FROM pg_settings WHERE name = 'data_directory')",
        "configuration files outside the data directory are not part of the backup",
    ),
    (
        "SELECT subname::text FROM pg_subscription ORDER BY 1",
        "subscriptions come back and start by themselves, except in sandboxes",
    ),
];

fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_MAX) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        Some(_) | None => shown,
    }
}

/// Size of all databases; `None` where the user may not know.
pub async fn database_bytes(control: &Client, job: &JobContext) -> Option<u64> {
    let sql = "SELECT sum(pg_database_size(oid))::int8 FROM pg_database";
    let row = control.row(job, "read size of databases", sql, &[]).await.ok()?;
    row.get::<_, Option<i64>>(0).and_then(|bytes| u64::try_from(bytes).ok())
}
