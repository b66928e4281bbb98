//! RESP2: commands to bytes, bytes to replies. No I/O; lengths from the peer never decide an allocation.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};

/// The server's own default limit (`proto-max-bulk-len`).
const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;
const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Nil,
    Array(Vec<Reply>),
}

pub fn encode(words: &[&[u8]], out: &mut Vec<u8>) {
    header(b'*', words.len(), out);
    for word in words {
        encode_word(word, out);
    }
}

/// Begins a command of `words` words, to be written one by one.
pub fn encode_start(words: usize, out: &mut Vec<u8>) {
    header(b'*', words, out);
}

pub fn encode_word(word: &[u8], out: &mut Vec<u8>) {
    header(b'$', word.len(), out);
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Begins a word of `len` bytes; the caller appends exactly that many and a line end.
pub fn encode_word_start(len: usize, out: &mut Vec<u8>) {
    header(b'$', len, out);
}

fn header(sign: u8, n: usize, out: &mut Vec<u8>) {
    out.push(sign);
    super::rdb::decimal::push(n as i64, out);
    out.extend_from_slice(b"\r\n");
}

/// Takes one whole reply from the front of `buffer`; `None` when it is not complete yet.
pub fn take_reply(buffer: &mut BytesMut) -> Result<Option<Reply>> {
    let mut cursor = Cursor { bytes: buffer, at: 0 };
    let reply = cursor.reply(0)?;
    let used = cursor.at;
    if reply.is_some() {
        buffer.advance(used);
    }
    Ok(reply)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn line(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.at..)?;
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        self.at += end + 2;
        rest.get(..end)
    }

    fn reply(&mut self, depth: usize) -> Result<Option<Reply>> {
        let Some(line) = self.line() else {
            return Ok(None);
        };
        let (sign, rest) = line.split_first().ok_or_else(|| broken("an empty line"))?;
        let text = std::str::from_utf8(rest).unwrap_or_default();
        let number = || text.parse::<i64>().map_err(|_| broken("a length"));
        match sign {
            b'+' => Ok(Some(Reply::Simple(text.to_owned()))),
            b'-' => Ok(Some(Reply::Error(text.to_owned()))),
            b':' => Ok(Some(Reply::Integer(number()?))),
            b'$' => {
                let len = number()?;
                self.bulk(len)
            }
            b'*' => {
                let len = number()?;
                self.array(len, depth)
            }
            _ => Err(broken("an unknown kind of reply")),
        }
    }

    fn bulk(&mut self, len: i64) -> Result<Option<Reply>> {
        let Ok(len) = usize::try_from(len) else {
            return Ok(Some(Reply::Nil));
        };
        if len > BULK_BYTES_MAX {
            return Err(broken("a value beyond the limit"));
        }
        if self.bytes.len() < self.at + len + 2 {
            return Ok(None);
        }
        let value = Bytes::copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len + 2;
        Ok(Some(Reply::Bulk(value)))
    }

    fn array(&mut self, len: i64, depth: usize) -> Result<Option<Reply>> {
        if depth >= DEPTH_MAX {
            return Err(broken("too deep a nesting"));
        }
        if len < 0 {
            return Ok(Some(Reply::Nil));
        }
        let mut items = Vec::new();
        for _ in 0..len {
            match self.reply(depth + 1)? {
                Some(item) => items.push(item),
                None => return Ok(None),
            }
        }
        Ok(Some(Reply::Array(items)))
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read a reply")
        .why(format!("the server sent {what}"))
        .hint("check that this is the port of a Redis server, with or without TLS as configured")
}

impl Reply {
    /// An error reply as an error whose kind says what it means.
    pub fn into_result(self, command: &[u8]) -> Result<Self> {
        match self {
            Self::Error(text) => Err(refusal(command, &text)),
            other @ (Self::Simple(_) | Self::Integer(_) | Self::Bulk(_) | Self::Nil | Self::Array(_)) => {
                Ok(other)
            }
        }
    }

    /// As a person would read it: arrays one line per item, nothing for nil.
    pub fn to_text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) => text.clone(),
            Self::Integer(n) => n.to_string(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Nil => String::new(),
            Self::Array(items) => {
                let lines: Vec<String> = items.iter().map(Self::to_text).collect();
                lines.join("\n")
            }
        }
    }

    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            Self::Simple(_) | Self::Error(_) | Self::Integer(_) | Self::Bulk(_) | Self::Nil => &[],
        }
    }

    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(n) => Some(*n),
            Self::Simple(_) | Self::Error(_) | Self::Bulk(_) | Self::Nil | Self::Array(_) => {
                self.to_text().parse().ok()
            }
        }
    }
}

fn refusal(command: &[u8], text: &str) -> Error {
    let code = text.split(' ').next().unwrap_or_default();
    let (kind, hint) = match code {
        "WRONGPASS" => (ErrorKind::Denied, "check `password` (and `user`) in the settings of this system"),
        "NOAUTH" => {
            (ErrorKind::Denied, "the server wants a password: set `password` in the settings of this system")
        }
        "NOPERM" => (
            ErrorKind::Denied,
            "give the user the right with ACL SETUSER: +psync +replconf +ping +info +config|get for backups",
        ),
        "DENIED" => (ErrorKind::Denied, "the server is in protected mode: set a password or bind it"),
        "READONLY" => (ErrorKind::Conflict, "the server is a replica: use its master, or REPLICAOF NO ONE"),
        "BUSYKEY" | "WRONGTYPE" => (ErrorKind::Conflict, ""),
        "OOM" => (ErrorKind::Exhausted, "raise maxmemory of the server"),
        "LOADING" | "MASTERDOWN" | "NOMASTERLINK" | "BUSY" => (ErrorKind::Unreachable, ""),
        _ if text.contains("invalid password") || text.contains("without any password") => {
            (ErrorKind::Denied, "check `password` (and `user`) in the settings of this system")
        }
        _ => (ErrorKind::Failed, ""),
    };
    let name = String::from_utf8_lossy(command).into_owned();
    let error = Error::new(kind, "carry out command").with("command", name).why(text);
    if hint.is_empty() { error } else { error.hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bytes: &[u8]) -> Result<Option<Reply>> {
        take_reply(&mut BytesMut::from(bytes))
    }

    #[test]
    fn replies_are_taken_whole_or_not_at_all() {
        let whole = b"*3\r\n$3\r\nabc\r\n:-7\r\n*1\r\n$-1\r\n";
        for cut in 0..whole.len() {
            assert_eq!(take(&whole[..cut]).unwrap(), None, "cut at {cut}");
        }
        let reply = take(whole).unwrap().unwrap();
        assert_eq!(reply.to_text(), "abc\n-7\n");
        assert_eq!(reply.items().len(), 3);
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_refused() {
        assert!(take(b"$99999999999\r\n").is_err());
        assert!(take("*1\r\n".repeat(40).as_bytes()).is_err());
        assert!(take(b"HTTP/1.1 400\r\n").is_err());
    }

    #[test]
    fn a_wrong_password_says_what_to_check() {
        let error = Reply::Error("WRONGPASS invalid username-password pair".to_owned())
            .into_result(b"AUTH")
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.advice().unwrap().contains("password"));
    }
}
