//! The operating-system account that throwaway servers run as. Databases refuse to run as root.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// An unprivileged account to run programs as. `None` in its users means: as ourselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// Looks `name` up in the system's user database.
    pub fn named(name: &str) -> Result<Self> {
        let found = nix::unistd::User::from_name(name)
            .map_err(|e| Error::new(ErrorKind::Failed, "look up account").with("account", name).because(e))?;
        let user = found.ok_or_else(|| {
            Error::new(ErrorKind::Config, "find account")
                .with("account", name)
                .hint("name an existing user in sandbox.user")
        })?;
        Ok(Self { name: name.to_owned(), uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// What to run servers as: `name` when we are root, ourselves otherwise.
    pub fn for_servers(name: &str) -> Result<Option<Self>> {
        if nix::unistd::geteuid().is_root() { Self::named(name).map(Some) } else { Ok(None) }
    }

    /// Gives `path` and everything below it to the account. Links themselves change owner, never what they point to.
    pub fn own_tree(&self, path: &Path) -> Result<()> {
        let mut pending = vec![path.to_path_buf()];
        while let Some(next) = pending.pop() {
            std::os::unix::fs::lchown(&next, Some(self.uid), Some(self.gid)).or_io("change owner", &next)?;
            let meta = std::fs::symlink_metadata(&next).or_io("stat", &next)?;
            if meta.is_dir() {
                for entry in std::fs::read_dir(&next).or_io("list directory", &next)? {
                    pending.push(entry.or_io("list directory", &next)?.path());
                }
            }
        }
        Ok(())
    }
}
