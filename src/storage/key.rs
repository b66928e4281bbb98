//! What an object key may look like, for every adapter alike: safe as a path below a root and as an S3 key.

use crate::error::{Error, ErrorKind, Result};

pub const KEY_BYTES_MAX: usize = 1024;
const PART_BYTES_MAX: usize = 255;

/// Names of unfinished writes begin so; no key part may.
pub const ASIDE_PREFIX: &str = ".lifeboat-aside-";

pub fn is_key_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= PART_BYTES_MAX
        && part != "."
        && part != ".."
        && !part.starts_with(ASIDE_PREFIX)
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_key(text: &str) -> bool {
    text.len() <= KEY_BYTES_MAX && text.split('/').all(is_key_part)
}

/// `Config` when `key` could leave the storage's root or clash with an unfinished write.
pub fn check_key(key: &str) -> Result<()> {
    if is_key(key) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, "use object key")
        .with("key", key.escape_debug())
        .hint("keys are parts of letters, digits, . _ - joined by /, none of them . or .."))
}

/// A prefix is empty, or a key and `/`.
pub fn check_prefix(prefix: &str) -> Result<()> {
    match prefix.strip_suffix('/') {
        None if prefix.is_empty() => Ok(()),
        Some(key) if is_key(key) => Ok(()),
        Some(_) | None => Err(Error::new(ErrorKind::Config, "list objects")
            .with("prefix", prefix.escape_debug())
            .hint("a prefix is empty, or a key followed by /")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_the_root_are_refused() {
        let long = "a/".repeat(KEY_BYTES_MAX);
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".",
            "a/.",
            "a\0b",
            "a\\b",
            "a b",
            "ä",
            ".lifeboat-aside-1",
            "a/.lifeboat-aside-1/b",
            &long,
        ] {
            assert!(check_key(bad).is_err(), "{bad}");
            assert!(bad.is_empty() || check_prefix(&format!("{bad}/")).is_err(), "{bad}");
        }
        for good in ["a", "a.b-c_d/0001.zst.age", ".a", "...", "A/-"] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        assert!(check_prefix("").is_ok() && check_prefix("a/b/").is_ok() && check_prefix("a").is_err());
    }
}
