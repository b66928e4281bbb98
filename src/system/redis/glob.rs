//! Glob patterns over keys, as the server's KEYS and SCAN understand them: `* ? [a-c] [^x] \`.

/// Whether the whole of `text` fits `pattern`. Time is at most the product of both lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // where to go on when what was tried fails: behind the last star, one more byte of text eaten by it
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if let Some(next) = text.get(t).and_then(|byte| one(pattern, p, *byte)) {
            (p, t) = (next, t + 1);
            continue;
        }
        match retry {
            Some((after_star, eaten)) if eaten < text.len() => {
                retry = Some((after_star, eaten + 1));
                (p, t) = (after_star, eaten + 1);
            }
            _ => return false,
        }
    }
}

/// If one pattern item at `p` takes `byte`: where the next item begins.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

fn class(pattern: &[u8], begin: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(begin) == Some(&b'^');
    let mut at = begin + usize::from(negated);
    let mut found = false;
    while let Some(&first) = pattern.get(at) {
        match (first, pattern.get(at + 1), pattern.get(at + 2)) {
            (b']', ..) => break,
            (b'\\', Some(&escaped), _) => {
                found |= escaped == byte;
                at += 2;
            }
            (low, Some(b'-'), Some(&high)) if high != b']' => {
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            (literal, ..) => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some((at + 1).min(pattern.len()))
}

pub fn matches_any(patterns: &[String], text: &[u8]) -> bool {
    patterns.is_empty() || patterns.iter().any(|p| matches(p.as_bytes(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_the_server() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("user:*", "user:1", true),
            ("user:*", "users:1", false),
            ("*:*:z", "a:b:c:z", true),
            ("h?llo", "hello", true),
            ("h[a-e]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[xe]llo", "hello", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends() {
        let pattern = "*a".repeat(40) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(3000).as_bytes()));
    }
}
