//! Application checks: one reading command, written as in `redis-cli`. A leading `@N` selects a database.

use async_trait::async_trait;

use super::connection::Connection;
use super::{RedisSystem, needs_server, server};
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::Queries;

/// Commands that read nothing from the keys and change nothing, so that the server does not call them reading.
const HARMLESS: [&str; 6] = ["ping", "info", "time", "echo", "lastsave", "dbsize"];

#[async_trait]
impl Queries for RedisSystem {
    async fn ask(&self, place: &Place, query: &str, job: &JobContext) -> Result<String> {
        let (db, line) = split_database(query)?;
        let words = split_words(line)?;
        let endpoint = self.endpoint(place).ok_or_else(|| needs_server("ask a query of files"))?;
        let mut connection = endpoint.connect(job).await?;
        check_harmless(&mut connection, &words, job).await?;
        if db != 0 {
            server::select(&mut connection, db, job).await?;
        }
        let command: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        Ok(connection.call(&command, job).await?.to_text())
    }
}

async fn check_harmless(connection: &mut Connection, words: &[Vec<u8>], job: &JobContext) -> Result<()> {
    let name = words.first().map(Vec::as_slice).unwrap_or_default();
    let shown = String::from_utf8_lossy(name).to_ascii_lowercase();
    if HARMLESS.contains(&shown.as_str()) {
        return Ok(());
    }
    let reply = connection.call(&[b"COMMAND", b"INFO", name], job).await?;
    let flags = reply.items().first().map(super::resp::Reply::items).unwrap_or_default().get(2);
    let reads = flags.is_some_and(|f| f.items().iter().any(|flag| flag.to_text() == "readonly"));
    if reads {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "run a command that does not only read")
        .with("command", shown)
        .hint("checks may only use commands that read, such as GET, HGET, LLEN, ZCARD, EXISTS"))
}

fn split_database(query: &str) -> Result<(u64, &str)> {
    let query = query.trim();
    let Some(rest) = query.strip_prefix('@') else {
        return Ok((0, query));
    };
    let (number, line) = rest.split_once(' ').unwrap_or((rest, ""));
    match number.parse() {
        Ok(db) => Ok((db, line)),
        Err(e) => Err(bad_query("the database is not a number").with("given", number).because(e)),
    }
}

fn bad_query(why: &str) -> Error {
    Error::new(ErrorKind::Config, "read query")
        .why(why)
        .hint("write one command as in redis-cli, for example: @2 HGET user:1 \"full name\"")
}

/// Splits at blanks; `'..'` is literal, `".."` knows `\n \r \t \\ \" \xHH`.
fn split_words(line: &str) -> Result<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes().peekable();
    loop {
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
        if bytes.peek().is_none() {
            break;
        }
        let mut word = Vec::new();
        while let Some(byte) = bytes.next_if(|b| !b.is_ascii_whitespace()) {
            match byte {
                b'\'' => loop {
                    match bytes.next() {
                        Some(b'\'') => break,
                        Some(b) => word.push(b),
                        None => return Err(bad_query("a quote is not closed")),
                    }
                },
                b'"' => loop {
                    match bytes.next() {
                        Some(b'"') => break,
                        Some(b'\\') => word.push(escaped(&mut bytes)?),
                        Some(b) => word.push(b),
                        None => return Err(bad_query("a quote is not closed")),
                    }
                },
                b => word.push(b),
            }
        }
        words.push(word);
    }
    if words.is_empty() {
        return Err(bad_query("there is no command"));
    }
    Ok(words)
}

fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8> {
    let mut next = || bytes.next().ok_or_else(|| bad_query("a quote is not closed"));
    Ok(match next()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'x' => {
            let digits = [next()?, next()?];
            let text = std::str::from_utf8(&digits).unwrap_or_default();
            u8::from_str_radix(text, 16).map_err(|e| bad_query("\\x needs two hex digits").because(e))?
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_split_as_redis_cli_splits_it() {
        let words = split_words(r#" get 'a b'  "c\x41\n\"" "" d'e'f "#).unwrap();
        let expected: [&[u8]; 5] = [b"get", b"a b", b"cA\n\"", b"", b"def"];
        assert_eq!(words, expected);
        for bad in ["", "get 'a", "get \"a", r#"get "\xzz""#] {
            assert!(split_words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_leading_number_selects_the_database() {
        assert_eq!(split_database("@12 dbsize").unwrap(), (12, "dbsize"));
        assert_eq!(split_database("get @1").unwrap(), (0, "get @1"));
        assert!(split_database("@x get").is_err());
    }
}
