//! Where a copy of a system is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a copy of a system is, or shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "place")]
pub enum Place {
    /// The configured system itself.
    Production,
    /// Plain files below a directory; no server runs on them.
    Directory { path: PathBuf },
    /// A throwaway server on loopback that lifeboat started, with its data directory.
    Server(ServerPlace),
}

/// A throwaway server on loopback. Trusts local connections; nothing else can reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlace {
    pub host: String,
    pub port: u16,
    /// The data directory, which also holds the socket directory where the engine needs one.
    pub dir: PathBuf,
}

impl Place {
    pub fn describe(&self) -> String {
        match self {
            Self::Production => "production".to_owned(),
            Self::Directory { path } => format!("directory {}", path.display()),
            Self::Server(s) => format!("sandbox server {}:{}", s.host, s.port),
        }
    }
}
