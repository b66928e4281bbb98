//! What a database contains, as counts and hashes that do not depend on the order of rows.
//!
//! A row is hashed with the storage class and the exact bytes of every value, and with its rowid. Left out: the canary
//! table, planner statistics (renewable at any time), virtual tables (their shadow tables hold the data).

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use xxhash_rust::xxh3::xxh3_128;

use super::canary::CANARY_TABLE;
use super::client::{Brake, sql_error};
use crate::domain::backup::{Digest, Fingerprint};
use crate::error::Result;

pub(super) const ALGORITHM: &str = "sqlite rows xxh3-128 sum 1";
/// The table of the schema; no user table may be called so.
pub(super) const SCHEMA_ITEM: &str = "sqlite_schema";
/// Between two looks at the brake.
const ROWS_PER_CHECK: u64 = 4096;
/// A buffer that grew beyond this for one row is given back.
const ROW_BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// Reads every row of every table, inside one read transaction.
pub(super) fn read(connection: &Connection, path: &Path, brake: &Brake) -> Result<Fingerprint> {
    let op = "read fingerprint";
    let failed = |e| sql_error(op, path, e);
    // nested in the caller's transaction when there is one
    let own = connection.is_autocommit();
    if own {
        connection.execute_batch("BEGIN").map_err(failed)?;
    }
    let mut fingerprint = Fingerprint {
        algorithm: ALGORITHM.to_owned(),
        unit: "rows".to_owned(),
        items: std::collections::BTreeMap::new(),
    };
    let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema \
                  WHERE tbl_name <> 'lifeboat_canary' AND tbl_name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'";
    let digest = hash_rows(connection, schema, path, brake)?;
    fingerprint.items.insert(SCHEMA_ITEM.to_owned(), digest);
    for table in tables(connection).map_err(failed)? {
        let digest = hash_rows(connection, &table.select, path, brake)?;
        fingerprint.items.insert(table.name, digest);
    }
    if own {
        connection.execute_batch("COMMIT").map_err(failed)?;
    }
    Ok(fingerprint)
}

struct Table {
    name: String,
    select: String,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let sql = "SELECT name, wr FROM pragma_table_list \
               WHERE schema = 'main' AND type IN ('table', 'shadow') ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? == 1)))?;
    let mut tables = Vec::new();
    for entry in found {
        let (name, without_rowid) = entry?;
        if name == CANARY_TABLE || name == SCHEMA_ITEM || name.starts_with("sqlite_stat") {
            continue;
        }
        let rowid = if without_rowid { None } else { rowid_name(connection, &name)? };
        let columns = rowid.map_or_else(|| "*".to_owned(), |rowid| format!("{rowid}, *"));
        tables.push(Table { select: format!("SELECT {columns} FROM main.{}", quoted(&name)), name });
    }
    Ok(tables)
}

/// A name that still means the rowid: a column may be called like it. `None` when all three are taken.
fn rowid_name(connection: &Connection, table: &str) -> rusqlite::Result<Option<&'static str>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_xinfo(?1)")?;
    let columns: Vec<String> =
        statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let free = |name: &&str| !columns.iter().any(|c| c.eq_ignore_ascii_case(name));
    Ok(["rowid", "_rowid_", "oid"].into_iter().find(free))
}

fn hash_rows(connection: &Connection, select: &str, path: &Path, brake: &Brake) -> Result<Digest> {
    let op = "read fingerprint";
    let failed = |e| sql_error(op, path, e);
    let mut statement = connection.prepare(select).map_err(failed)?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(failed)?;
    let (mut count, mut sum, mut buffer) = (0_u64, 0_u128, Vec::new());
    while let Some(row) = rows.next().map_err(failed)? {
        encode(row, columns, &mut buffer).map_err(failed)?;
        sum = sum.wrapping_add(xxh3_128(&buffer));
        count += 1;
        if count.is_multiple_of(ROWS_PER_CHECK) {
            brake.check(op)?;
        }
        if buffer.capacity() > ROW_BUFFER_BYTES_KEPT {
            buffer = Vec::new();
        }
    }
    Ok(Digest { count, hash: format!("{sum:032x}") })
}

fn encode(row: &Row<'_>, columns: usize, buffer: &mut Vec<u8>) -> rusqlite::Result<()> {
    buffer.clear();
    for column in 0..columns {
        match row.get_ref(column)? {
            ValueRef::Null => buffer.push(0),
            ValueRef::Integer(n) => {
                buffer.push(1);
                buffer.extend_from_slice(&n.to_le_bytes());
            }
            ValueRef::Real(x) => {
                buffer.push(2);
                buffer.extend_from_slice(&x.to_bits().to_le_bytes());
            }
            ValueRef::Text(text) => push_bytes(buffer, 3, text),
            ValueRef::Blob(blob) => push_bytes(buffer, 4, blob),
        }
    }
    Ok(())
}

fn push_bytes(buffer: &mut Vec<u8>, class: u8, bytes: &[u8]) {
    buffer.push(class);
    buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

/// One value for the whole content.
pub(super) fn summary(fingerprint: &Fingerprint) -> String {
    let mut text = String::new();
    for (name, digest) in &fingerprint.items {
        text.push_str(&format!("{}:{name}={}:{};", name.len(), digest.count, digest.hash));
    }
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Fingerprint {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        read(&connection, Path::new(":memory:"), &Brake::default()).unwrap()
    }

    #[test]
    fn the_order_of_insertion_does_not_matter_and_every_value_does() {
        let table = "CREATE TABLE t(k INTEGER PRIMARY KEY, v);";
        let base = of(&format!("{table} INSERT INTO t VALUES (1, 'a'), (2, 1.5), (3, x'00ff'), (4, NULL)"));
        let turned = of(&format!("{table} INSERT INTO t VALUES (4, NULL), (3, x'00ff'), (2, 1.5), (1, 'a')"));
        assert_eq!(base, turned);
        for values in [
            "(1, 'b'), (2, 1.5), (3, x'00ff'), (4, NULL)",
            "(1, 'a'), (2, 1.5000000000000002), (3, x'00ff'), (4, NULL)",
            "(1, 'a'), (2, 1.5), (3, x'00fe'), (4, NULL)",
            "(1, 'a'), (2, 1.5), (3, x'00ff'), (4, '')",
            "(1, x'61'), (2, 1.5), (3, x'00ff'), (4, NULL)",
            "(1, 'a'), (2, '1.5'), (3, x'00ff'), (4, NULL)",
            "(1, 'a'), (2, 1.5), (3, x'00ff')",
        ] {
            let other = of(&format!("{table} INSERT INTO t VALUES {values}"));
            assert_ne!(base.items["t"], other.items["t"], "{values}");
            assert_eq!(base.items[SCHEMA_ITEM], other.items[SCHEMA_ITEM]);
        }
    }

    #[test]
    fn values_may_not_move_between_columns_or_rows() {
        let table = "CREATE TABLE t(a, b) ;";
        let left = of(&format!("{table} INSERT INTO t(rowid, a, b) VALUES (1, 'ab', 'c'), (2, 'x', 'y')"));
        let shifted = of(&format!("{table} INSERT INTO t(rowid, a, b) VALUES (1, 'a', 'bc'), (2, 'x', 'y')"));
        let swapped = of(&format!("{table} INSERT INTO t(rowid, a, b) VALUES (2, 'ab', 'c'), (1, 'x', 'y')"));
        assert_ne!(left, shifted);
        assert_ne!(left, swapped);
    }

    #[test]
    fn negative_zero_and_text_after_nul_are_seen() {
        let with = |value: &dyn rusqlite::ToSql| {
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch("CREATE TABLE t(v)").unwrap();
            connection.execute("INSERT INTO t VALUES (?1)", [value]).unwrap();
            read(&connection, Path::new(":memory:"), &Brake::default()).unwrap()
        };
        assert_ne!(with(&"a\0b"), with(&"a\0c"));
        assert_ne!(with(&"a\0b"), with(&"a"));
        // SQLite itself stores NaN as NULL
        assert_eq!(with(&f64::NAN), with(&rusqlite::types::Null));
        assert_ne!(with(&0_i64), with(&0.5_f64));
    }

    #[test]
    fn every_sort_of_table_is_read() {
        let found = of("CREATE TABLE a(rowid TEXT, _rowid_ TEXT, oid TEXT); INSERT INTO a VALUES (1, 2, 3);\
             CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO b VALUES ('k', 1);\
             CREATE TABLE \"we\"\"ird na'me\"(rowid); INSERT INTO \"we\"\"ird na'me\" VALUES (1);\
             CREATE TABLE g(a, b AS (a * 2), c AS (a + 1) STORED); INSERT INTO g(a) VALUES (3);\
             CREATE VIRTUAL TABLE f USING fts5(text); INSERT INTO f VALUES ('hello');\
             CREATE TABLE s(k INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO s VALUES (9);\
             CREATE TABLE lifeboat_canary(seq); INSERT INTO lifeboat_canary VALUES (1); CREATE INDEX i ON a(oid);\
             CREATE VIEW v AS SELECT 1; ANALYZE");
        let names: Vec<&str> = found.items.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "a",
                "b",
                "f_config",
                "f_content",
                "f_data",
                "f_docsize",
                "f_idx",
                "g",
                "s",
                "sqlite_schema",
                "sqlite_sequence",
                "we\"ird na'me"
            ]
        );
        assert_eq!(found.items["f_content"].count, 1);
    }
}
