//! Order-free digests of rows, taken from the very text that `COPY .. TO STDOUT` sends.
//!
//! A digest is the number of rows and the wrapping sum of the 128-bit xxh3 of every row's text without its line break, so
//! neither the order of rows nor the way chunks cut them matters, and parts of a table add up. The text of a row depends
//! on the session: use connections of [`super::client::Connector`], and call [`pin_text`] once per transaction.
//!
//! For callers outside logical backups:
//! - [`digest_database`]`(&[client, ..], Coverage::.., job)` gives `item name -> Digest` of one database, on as many
//!   connections as are passed. Items: `schema.table`, `matview:schema.name`, `sequence:schema.name`, `large objects`;
//!   names that are not plain identifiers are quoted. Callers put `database/` in front ([`database_key`]).
//! - [`sequence_state`] reads a sequence's digest back, since recovery may leave sequences up to 32 values ahead.
//! - Every client must be inside a transaction that fixes what it sees (`REPEATABLE READ READ ONLY`).

mod relations;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_postgres::CopyOutStream;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

pub use self::relations::{
    BlockRange, Coverage, Kind, Relation, SequenceState, list_relations, read_sequences, sequence_state,
};
use super::client::{Client, server_error};
use crate::domain::backup::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// Stands in `Fingerprint::algorithm`.
pub const ALGORITHM: &str = "xxh3-128-sum-of-copy-text-rows/1";
/// Rows are handed on in chunks of about this size.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Item name of all large objects of a database together.
pub const LARGE_OBJECTS: &str = "large objects";
/// Schema of the heartbeat records: they move on while a copy is looked at.
pub const CANARY_SCHEMA: &str = "lifeboat";

/// Count and sum over rows; adds up over the parts of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    pub count: u64,
    pub sum: u128,
}

impl RowSum {
    fn add_row(&mut self, hash: u128) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, sum: self.sum.wrapping_add(other.sum) }
    }

    pub fn digest(self) -> Digest {
        Digest { count: self.count, hash: format!("{:032x}", self.sum) }
    }
}

/// Hashes rows as chunks of COPY text pass. Chunks may cut rows anywhere; memory does not grow with a row.
#[derive(Default)]
pub struct RowHasher {
    total: RowSum,
    /// A row whose end has not come yet.
    open: Option<Box<Xxh3>>,
}

impl std::fmt::Debug for RowHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowHasher").field("total", &self.total).finish_non_exhaustive()
    }
}

impl RowHasher {
    /// COPY text escapes every line break inside a value, so a line break always ends a row.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        if let Some(mut open) = self.open.take() {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                open.update(rest);
                self.open = Some(open);
                return;
            };
            open.update(&rest[..end]);
            self.total.add_row(open.digest128());
            rest = &rest[end + 1..];
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', rest) {
            self.total.add_row(xxh3_128(&rest[start..end]));
            start = end + 1;
        }
        if start < rest.len() {
            let mut open = Box::new(Xxh3::new());
            open.update(&rest[start..]);
            self.open = Some(open);
        }
    }

    /// `Corrupt` when the last row has no end.
    pub fn finish(self) -> Result<RowSum> {
        match self.open {
            None => Ok(self.total),
            Some(_) => Err(Error::new(ErrorKind::Corrupt, "hash rows")
                .with("whole_rows", self.total.count)
                .why("the text ends inside a row")),
        }
    }
}

/// Rows of one `COPY .. TO STDOUT` in chunks of whole rows.
pub struct RowStream {
    stream: Pin<Box<CopyOutStream>>,
    ended: bool,
}

impl std::fmt::Debug for RowStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl RowStream {
    pub async fn open(client: &Client, copy: &str, job: &JobContext) -> Result<Self> {
        let start = async { client.copy_out(copy).await.map_err(|e| server_error("read rows", e)) };
        Ok(Self { stream: Box::pin(job.run("read rows", start).await?), ended: false })
    }

    /// About [`CHUNK_BYTES`] of whole rows (more when one row is larger); `None` only after the server said that it has sent all.
    pub async fn next(&mut self, job: &JobContext) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let chunk = job.run("read rows", self.collect()).await?;
        self.ended = chunk.len() < CHUNK_BYTES;
        if chunk.is_empty() {
            return Ok(None);
        }
        job.progress().advance(chunk.len() as u64);
        Ok(Some(chunk))
    }

    /// Shorter than [`CHUNK_BYTES`] only at the end.
    async fn collect(&mut self) -> Result<Bytes> {
        let mut chunk = BytesMut::new();
        while let Some(row) = self.stream.next().await {
            let row = row.map_err(|e| server_error("read rows", e))?;
            if chunk.is_empty() {
                if row.len() >= CHUNK_BYTES {
                    return Ok(row);
                }
                chunk.reserve(CHUNK_BYTES + CHUNK_BYTES / 8);
            }
            chunk.extend_from_slice(&row);
            if chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
        Ok(chunk.freeze())
    }
}

/// Settings that change the text of values and are not part of the connection's startup. Call first in every transaction.
pub async fn pin_text(client: &Client, job: &JobContext) -> Result<()> {
    let settings = "SET LOCAL lc_monetary = 'C'; SET LOCAL xmloption = 'content'; SET LOCAL standard_conforming_strings = on";
    client.execute_all(job, "fix text settings", settings).await
}

/// Digest of the rows that `query` gives.
pub async fn digest_query(client: &Client, query: &str, job: &JobContext) -> Result<RowSum> {
    let mut rows = RowStream::open(client, &format!("COPY ({query}) TO STDOUT"), job).await?;
    let mut hasher = RowHasher::default();
    while let Some(chunk) = rows.next(job).await? {
        hasher.feed(&chunk);
    }
    hasher.finish()
}

/// Digest of all rows of one table that `relation` covers.
pub async fn digest_table(client: &Client, relation: &Relation, job: &JobContext) -> Result<RowSum> {
    digest_query(client, &relation.query(None), job)
        .await
        .map_err(|e| e.during(format!("read {}", relation.sql_name())))
}

/// Number of large objects, hash over their pages and identities. `None` when the database has none.
pub async fn digest_large_objects(client: &Client, job: &JobContext) -> Result<Option<Digest>> {
    let objects = digest_query(client, "SELECT oid FROM pg_catalog.pg_largeobject_metadata", job).await?;
    if objects.count == 0 {
        return Ok(None);
    }
    let pages = digest_query(client, "SELECT loid, pageno, data FROM pg_catalog.pg_largeobject", job).await?;
    Ok(Some(large_objects_digest(objects, pages)))
}

pub fn large_objects_digest(objects: RowSum, pages: RowSum) -> Digest {
    Digest { count: objects.count, ..objects.plus(pages).digest() }
}

/// Every item of the database that `clients` are connected to; several connections share the tables between them.
pub async fn digest_database(
    clients: &[Client],
    coverage: Coverage,
    job: &JobContext,
) -> Result<BTreeMap<String, Digest>> {
    let first = clients.first().ok_or_else(|| Error::bug("digest a database without a connection"))?;
    let mut relations = list_relations(first, coverage, job).await?;
    relations.retain(|r| r.schema != CANARY_SCHEMA);
    let sequences = read_sequences(first, &relations, job).await?;
    let mut items: BTreeMap<String, Digest> = sequences.iter().map(|(r, s)| (r.item(), s.digest())).collect();
    relations.retain(|r| r.kind != Kind::Sequence);
    relations.sort_by_key(|r| r.bytes);
    let queue = Mutex::new(relations);
    let done = Mutex::new(BTreeMap::new());
    let work = clients.iter().map(|client| async {
        pin_text(client, job).await?;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(relation) = next else { return Ok(()) };
            let digest = digest_table(client, &relation, job).await?.digest();
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(relation.item(), digest);
        }
    });
    futures_util::future::try_join_all(work).await.map(drop)?;
    items.append(&mut done.into_inner().unwrap_or_else(PoisonError::into_inner));
    if let Some(digest) = digest_large_objects(first, job).await? {
        items.insert(LARGE_OBJECTS.to_owned(), digest);
    }
    Ok(items)
}

/// Fingerprint key of an item of a database.
pub fn database_key(database: &str, item: &str) -> String {
    format!("{}/{item}", readable(database))
}

/// As it must stand in SQL.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// As it must stand in SQL, whatever `standard_conforming_strings` is.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Quoted only where it is not a plain identifier: for keys and people, not for SQL.
pub fn readable(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { quote_ident(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(chunks: &[&[u8]]) -> RowSum {
        let mut hasher = RowHasher::default();
        for chunk in chunks {
            hasher.feed(chunk);
        }
        hasher.finish().unwrap()
    }

    proptest::proptest! {
        #[test]
        fn a_digest_depends_neither_on_cuts_nor_on_order(
            rows in proptest::collection::vec("[a-z\\\\\t]{0,20}", 0..20),
            cuts in proptest::collection::vec(0_usize..400, 0..10),
        ) {
            let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
            let whole = sum(&[text.as_bytes()]);
            let mut at: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            proptest::prop_assert_eq!(whole, sum(&pieces));
            let reversed: String = rows.iter().rev().map(|r| format!("{r}\n")).collect();
            proptest::prop_assert_eq!(whole, sum(&[reversed.as_bytes()]));
            proptest::prop_assert_eq!(whole.count, rows.len() as u64);
        }
    }

    #[test]
    fn a_changed_a_doubled_and_a_swapped_row_are_seen() {
        let base = sum(&[b"1\ta\n2\tb\n"]);
        assert_ne!(base, sum(&[b"1\ta\n2\tc\n"]));
        assert_ne!(base, sum(&[b"1\ta\n2\tb\n2\tb\n"]));
        assert_ne!(base, sum(&[b"1\tb\n2\ta\n"]));
        // sums do not cancel out as exclusive-or would
        assert_ne!(sum(&[b"x\nx\n"]), sum(&[b"y\ny\n"]));
    }

    #[test]
    fn a_row_without_an_end_is_corrupt() {
        let mut hasher = RowHasher::default();
        hasher.feed(b"1\n2");
        assert_eq!(hasher.finish().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn names_are_quoted_so_that_no_two_keys_meet() {
        assert_eq!(database_key("shop", "public.orders"), "shop/public.orders");
        assert_eq!(database_key("a/b", &format!("{}.x", readable("s.t"))), "\"a/b\"/\"s.t\".x");
        assert_eq!(quote_literal("a\\'b"), " E'a\\\\''b'");
    }
}
