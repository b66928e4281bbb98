//! The directory that all sandboxes of a provider are below. Owns who may pass through it.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::account::Account;

/// Makes the root where it is missing; gives its path without links, as processes show it.
pub(super) fn prepare(root: &Path, account: Option<&Account>) -> Result<PathBuf> {
    // others may pass through, not look around; each sandbox in it is private
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(root).or_io("make sandbox root", root)?;
    let root = root.canonicalize().or_io("resolve sandbox root", root)?;
    if let Some(account) = account
        && let Some(closed) = closed_parent(&root, account)?
    {
        return Err(Error::new(ErrorKind::Config, "let the sandbox account reach its directory")
            .with("account", &account.name)
            .with("root", root.display())
            .with("closed", closed.display())
            .hint(format!(
                "choose a sandbox root whose parents everybody may enter, such as one below /tmp, or `chmod o+x {}`",
                closed.display()
            )));
    }
    Ok(root)
}

/// The first of `dir` and its parents that the account may not pass through. Looks at plain permission bits only.
fn closed_parent(dir: &Path, account: &Account) -> Result<Option<PathBuf>> {
    for parent in dir.ancestors() {
        let meta = std::fs::metadata(parent).or_io("look at", parent)?;
        let pass = if meta.uid() == account.uid {
            0o100
        } else if meta.gid() == account.gid {
            0o010
        } else {
            0o001
        };
        if meta.mode() & pass == 0 {
            return Ok(Some(parent.to_path_buf()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_parent_that_the_account_cannot_enter_is_named_with_the_way_out() {
        let home = tempfile::tempdir().unwrap();
        let closed = home.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Account { name: "stranger".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        let error = prepare(&closed.join("boxes"), Some(&stranger)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.advice().unwrap().contains("chmod o+x"), "{error}");
        prepare(&home.path().join("boxes"), Some(&stranger)).unwrap();
    }
}
