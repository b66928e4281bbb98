//! Which relations of a database hold content, and how to ask for their rows.
//!
//! Names, columns and conditions come from the catalog inside the caller's transaction; generated columns are left out, as
//! they are computed again when rows are loaded.

use super::{Client, quote_ident, readable};
use crate::domain::backup::Digest;
use crate::error::{Error, Result};
use crate::runtime::JobContext;

/// Sequences asked for in one statement.
const SEQUENCES_AT_ONCE: usize = 100;

/// Which relations count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Every table, materialized view and sequence that is there.
    Everything,
    /// As `Everything`, without unlogged tables: recovery from files leaves those empty.
    WithoutUnlogged,
    /// What a logical backup carries: of extensions only configuration rows; materialized views are computed again.
    Portable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary table or a leaf partition.
    Table,
    MaterializedView,
    Sequence,
}

/// One relation with content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: Kind,
    /// In their order, without generated ones.
    pub columns: Vec<String>,
    /// ` WHERE ..` of an extension's configuration table.
    pub condition: Option<String>,
    /// With TOAST, without indexes.
    pub bytes: u64,
    /// Blocks of the main file; 0 when rows cannot be asked for by block range.
    pub blocks: u64,
}

impl Relation {
    /// `"schema"."name"`.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// Key in a fingerprint, without the database.
    pub fn item(&self) -> String {
        let prefix = match self.kind {
            Kind::Table => "",
            Kind::MaterializedView => "matview:",
            Kind::Sequence => "sequence:",
        };
        format!("{prefix}{}", self.readable_name())
    }

    pub fn readable_name(&self) -> String {
        format!("{}.{}", readable(&self.schema), readable(&self.name))
    }

    /// ` ("a", "b")`, or nothing for a table without columns to load.
    pub fn column_list(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        format!(" ({})", self.quoted_columns())
    }

    fn quoted_columns(&self) -> String {
        let quoted: Vec<String> = self.columns.iter().map(|c| quote_ident(c)).collect();
        quoted.join(", ")
    }

    /// The query for all rows, or for those of a part.
    pub fn query(&self, part: Option<BlockRange>) -> String {
        let mut query = format!("SELECT {} FROM ONLY {}", self.quoted_columns(), self.sql_name());
        if let Some(condition) = &self.condition {
            query.push(' ');
            query.push_str(condition);
        } else if let Some(range) = part {
            query.push_str(&range.condition());
        }
        query
    }

    /// Cuts a table so that no part is much larger than `bytes_max`; one part when it cannot or need not be cut.
    pub fn parts(&self, bytes_max: u64, parts_max: u64) -> Vec<Option<BlockRange>> {
        let wanted = self.bytes.div_ceil(bytes_max.max(1)).min(parts_max);
        let parts = wanted.min(self.blocks);
        if parts < 2 {
            return vec![None];
        }
        let each = self.blocks.div_ceil(parts);
        let starts: Vec<u64> = (0..parts).map(|n| n * each).filter(|s| *s < self.blocks).collect();
        let end_of = |n: usize| starts.get(n + 1).copied();
        starts.iter().enumerate().map(|(n, from)| Some(BlockRange { from: *from, to: end_of(n) })).collect()
    }
}

/// Blocks of a heap; the last range is open, so that rows behind the size that was seen belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    pub from: u64,
    pub to: Option<u64>,
}

impl BlockRange {
    fn condition(self) -> String {
        let from = format!(" WHERE ctid >= '({},0)'::pg_catalog.tid", self.from);
        match self.to {
            Some(to) => format!("{from} AND ctid < '({to},0)'::pg_catalog.tid"),
            None => from,
        }
    }
}

/// Relations outside the system's schemas, with what an extension says about its own.
const RELATIONS: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       d.refobjid IS NOT NULL AS of_extension, cfg.rel IS NOT NULL AS configuration, cfg.condition,
       COALESCE((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
                '{}'::text[]) AS columns,
       CASE WHEN c.relkind = 'S' THEN 0 ELSE COALESCE(pg_table_size(c.oid), 0) END AS bytes,
       CASE WHEN am.amname = 'heap'
            THEN COALESCE(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint ELSE 0 END AS blocks
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am am ON am.oid = c.relam
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                     AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
LEFT JOIN LATERAL (SELECT u.rel, u.condition
                   FROM pg_extension e, unnest(e.extconfig, e.extcondition) u(rel, condition)
                   WHERE e.oid = d.refobjid AND u.rel = c.oid) cfg ON true
WHERE (c.relkind IN ('r', 'S') OR (c.relkind = 'm' AND c.relispopulated))
  AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname";

/// Lists what has content, in order of names. The heartbeat's schema is included: callers that compare leave it out.
pub async fn list_relations(client: &Client, coverage: Coverage, job: &JobContext) -> Result<Vec<Relation>> {
    let rows = client.rows(job, "list tables", RELATIONS, &[]).await?;
    // ranges of row addresses are read without reading the rest of the table since version 14
    let ranges = client.major() >= 14;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let kind = match row.get::<_, &str>(3) {
            "r" => Kind::Table,
            "m" => Kind::MaterializedView,
            _ => Kind::Sequence,
        };
        let (unlogged, of_extension, configuration) =
            (row.get::<_, &str>(4) == "u", row.get::<_, bool>(5), row.get::<_, bool>(6));
        let covered = match coverage {
            Coverage::Everything => true,
            Coverage::WithoutUnlogged => !unlogged,
            Coverage::Portable => kind != Kind::MaterializedView && (!of_extension || configuration),
        };
        let condition: Option<String> = match coverage {
            Coverage::Portable => row.get(7),
            Coverage::Everything | Coverage::WithoutUnlogged => None,
        };
        let number = |n: usize| u64::try_from(row.get::<_, i64>(n)).unwrap_or(0);
        if covered {
            found.push(Relation {
                oid: row.get(0),
                schema: row.get(1),
                name: row.get(2),
                kind,
                columns: row.get(8),
                condition: condition.filter(|c| !c.trim().is_empty()),
                bytes: number(9),
                blocks: if ranges { number(10) } else { 0 },
            });
        }
    }
    Ok(found)
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceState {
    pub last_value: i64,
    /// False: the next value is `last_value` itself.
    pub is_called: bool,
}

impl SequenceState {
    pub fn digest(self) -> Digest {
        Digest { count: 1, hash: format!("{:016x}{:02x}", self.last_value, u8::from(self.is_called)) }
    }
}

/// What [`SequenceState::digest`] wrote; `None` when it is no sequence's digest.
pub fn sequence_state(digest: &Digest) -> Option<SequenceState> {
    let (value, called) = (digest.hash.get(..16)?, digest.hash.get(16..)?);
    Some(SequenceState {
        last_value: u64::from_str_radix(value, 16).ok()?.cast_signed(),
        is_called: match called {
            "00" => false,
            "01" => true,
            _ => return None,
        },
    })
}

/// The state of every sequence among `relations`. Sequences know no snapshots: each is read as it stands now.
pub async fn read_sequences(
    client: &Client,
    relations: &[Relation],
    job: &JobContext,
) -> Result<Vec<(Relation, SequenceState)>> {
    let sequences: Vec<&Relation> = relations.iter().filter(|r| r.kind == Kind::Sequence).collect();
    let mut states = Vec::with_capacity(sequences.len());
    for group in sequences.chunks(SEQUENCES_AT_ONCE) {
        let selects: Vec<String> = group
            .iter()
            .enumerate()
            .map(|(n, s)| format!("SELECT {n}, last_value, is_called FROM {}", s.sql_name()))
            .collect();
        let query = selects.join(" UNION ALL ");
        for row in client.rows(job, "read sequences", &query, &[]).await? {
            let index = usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX);
            let relation = group.get(index).ok_or_else(|| Error::bug("read sequences"))?;
            let state = SequenceState { last_value: row.get(1), is_called: row.get(2) };
            states.push(((*relation).clone(), state));
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bytes: u64, blocks: u64) -> Relation {
        Relation {
            oid: 1,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            kind: Kind::Table,
            columns: vec!["a".to_owned()],
            condition: None,
            bytes,
            blocks,
        }
    }

    #[test]
    fn parts_cover_every_block_once_and_the_last_is_open() {
        for (bytes, blocks) in [(0, 0), (8192, 1), (100, 7), (1000, 10), (1000, 3), (u64::MAX, 1000)] {
            let parts = table(bytes, blocks).parts(100, 64);
            assert!(parts.len() <= 64 && !parts.is_empty());
            if let [None] = parts.as_slice() {
                continue;
            }
            let ranges: Vec<BlockRange> = parts.into_iter().map(Option::unwrap).collect();
            assert_eq!(ranges[0].from, 0);
            assert_eq!(ranges[ranges.len() - 1].to, None);
            assert!(ranges.windows(2).all(|w| w[0].to == Some(w[1].from)));
        }
    }

    #[test]
    fn the_state_of_a_sequence_survives_its_digest() {
        for last_value in [0, 1, -1, i64::MIN, i64::MAX] {
            for is_called in [false, true] {
                let state = SequenceState { last_value, is_called };
                assert_eq!(sequence_state(&state.digest()), Some(state));
            }
        }
    }
}
