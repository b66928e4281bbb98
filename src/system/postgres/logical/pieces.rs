//! The rows of a stored artifact, in pieces that fit into one message to a server.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::data::TRAILER;
use super::toc::PartToc;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::ByteStream;

/// Sent to the server in one message.
const PIECE_BYTES: usize = 1024 * 1024;

/// The rows of an artifact, without the SQL around them, in pieces of bounded size.
pub struct RowPieces<'a> {
    stream: ByteStream,
    part: &'a PartToc,
    skip: u64,
    left: u64,
    chunk: Bytes,
    tail: BytesMut,
}

impl<'a> RowPieces<'a> {
    pub fn new(stream: ByteStream, part: &'a PartToc) -> Self {
        let around = part.header_bytes + TRAILER.len() as u64;
        Self {
            stream,
            part,
            skip: part.header_bytes,
            left: part.bytes.saturating_sub(around),
            chunk: Bytes::new(),
            tail: BytesMut::new(),
        }
    }

    /// `Corrupt` when the artifact is shorter, longer or ends otherwise than its entry says.
    pub async fn next(&mut self, job: &JobContext) -> Result<Option<Bytes>> {
        loop {
            if self.left > 0 && !self.chunk.is_empty() {
                let most = usize::try_from(self.left).unwrap_or(PIECE_BYTES);
                let piece = self.chunk.split_to(most.min(PIECE_BYTES).min(self.chunk.len()));
                self.left -= piece.len() as u64;
                return Ok(Some(piece));
            }
            self.tail.extend_from_slice(&std::mem::take(&mut self.chunk));
            if self.tail.len() > TRAILER.len() {
                return Err(self.corrupt("it goes on behind its end"));
            }
            let read = async { self.stream.next().await.transpose() };
            match job.run("read artifact", read).await? {
                None if self.left == 0 && &self.tail[..] == TRAILER.as_bytes() => return Ok(None),
                None => return Err(self.corrupt("it ends too early")),
                Some(chunk) => {
                    let over = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
                    self.skip -= over as u64;
                    self.chunk = chunk.slice(over..);
                }
            }
        }
    }

    fn corrupt(&self, why: &str) -> Error {
        Error::new(ErrorKind::Corrupt, "read rows of an artifact").with("artifact", &self.part.file).why(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces(chunks: &[&'static str], bytes: u64) -> Result<String> {
        let part = PartToc { file: "x".to_owned(), bytes, header_bytes: 4, rows: 0, hash: String::new() };
        let chunks: Vec<Result<Bytes>> =
            chunks.iter().map(|c| Ok(Bytes::from_static(c.as_bytes()))).collect();
        let job = JobContext::plain();
        let mut rows = RowPieces::new(futures_util::stream::iter(chunks).boxed(), &part);
        let mut all = String::new();
        while let Some(piece) = rows.next(&job).await? {
            all.push_str(std::str::from_utf8(&piece).unwrap());
        }
        Ok(all)
    }

    #[tokio::test]
    async fn only_rows_are_taken_out_of_an_artifact_however_it_is_cut() {
        for chunks in [
            &["HEAD1\n2\n\\.\n"][..],
            &["HE", "AD1", "\n2\n\\", ".", "\n"],
            &["", "HEAD", "1\n2\n", "", "\\.\n"],
        ] {
            assert_eq!(pieces(chunks, 11).await.unwrap(), "1\n2\n");
        }
    }

    #[tokio::test]
    async fn an_artifact_that_is_cut_off_or_goes_on_is_corrupt() {
        for chunks in [&["HEAD1\n2\n"][..], &["HEAD1\n2\n\\."], &["HEAD1\n2\n\\.\nDROP"], &["HEAD"]] {
            assert_eq!(pieces(chunks, 11).await.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
