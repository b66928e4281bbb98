//! Cuts SQL scripts as `pg_dump` and `pg_dumpall` write them into pieces, without being fooled by what stands inside quotes.
//!
//! Expects `standard_conforming_strings = on`, which is asked for whenever a script is made. Lines for `psql` itself
//! (beginning with a backslash) belong to no piece.

/// One object of a script, as its comment names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `INDEX`, `CONSTRAINT`, `FK CONSTRAINT`, `TRIGGER`, ...
    pub kind: String,
    pub sql: String,
}

/// What `pg_dump` wrote for one section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Settings that every connection needs before any entry.
    pub preamble: String,
    pub entries: Vec<Entry>,
}

const NAME_MARK: &str = "-- Name: ";
const KIND_MARK: &str = "; Type: ";
/// Settings between entries hold for all that follow, whoever runs them.
const LASTING: [&str; 2] = ["SET default_tablespace = ", "SET default_table_access_method = "];

/// Cuts a section at the comments that name its objects.
pub fn parse(text: &str) -> Script {
    let mut script = Script::default();
    let mut lasting = [String::new(), String::new()];
    let starts: Vec<usize> = marks(text)
        .into_iter()
        .filter_map(|m| match m {
            Mark::Line(at) => Some(at),
            Mark::Semicolon(_) => None,
        })
        .collect();
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(text.len());
        let piece = &text[*start..end];
        if piece.starts_with('\\') {
            continue;
        }
        if let Some(kind) = piece.strip_prefix(NAME_MARK).and_then(kind_of) {
            script.entries.push(Entry { kind: kind.to_owned(), sql: lasting.concat() });
            continue;
        }
        if let Some(which) = LASTING.iter().position(|l| piece.starts_with(l)) {
            piece.clone_into(&mut lasting[which]);
            continue;
        }
        match script.entries.last_mut() {
            Some(entry) => entry.sql.push_str(piece),
            None => script.preamble.push_str(piece),
        }
    }
    script
}

/// The type in what follows `-- Name: `.
fn kind_of(rest: &str) -> Option<&str> {
    let after = &rest[rest.rfind(KIND_MARK)? + KIND_MARK.len()..];
    Some(after.split(';').next().unwrap_or(after).trim())
}

/// The statements of a script, without comments around them.
pub fn statements(text: &str) -> Vec<String> {
    let (mut found, mut current, mut from) = (Vec::new(), String::new(), 0);
    for mark in marks(text) {
        match mark {
            Mark::Line(at) => {
                current.push_str(&text[from..at]);
                from = at;
                let line = text[at..].split('\n').next().unwrap_or_default();
                if line.starts_with("--") || line.starts_with('\\') {
                    from = (at + line.len() + 1).min(text.len());
                }
            }
            Mark::Semicolon(at) => {
                current.push_str(&text[from.min(at)..=at]);
                from = at + 1;
                let statement = std::mem::take(&mut current).trim().to_owned();
                if statement != ";" {
                    found.push(statement);
                }
            }
        }
    }
    // a last one without its semicolon is not dropped: whoever runs it finds out what it is
    current.push_str(&text[from.min(text.len())..]);
    if !current.trim().is_empty() {
        found.push(current.trim().to_owned());
    }
    found
}

/// Reads one identifier as it stands in SQL; gives it and what follows.
pub fn identifier(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let end = rest.find('"')?;
            name.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => return Some((name, rest)),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// A place outside quotes and comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// A line begins.
    Line(usize),
    Semicolon(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inside {
    Nothing,
    Literal,
    /// `E'..'`: a backslash takes the next character along.
    Escaped,
    Name,
    /// With its opening tag, dollars included.
    Dollars(Vec<u8>),
    /// To the end of the line.
    Remark,
    /// Nesting depth.
    Comment(u32),
}

fn marks(text: &str) -> Vec<Mark> {
    let bytes = text.as_bytes();
    let (mut found, mut inside, mut at) = (vec![Mark::Line(0)], Inside::Nothing, 0);
    while at < bytes.len() {
        let here = &bytes[at..];
        let (next, step) = advance(&inside, here, at.checked_sub(1).map(|p| bytes[p]));
        let outside = matches!(inside, Inside::Nothing | Inside::Remark);
        if outside && here[0] == b'\n' && at + 1 < bytes.len() {
            found.push(Mark::Line(at + 1));
        }
        if inside == Inside::Nothing && here[0] == b';' {
            found.push(Mark::Semicolon(at));
        }
        if let Some(next) = next {
            inside = next;
        }
        at += step;
    }
    found
}

/// What comes after `here`'s first token, and the token's length. `None`: as before.
fn advance(inside: &Inside, here: &[u8], before: Option<u8>) -> (Option<Inside>, usize) {
    let pair = here.get(..2).unwrap_or(here);
    match inside {
        Inside::Nothing => open(here, pair, before),
        Inside::Literal | Inside::Escaped if pair == b"''" => (None, 2),
        Inside::Escaped if here[0] == b'\\' => (None, 2),
        Inside::Literal | Inside::Escaped if here[0] == b'\'' => (Some(Inside::Nothing), 1),
        Inside::Name if here[0] == b'"' => (Some(Inside::Nothing), 1),
        Inside::Dollars(tag) if here.starts_with(tag) => (Some(Inside::Nothing), tag.len()),
        Inside::Remark if here[0] == b'\n' => (Some(Inside::Nothing), 1),
        Inside::Comment(depth) if pair == b"/*" => (Some(Inside::Comment(depth + 1)), 2),
        Inside::Comment(1) if pair == b"*/" => (Some(Inside::Nothing), 2),
        Inside::Comment(depth) if pair == b"*/" => (Some(Inside::Comment(depth - 1)), 2),
        Inside::Literal
        | Inside::Escaped
        | Inside::Name
        | Inside::Dollars(_)
        | Inside::Remark
        | Inside::Comment(_) => (None, 1),
    }
}

fn open(here: &[u8], pair: &[u8], before: Option<u8>) -> (Option<Inside>, usize) {
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80);
    match (here[0], pair) {
        (_, b"--") => (Some(Inside::Remark), 2),
        (_, b"/*") => (Some(Inside::Comment(1)), 2),
        (_, b"E'" | b"e'") if !in_word => (Some(Inside::Escaped), 2),
        (b'\'', _) => (Some(Inside::Literal), 1),
        (b'"', _) => (Some(Inside::Name), 1),
        (b'$', _) if !in_word => match dollar_tag(here) {
            Some(tag) => (Some(Inside::Dollars(tag.to_vec())), tag.len()),
            None => (None, 1),
        },
        _ => (None, 1),
    }
}

/// `$tag$` or `$$` at the start of `here`.
fn dollar_tag(here: &[u8]) -> Option<&[u8]> {
    let end = 1 + here[1..].iter().position(|b| *b == b'$')?;
    let tag = &here[1..end];
    let valid = tag
        .iter()
        .enumerate()
        .all(|(n, b)| b.is_ascii_alphabetic() || *b == b'_' || *b >= 0x80 || (n > 0 && b.is_ascii_digit()));
    valid.then(|| &here[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &str = "--
-- PostgreSQL database dump
--

\\restrict abc

SET client_encoding = 'UTF8';

SET default_tablespace = '';

--
-- Name: t t_pkey; Type: CONSTRAINT; Schema: public; Owner: me
--

ALTER TABLE ONLY public.t
    ADD CONSTRAINT t_pkey PRIMARY KEY (a);


SET default_tablespace = fast;

--
-- Name: t_b; Type: INDEX; Schema: public; Owner: me; Tablespace: fast
--

CREATE INDEX t_b ON public.t USING btree (b);


--
-- Name: INDEX t_b; Type: COMMENT; Schema: public; Owner: me
--

COMMENT ON INDEX public.t_b IS 'a ''quoted''
--
-- Name: x; Type: INDEX; Schema: public; Owner: me
--
';


--
-- PostgreSQL database dump complete
--

\\unrestrict abc
";

    #[test]
    fn a_section_is_cut_at_its_objects_and_not_inside_quotes() {
        let script = parse(POST);
        let kinds: Vec<&str> = script.entries.iter().map(|e| e.kind.as_str()).collect();
        assert_eq!(kinds, ["CONSTRAINT", "INDEX", "COMMENT"]);
        assert!(script.preamble.contains("client_encoding"));
        assert!(script.entries[0].sql.contains("default_tablespace = ''"), "{script:?}");
        assert!(script.entries[1].sql.contains("default_tablespace = fast"));
        assert!(!script.entries[1].sql.contains("default_tablespace = ''"));
        assert!(script.entries[2].sql.contains("Name: x; Type: INDEX"));
        assert!(!script.entries[2].sql.contains("unrestrict"));
    }

    #[test]
    fn a_last_statement_without_its_semicolon_is_not_lost() {
        assert_eq!(statements("SELECT 1;\n\nALTER ROLE a\n"), ["SELECT 1;", "ALTER ROLE a"]);
        assert_eq!(statements("SELECT 1;\n-- end\n\n"), ["SELECT 1;"]);
    }

    #[test]
    fn statements_end_at_semicolons_outside_quotes() {
        let text = "-- a; b\nCREATE ROLE \"a;\"\"b\";\n\\restrict x;\nSELECT E'\\';', 'it''s;', $x$;$x$, a$b;\n/* ; /* ; */ ; */\nSELECT 1;\n";
        let found = statements(text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "CREATE ROLE \"a;\"\"b\";");
        assert!(found[1].ends_with("a$b;"));
        assert_eq!(identifier("\"a;\"\"b\";").unwrap(), ("a;\"b".to_owned(), ";"));
        assert_eq!(identifier(" abc_1;").unwrap().0, "abc_1");
    }
}
