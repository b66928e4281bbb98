//! Names and identifiers as types. Owns what a valid one looks like.
//!
//! Every name is safe as a path component and as an object key; parsing is the only way to make one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A string is not a valid name. Says which kind of name and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    pub what: &'static str,
    pub given: String,
    pub rule: &'static str,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a valid {}: {}", self.given, self.what, self.rule)
    }
}

impl std::error::Error for InvalidName {}

pub const NAME_CHARS_MAX: usize = 63;

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    text.len() <= NAME_CHARS_MAX
        && chars.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

fn is_artifact_name(text: &str) -> bool {
    text.len() <= 512
        && !text.is_empty()
        && text.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn parse(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { what: $what, given: text, rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

name!(
    /// A protected data system, as named in the config.
    SystemName, "system name", is_name, "1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit"
);
name!(
    DestinationName,
    "destination name",
    is_name,
    "1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit"
);
name!(TierName, "tier name", is_name, "1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit");
name!(
    ScenarioName,
    "scenario name",
    is_name,
    "1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit"
);
name!(RunbookName, "runbook name", is_name, "1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit");
name!(
    /// A step of a plan: `answer.step` after expansion, so dots and slashes are allowed.
    StepId, "step id", is_artifact_name, "parts of letters, digits, . _ - joined by /"
);
name!(
    /// One byte stream inside a backup: `base.tar`, `db/16384/table/16390.copy`.
    ArtifactName, "artifact name", is_artifact_name, "parts of letters, digits, . _ - joined by /, none of them . or .."
);

fn is_stamped(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts.as_slice(), [date, time, tail]
        if date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit())
        && time.len() == 6 && time.bytes().all(|b| b.is_ascii_digit())
        && tail.len() == 8 && tail.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
}

fn stamp(at: Timestamp, random: u32) -> String {
    format!("{}-{random:08x}", at.format("%Y%m%d-%H%M%S"))
}

name!(
    /// `YYYYMMDD-HHMMSS-xxxxxxxx`: sortable by eye, never used for ordering (use times and parents).
    BackupId, "backup id", is_stamped, "YYYYMMDD-HHMMSS and eight hex digits, joined by -"
);
name!(RunId, "run id", is_stamped, "YYYYMMDD-HHMMSS and eight hex digits, joined by -");

impl BackupId {
    pub fn new(at: Timestamp, random: u32) -> Self {
        Self(stamp(at, random))
    }
}

impl RunId {
    pub fn new(at: Timestamp, random: u32) -> Self {
        Self(stamp(at, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", "..", "a/../b", "/a", "a//b", "a b", "a/./b"] {
            assert!(ArtifactName::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "A", "-a", "a/b", "a.b", "ä"] {
            assert!(SystemName::parse(bad).is_err(), "{bad}");
        }
        assert!(ArtifactName::parse("db/16384/t.copy").is_ok());
    }

    #[test]
    fn an_id_parses_back() {
        let at = "2026-11-21T14:30:07Z".parse().unwrap();
        let id = BackupId::new(at, 0x7f);
        assert_eq!(id.as_str(), "20261121-143007-0000007f");
        assert_eq!(BackupId::parse(id.as_str()).unwrap(), id);
        assert!(BackupId::parse("20261121-143007-0000007F").is_err());
    }
}
