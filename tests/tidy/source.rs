//! Reads Rust well enough to see which paths a file names, and where. Knows comments, literals, inline modules,
//! `use` groups and what only tests compile; no macros, no name resolution.

/// A path as written: `["crate", "storage", "local"]`, or with `super` already resolved against the module it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    pub line: usize,
    pub parts: Vec<String>,
}

/// What one file names outside of tests.
#[derive(Debug, Default)]
pub struct Reading {
    pub paths: Vec<NamedPath>,
    /// Modules declared here that only tests compile: `live_tests`.
    pub test_modules: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Sign(char),
}

type Tokens = Vec<(usize, Token)>;

/// `module` is the file's own module path, without `crate`.
pub fn read(text: &str, module: &[String]) -> Reading {
    let tokens = tokens(text);
    let mut reading = Reading::default();
    let mut inner: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = skip_attributes(&tokens, at);
            if let Some(name) = declared_module(&tokens[at..]) {
                reading.test_modules.push(name);
            }
            at = skip_item(&tokens, at);
            continue;
        }
        if let [(_, Token::Word(word)), (_, Token::Word(name)), (_, Token::Sign('{')), ..] = &tokens[at..]
            && word == "mod"
        {
            inner.push((name.clone(), depth));
        }
        match &tokens[at].1 {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth = depth.saturating_sub(1);
                inner.retain(|(_, from)| *from < depth);
            }
            Token::Word(_) if starts_path(&tokens, at) => {
                let here: Vec<String> = module.iter().chain(inner.iter().map(|(n, _)| n)).cloned().collect();
                let mut found = Vec::new();
                at = expand(&tokens, at, &[], &mut found);
                reading.paths.extend(found.into_iter().map(|p| resolve(p, &here)));
                continue;
            }
            Token::Word(_) | Token::Colons | Token::Sign(_) => {}
        }
        at += 1;
    }
    reading
}

/// A word followed by `::` and not itself in the middle of a path.
fn starts_path(tokens: &Tokens, at: usize) -> bool {
    let follows = at > 0 && tokens[at - 1].1 == Token::Colons;
    !follows && tokens.get(at + 1).is_some_and(|t| t.1 == Token::Colons)
}

/// Reads a path and the groups in it; gives where it ends.
fn expand(tokens: &Tokens, mut at: usize, before: &[String], found: &mut Vec<NamedPath>) -> usize {
    let mut parts = before.to_vec();
    let mut line = tokens[at].0;
    loop {
        match tokens.get(at) {
            Some((at_line, Token::Word(word))) => {
                line = *at_line;
                parts.push(word.clone());
                at += 1;
            }
            Some((_, Token::Sign('{'))) => return expand_group(tokens, at + 1, &parts, found),
            // `*`, or a turbofish
            Some(_) | None => break,
        }
        match tokens.get(at) {
            Some((_, Token::Colons)) => at += 1,
            Some(_) | None => break,
        }
    }
    found.push(NamedPath { line, parts });
    at
}

fn expand_group(tokens: &Tokens, mut at: usize, before: &[String], found: &mut Vec<NamedPath>) -> usize {
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Sign('}') => return at + 1,
            Token::Word(word) if word == "as" => at += 2,
            Token::Word(_) => at = expand(tokens, at, before, found),
            Token::Sign(_) | Token::Colons => at += 1,
        }
    }
    at
}

/// Replaces leading `self` and `super` by the module they mean.
fn resolve(path: NamedPath, here: &[String]) -> NamedPath {
    let mut base = here.to_vec();
    let mut rest = path.parts.as_slice();
    let relative = matches!(rest.first().map(String::as_str), Some("self" | "super"));
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "self" => {}
            "super" => {
                base.pop();
            }
            _ => break,
        }
        rest = after;
    }
    if !relative {
        return path;
    }
    let parts = std::iter::once("crate".to_owned()).chain(base).chain(rest.iter().cloned());
    NamedPath { line: path.line, parts: parts.collect() }
}

/// `#[cfg(test)]` or `#[cfg(all(test, ..))]`
fn is_test_attribute(tokens: &[(usize, Token)]) -> bool {
    let word = |t: Option<&(usize, Token)>, w: &str| t.is_some_and(|t| t.1 == Token::Word(w.to_owned()));
    let starts = matches!(tokens, [(_, Token::Sign('#')), (_, Token::Sign('[')), ..]);
    starts
        && word(tokens.get(2), "cfg")
        && (word(tokens.get(4), "test") || (word(tokens.get(4), "all") && word(tokens.get(6), "test")))
}

fn skip_attributes(tokens: &Tokens, mut at: usize) -> usize {
    while matches!(tokens.get(at), Some((_, Token::Sign('#')))) {
        while at < tokens.len() && tokens[at].1 != Token::Sign(']') {
            at += 1;
        }
        at += 1;
    }
    at
}

/// The name in `mod name;`, with or without `pub`.
fn declared_module(tokens: &[(usize, Token)]) -> Option<String> {
    let start = tokens.iter().position(|t| t.1 == Token::Word("mod".to_owned()))?;
    match (&tokens[..start], tokens.get(start + 1..start + 3)?) {
        ([] | [(_, Token::Word(_))], [(_, Token::Word(name)), (_, Token::Sign(';'))]) => Some(name.clone()),
        _ => None,
    }
}

/// Behind the next `;`, or behind the block that opens before it.
fn skip_item(tokens: &Tokens, mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some((_, token)) = tokens.get(at) {
        at += 1;
        match token {
            Token::Sign(';') if depth == 0 => return at,
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth = depth.saturating_sub(1);
                let ends_use = matches!(tokens.get(at), Some((_, Token::Sign(';'))));
                if depth == 0 {
                    return at + usize::from(ends_use);
                }
            }
            Token::Sign(_) | Token::Colons | Token::Word(_) => {}
        }
    }
    at
}

/// Words, `::` and single signs; comments and literals are left out.
fn tokens(text: &str) -> Tokens {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut line, mut at) = (Tokens::new(), 1, 0);
    while at < chars.len() {
        let end = match &chars[at..] {
            ['/', '/', ..] => until(&chars, at, |rest| rest.first() == Some(&'\n')),
            ['/', '*', ..] => until(&chars, at + 2, |rest| rest.starts_with(&['*', '/'])) + 2,
            ['r', '"' | '#', ..] if raw_string(&chars, at).is_some() => {
                raw_string(&chars, at).unwrap_or(at + 1)
            }
            ['"', ..] => string(&chars, at),
            ['\'', ..] => character(&chars, at),
            [':', ':', ..] => {
                tokens.push((line, Token::Colons));
                at + 2
            }
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let end =
                    until(&chars, at, |rest| !rest.first().is_some_and(|c| c.is_alphanumeric() || *c == '_'));
                tokens.push((line, Token::Word(chars[at..end].iter().collect())));
                end
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    tokens.push((line, Token::Sign(*c)));
                }
                at + 1
            }
            [] => break,
        };
        let end = end.min(chars.len());
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn until(chars: &[char], mut at: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    while at < chars.len() && !stop(&chars[at..]) {
        at += 1;
    }
    at
}

fn string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// End of `r"..."` or `r#"..."#` that begins at `start`.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let after_name = start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_');
    let quote = until(chars, start + 1, |rest| rest.first() != Some(&'#'));
    if after_name || chars.get(quote) != Some(&'"') {
        return None;
    }
    let hashes = vec!['#'; quote - start - 1];
    let end = until(chars, quote + 1, |rest| rest[0] == '"' && rest[1..].starts_with(&hashes));
    Some(end + 1 + hashes.len())
}

/// End of a character literal, or of the quote of a lifetime.
fn character(chars: &[char], start: usize) -> usize {
    match &chars[start + 1..] {
        ['\\', ..] => until(chars, start + 3, |rest| rest[0] == '\'') + 1,
        [_, '\'', ..] => start + 3,
        _ => start + 1,
    }
}
