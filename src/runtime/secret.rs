//! Secrets by reference: `env:NAME` or `file:/path`. The value is read when used and never shown.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// Where a secret is. Only the reference is ever stored, logged or shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef(String);

/// A secret value. `Debug` is redacted; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: for handing to a server or a library, never to a log, an error or an argument list.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl SecretRef {
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self(text.to_owned())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self(text.to_owned())),
            // the text may itself be a secret pasted by mistake: do not repeat it
            _ => Err("a secret is given as env:NAME or file:/absolute/path, never as itself".to_owned()),
        }
    }

    /// Reads the secret. One trailing line break of a file is dropped.
    pub fn read(&self) -> Result<Secret<String>> {
        match self.0.split_once(':') {
            Some(("env", name)) => std::env::var(name).map(Secret).map_err(|e| {
                Error::new(ErrorKind::Config, "read secret")
                    .with("from", &self.0)
                    .because(e)
                    .hint(format!("set the environment variable {name}"))
            }),
            Some((_, path)) => {
                let text = std::fs::read_to_string(path).or_io("read secret", path.as_ref())?;
                Ok(Secret(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
            }
            None => Err(Error::bug("read secret without a scheme")),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretRef({})", self.0)
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        secret.0
    }
}
