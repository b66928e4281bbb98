//! Content: rows, sequences and large objects, hashed as they pass on their way into the backup.

use bytes::Bytes;

use super::dump::write;
use super::toc::{File, PartToc, artifact};
use crate::domain::backup::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::Client;
use crate::system::postgres::rows::{
    BlockRange, Relation, RowHasher, RowStream, RowSum, SequenceState, digest_query, large_objects_digest,
    quote_ident,
};
use crate::system::{ArtifactWriter, BackupSink};

/// Stands before every artifact with content, so that each loads alone and means the same everywhere.
pub const PREAMBLE: &str = "\
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET default_transaction_read_only = off;
SET row_security = off;
SET search_path = '';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET lc_monetary = 'C';
SET xmloption = 'content';
SET xmlbinary = 'base64';
";
/// Ends the rows of an artifact.
pub const TRAILER: &str = "\\.\n";
/// Statements of sequences are written in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;
/// Pages of a large object written by one statement: 64 KiB with the usual block size.
const PAGES_AT_ONCE: usize = 32;

/// `COPY "s"."t" ("a") FROM stdin ..;`: values are in UTF-8, except where the database knows no encoding.
pub fn copy_statement(table: &str, column_list: &str, encoding: &str) -> String {
    let encoding = if encoding == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" };
    format!("COPY {table}{column_list} FROM stdin WITH (ENCODING '{encoding}');\n")
}

/// A table, or a range of its blocks, as one artifact.
#[derive(Debug)]
pub struct PartJob<'a> {
    pub relation: &'a Relation,
    pub part: Option<BlockRange>,
    pub file: String,
    pub encoding: &'a str,
}

impl PartJob<'_> {
    pub async fn run(
        &self,
        client: &Client,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<(PartToc, RowSum)> {
        let work = self.copy(client, sink, job).await;
        work.map_err(|e| e.during(format!("back up rows of {}", self.relation.readable_name())))
    }

    async fn copy(
        &self,
        client: &Client,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<(PartToc, RowSum)> {
        let table = self.relation.sql_name();
        let header =
            format!("{PREAMBLE}{}", copy_statement(&table, &self.relation.column_list(), self.encoding));
        let header_bytes = header.len() as u64;
        let copy = format!("COPY ({}) TO STDOUT", self.relation.query(self.part));
        let mut rows = RowStream::open(client, &copy, job).await?;
        let mut writer = sink.artifact(&artifact(&self.file)?).await?;
        write(&mut writer, header.into(), job).await?;
        let mut hasher = RowHasher::default();
        while let Some(chunk) = rows.next(job).await? {
            hasher.feed(&chunk);
            write(&mut writer, chunk, job).await?;
        }
        write(&mut writer, Bytes::from_static(TRAILER.as_bytes()), job).await?;
        let sum = hasher.finish()?;
        job.progress().add_items(sum.count);
        let stored = job.run("finish artifact", writer.finish()).await?;
        let part = PartToc {
            file: self.file.clone(),
            bytes: stored.raw_bytes,
            header_bytes,
            rows: sum.count,
            hash: sum.digest().hash,
        };
        Ok((part, sum))
    }
}

/// `setval` for every sequence.
pub async fn write_sequences(
    database: u32,
    states: &[(Relation, SequenceState)],
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<()> {
    let mut out = Lines::open(sink, &File::Sequences.of(database), job).await?;
    for (relation, state) in states {
        out.push(
            &format!(
                "SELECT pg_catalog.setval({}, {}, {});\n",
                one_line_literal(&relation.sql_name()),
                state.last_value,
                state.is_called
            ),
            job,
        )
        .await?;
    }
    out.finish(job).await
}

const OBJECTS: &str = "SELECT m.oid, pg_get_userbyid(m.lomowner)::text, obj_description(m.oid, 'pg_largeobject'), \
    COALESCE((SELECT array_agg(format('GRANT %s ON LARGE OBJECT %s TO %s%s;', a.privilege_type, m.oid, \
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)) \
      FROM aclexplode(m.lomacl) a), '{}') \
    FROM pg_largeobject_metadata m WHERE m.oid > $1 ORDER BY m.oid LIMIT 1000";

/// Every large object with owner, rights, comment and bytes. `None` when there is none.
pub async fn write_large_objects(
    client: &Client,
    database: u32,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<Option<Digest>> {
    let mut out = Lines::open(sink, &File::LargeObjects.of(database), job).await?;
    let mut last = 0_u32;
    loop {
        let rows = client.rows(job, "list large objects", OBJECTS, &[&last]).await?;
        let Some(newest) = rows.last() else { break };
        last = newest.get(0);
        for row in &rows {
            out.push(&object_line(row), job).await?;
        }
    }
    let objects = digest_query(client, "SELECT oid FROM pg_catalog.pg_largeobject_metadata", job).await?;
    if objects.count == 0 {
        out.finish(job).await?;
        return Ok(None);
    }
    let pages = write_pages(client, &mut out, job).await.map_err(|e| {
        e.during("back up large objects")
            .hint("reading large objects needs a superuser, or SELECT on pg_catalog.pg_largeobject")
    })?;
    out.finish(job).await?;
    Ok(Some(large_objects_digest(objects, pages)))
}

/// A literal without line breaks: what loads statements line by line need not understand SQL.
fn one_line_literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r");
    format!("E'{escaped}'")
}

fn object_line(row: &tokio_postgres::Row) -> String {
    let oid: u32 = row.get(0);
    let (owner, comment, grants): (String, Option<String>, Vec<String>) =
        (row.get(1), row.get(2), row.get(3));
    let mut line = format!(
        "SELECT pg_catalog.lo_create({oid}); ALTER LARGE OBJECT {oid} OWNER TO {};",
        quote_ident(&owner)
    );
    for grant in grants {
        line.push(' ');
        line.push_str(&grant);
    }
    if let Some(comment) = comment {
        let comment = one_line_literal(&comment);
        line.push_str(&format!(" COMMENT ON LARGE OBJECT {oid} IS {comment};"));
    }
    line.push('\n');
    line
}

/// Bytes of all large objects, page by page; full neighbours go into one statement.
async fn write_pages(client: &Client, out: &mut Lines, job: &JobContext) -> Result<RowSum> {
    let size = "SELECT (current_setting('block_size')::int / 4)::text";
    let page_bytes: u64 = client
        .text(job, "read block size", size)
        .await?
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| Error::bug("read block size"))?;
    let copy =
        "COPY (SELECT loid, pageno, data FROM pg_catalog.pg_largeobject ORDER BY loid, pageno) TO STDOUT";
    let mut rows = RowStream::open(client, copy, job).await?;
    let (mut hasher, mut run) = (RowHasher::default(), PageRun::default());
    while let Some(chunk) = rows.next(job).await? {
        hasher.feed(&chunk);
        for line in chunk.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let page = Page::parse(line).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "read page of a large object").why("it is not as expected")
            })?;
            if !run.takes(&page, page_bytes) {
                out.push(&run.statement(page_bytes), job).await?;
                run = PageRun::default();
            }
            run.add(&page);
        }
    }
    out.push(&run.statement(page_bytes), job).await?;
    hasher.finish()
}

struct Page<'a> {
    object: u32,
    number: u64,
    hex: &'a str,
}

impl<'a> Page<'a> {
    /// `loid TAB pageno TAB \\xHEX`.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(line).ok()?.split('\t');
        Some(Self {
            object: fields.next()?.parse().ok()?,
            number: fields.next()?.parse().ok()?,
            hex: fields.next()?.strip_prefix("\\\\x")?,
        })
    }
}

/// Neighbouring pages of one object.
#[derive(Default)]
struct PageRun {
    object: u32,
    first: u64,
    pages: usize,
    hex: String,
}

impl PageRun {
    fn takes(&self, page: &Page<'_>, page_bytes: u64) -> bool {
        let full = self.hex.len() as u64 == self.pages as u64 * page_bytes * 2;
        let next = self.object == page.object && self.first + self.pages as u64 == page.number;
        self.pages == 0 || (full && next && self.pages < PAGES_AT_ONCE)
    }

    fn add(&mut self, page: &Page<'_>) {
        if self.pages == 0 {
            (self.object, self.first) = (page.object, page.number);
        }
        self.pages += 1;
        self.hex.push_str(page.hex);
    }

    fn statement(&self, page_bytes: u64) -> String {
        if self.pages == 0 {
            return String::new();
        }
        let (object, offset, hex) = (self.object, self.first * page_bytes, &self.hex);
        format!("SELECT pg_catalog.lo_put({object}, {offset}, '\\x{hex}');\n")
    }
}

/// An artifact of statements, one a line after the preamble.
pub struct Lines {
    writer: Box<dyn ArtifactWriter>,
    pending: String,
}

impl Lines {
    pub async fn open(sink: &dyn BackupSink, file: &str, job: &JobContext) -> Result<Self> {
        let name = artifact(file)?;
        let opened = sink.artifact(&name);
        Ok(Self { writer: job.run("open artifact", opened).await?, pending: PREAMBLE.to_owned() })
    }

    pub async fn push(&mut self, line: &str, job: &JobContext) -> Result<()> {
        self.pending.push_str(line);
        if self.pending.len() < PIECE_BYTES {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.pending);
        write(&mut self.writer, piece.into(), job).await
    }

    pub async fn finish(mut self, job: &JobContext) -> Result<()> {
        write(&mut self.writer, self.pending.into(), job).await?;
        job.run("finish artifact", self.writer.finish()).await.map(drop)
    }
}
