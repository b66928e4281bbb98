//! A snapshot read from a server as a replica reads it: handshake, then the bytes of an RDB.
//!
//! The server needs no file access and notices nothing but a replica that comes and goes. An end of the connection
//! before the announced end is an error, never an end.

use std::time::Duration;

use bytes::Bytes;

use super::connection::{Connection, Endpoint};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// A server keeps a waiting replica alive with a byte a second; this much silence means that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const MARK_BYTES: usize = 40;

/// How the server makes the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Straight into the connection; the server may first wait for more replicas (`repl-diskless-sync-delay`).
    Diskless,
    /// Into a file of its own first; begins at once.
    Disk,
}

impl Transfer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Diskless => "diskless",
            Self::Disk => "disk",
        }
    }
}

#[derive(Debug)]
enum Framing {
    /// Ends with this mark.
    Mark([u8; MARK_BYTES]),
    /// So many bytes are still to come.
    Left(u64),
    Done,
}

#[derive(Debug)]
pub struct Snapshot {
    connection: Connection,
    framing: Framing,
    /// `replication id:offset` of the snapshot.
    pub position: String,
    /// Known when the server announces a length.
    pub bytes: Option<u64>,
}

impl Snapshot {
    /// Asks for a snapshot and waits until it begins.
    pub async fn begin(endpoint: &Endpoint, transfer: Transfer, job: &JobContext) -> Result<Self> {
        let mut connection = endpoint.connect(job).await?;
        connection.ask(&["PING"], job).await?;
        let capabilities: &[&str] = match transfer {
            Transfer::Diskless => &["REPLCONF", "capa", "eof", "capa", "psync2"],
            Transfer::Disk => &["REPLCONF", "capa", "psync2"],
        };
        connection.ask(capabilities, job).await?;
        // before 7.0 the server does not know it and sends its commands behind the snapshot, which nobody reads
        if let Err(error) = connection.ask(&["REPLCONF", "rdb-only", "1"], job).await {
            if error.kind() != ErrorKind::Failed {
                return Err(error);
            }
            tracing::debug!(%error, "server does not know rdb-only");
        }
        let mut request = Vec::new();
        super::resp::encode(&[b"PSYNC", b"?", b"-1"], &mut request);
        connection.send(&request, job).await?;
        let position = full_resync(&connection.line(SILENCE_MAX, job).await?)?;
        let announced = connection.line(SILENCE_MAX, job).await.map_err(given_up)?;
        let framing = framing(&announced)?;
        let bytes = match framing {
            Framing::Left(bytes) => Some(bytes),
            Framing::Mark(_) | Framing::Done => None,
        };
        Ok(Self { connection, framing, position, bytes })
    }

    /// The next bytes of the RDB; `None` only at its announced end.
    pub async fn next(&mut self, job: &JobContext) -> Result<Option<Bytes>> {
        loop {
            match self.ready() {
                Ready::Bytes(bytes) => return Ok(Some(bytes)),
                Ready::End => return Ok(None),
                Ready::Nothing => {}
            }
            let filled = self.connection.fill(SILENCE_MAX, job).await;
            filled.map_err(|e| {
                if e.kind() == ErrorKind::Unreachable { e.during("read the whole snapshot") } else { e }
            })?;
            job.progress().beat();
        }
    }

    /// What can be given out of what has come.
    fn ready(&mut self) -> Ready {
        let received = self.connection.received();
        match &mut self.framing {
            Framing::Done => Ready::End,
            Framing::Left(0) => {
                self.framing = Framing::Done;
                Ready::End
            }
            Framing::Left(left) => {
                let here = received.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                if here == 0 {
                    return Ready::Nothing;
                }
                *left -= here as u64;
                Ready::Bytes(received.split_to(here).freeze())
            }
            Framing::Mark(mark) => {
                if received.len() < MARK_BYTES {
                    return Ready::Nothing;
                }
                // the server sends nothing behind the mark until a replica has acknowledged, which we never do
                let body = received.len() - MARK_BYTES;
                if received[body..] == mark[..] {
                    self.framing = Framing::Done;
                    let rest = received.split_to(body).freeze();
                    received.clear();
                    return if rest.is_empty() { Ready::End } else { Ready::Bytes(rest) };
                }
                if body == 0 {
                    return Ready::Nothing;
                }
                Ready::Bytes(received.split_to(body).freeze())
            }
        }
    }
}

enum Ready {
    Bytes(Bytes),
    Nothing,
    End,
}

/// A server whose snapshot fails hangs up without a word. Another way of taking it may still work; if the server itself
/// is gone, that will tell.
fn given_up(error: Error) -> Error {
    if error.kind() != ErrorKind::Unreachable {
        return error;
    }
    Error::new(ErrorKind::Failed, "wait for the snapshot")
        .because(error)
        .hint("the server could not take a snapshot: look into its log for why its background save failed")
}

fn refused(line: &str) -> Error {
    let text = line.trim_start_matches('-');
    let (kind, hint) = match text.split(' ').next().unwrap_or_default() {
        "NOPERM" | "NOAUTH" => {
            (ErrorKind::Denied, "give the user the right with ACL SETUSER: +psync +replconf +ping")
        }
        "NOMASTERLINK" => (ErrorKind::Unreachable, "this replica has lost its master: back up the master"),
        "LOADING" => (ErrorKind::Unreachable, "the server is loading its data: try again later"),
        _ => (ErrorKind::Failed, "look into the server's log; MISCONF and fork errors are explained there"),
    };
    Error::new(kind, "begin replication").why(text).hint(hint)
}

fn full_resync(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["+FULLRESYNC", id, offset] => Ok(format!("{id}:{offset}")),
        _ if line.starts_with('-') => Err(refused(line)),
        _ => Err(Error::new(ErrorKind::Failed, "begin replication").why(format!("the server said {line}"))),
    }
}

fn framing(line: &str) -> Result<Framing> {
    if line.starts_with('-') {
        return Err(refused(line));
    }
    if let Some(mark) = line.strip_prefix("$EOF:") {
        return match <[u8; MARK_BYTES]>::try_from(mark.as_bytes()) {
            Ok(mark) => Ok(Framing::Mark(mark)),
            Err(e) => Err(Error::new(ErrorKind::Corrupt, "read the mark of the end").because(e)),
        };
    }
    line.strip_prefix('$')
        .and_then(|n| n.parse().ok())
        .map(Framing::Left)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "read the announced length").with("line", line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_announcing_a_snapshot_are_understood() {
        assert!(matches!(framing("$1234").unwrap(), Framing::Left(1234)));
        let mark = "0123456789abcdef0123456789abcdef01234567";
        assert!(matches!(framing(&format!("$EOF:{mark}")).unwrap(), Framing::Mark(_)));
        assert!(framing("$EOF:short").is_err());
        assert!(framing("hello").is_err());
        assert_eq!(full_resync("+FULLRESYNC abc 17").unwrap(), "abc:17");
    }

    #[test]
    fn a_refusal_says_what_it_means() {
        let kind = |line: &str| full_resync(line).unwrap_err().kind();
        assert_eq!(kind("-NOPERM no permissions"), ErrorKind::Denied);
        assert_eq!(kind("-NOMASTERLINK Can't SYNC"), ErrorKind::Unreachable);
        assert_eq!(framing("-ERR BGSAVE failed").unwrap_err().kind(), ErrorKind::Failed);
    }
}
