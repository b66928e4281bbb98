//! Real trees in temporary directories: what goes in comes out, and what is damaged is noticed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::domain::backup::BackupKind;
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::{BackupId, RunId};
use crate::domain::restore::{Existing, Selection};
use crate::system::testing::MemoryBackups;

mod capture;
mod checks;
mod restores;

struct Fixture {
    home: tempfile::TempDir,
    system: FilesSystem,
    backups: MemoryBackups,
    job: JobContext,
}

impl Fixture {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(exclude: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("lifeboat-files-").tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let settings = FilesSettings {
            path: tree,
            exclude: exclude.iter().map(|p| (*p).to_owned()).collect(),
            one_file_system: false,
        };
        let deps =
            EngineDeps { name: SystemName::parse("tree").unwrap(), state_dir: home.path().join("state") };
        Self {
            system: FilesSystem::build(settings, deps).unwrap(),
            home,
            backups: MemoryBackups::default(),
            job: JobContext::plain(),
        }
    }

    fn tree(&self) -> PathBuf {
        self.home.path().join("tree")
    }

    fn copy(&self) -> PathBuf {
        self.home.path().join("copy")
    }

    fn place(&self) -> Place {
        Place::Directory { path: self.copy() }
    }

    async fn take(&self, kind: BackupKind, chain: &[Manifest]) -> Manifest {
        self.backups.take(&self.system, kind, chain, &self.job).await.unwrap()
    }

    fn request(&self, chain: &[Manifest], place: Place, existing: Existing) -> RestoreRequest {
        RestoreRequest {
            run: RunId::new(self.job.now(), 7),
            chain: chain.to_vec(),
            place,
            existing,
            selection: Selection::default(),
        }
    }

    async fn run(&self, request: RestoreRequest) -> Result<Restored> {
        let plan = self.system.plan_restore(request, &self.job).await?;
        assert!(plan.missing.is_empty(), "{:?}", plan.missing);
        self.system.restore(&plan, &self.backups, &self.job).await
    }

    async fn restore(&self, chain: &[Manifest]) -> Restored {
        let request = self.request(chain, self.place(), Existing::Refuse);
        self.run(request).await.unwrap()
    }

    async fn verify(&self, chain: &[Manifest], place: &Place) -> Verification {
        self.system.verify(chain, place, &self.backups, &self.job).await.unwrap()
    }

    fn bytes(&self, manifest: &Manifest, name: &str) -> Vec<u8> {
        let all = self.backups.artifacts(&manifest.id);
        let found = all.iter().find(|(n, _)| n.as_str() == name);
        found.map(|(_, b)| b.to_vec()).unwrap_or_default()
    }
}

fn sh(dir: &Path, script: &str) -> String {
    let output =
        Command::new("sh").args(["-ec", script]).current_dir(dir).env("LC_ALL", "C").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything about a tree, as tools that share no code with the engine see it.
fn portrait(dir: &Path) -> String {
    sh(
        dir,
        r#"find . -type d -printf '%P|%y|%m|%U|%G|%T@\n' -o -printf '%P|%y|%m|%U|%G|%T@|%s|%l|%n\n' | sort
          find . -type f -print0 | sort -z | xargs -0r sha256sum
          find . -print0 | sort -z | xargs -0r getfattr -h -d -m - -e hex 2>/dev/null
          find . -links +1 ! -type d -printf '%i %P\n' | sort |
              awk '{ if ($1 != last) printf "\n"; last = $1; printf "%s ", $2 }' | sort"#,
    )
}

/// One of everything that a file system can hold, but for devices and sockets.
const EVERYTHING: &str = r#"
    mkdir -p plain/empty 'sp ace' deep/a/b/c
    printf hello > plain/file; : > plain/nothing; head -c 3000000 /dev/urandom > plain/large
    ln -s file plain/link; ln -s /nowhere/at/all plain/dangling; ln -s ../deep plain/dir-link
    ln plain/file plain/hard; ln plain/large deep/large-hard; ln plain/nothing deep/nothing-hard
    ln plain/link deep/link-hard
    mkfifo plain/fifo; ln plain/fifo plain/fifo-hard; chmod 640 plain/fifo
    truncate -s 8M plain/sparse; printf data | dd of=plain/sparse bs=1 seek=3000000 conv=notrunc status=none
    printf end | dd of=plain/sparse bs=1 seek=8388605 conv=notrunc status=none
    truncate -s 5M plain/hole
    printf x > 'sp ace/name with spaces'; printf x > "$(printf 'line\nbreak')"
    printf x > "$(printf 'bad\377\376name')"; ln -s "$(printf 'to\377')" "$(printf 'bad\375link')"
    printf x > "$(printf 'n\314\210')"; printf y > "$(printf '\303\261')"
    long=$(printf 'n%.0s' $(seq 200)); mkdir -p "$long/$long"; printf z > "$long/$long/$long"; ln -s "$long/$long" to-long
    ln "$long/$long/$long" "$long/other"
    setfattr -n user.note -v 'a value' plain/file; setfattr -n user.bin -v 0x00ff3d0a plain/file
    setfattr -n user.a=b -v eq plain/file; setfattr -n user.dir -v d plain; setfattr -n trusted.t -v t plain/link -h
    setfacl -m u:1234:rw plain/file; setfacl -m g:77:rx plain; setfacl -d -m u:1234:rwx deep
    printf s > setuid; chown 12:34 setuid; chmod 6755 setuid
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 setuid
    chown -h 56:78 plain/dangling; chown 5000000:6000000 plain/nothing
    chmod 000 deep/a; chmod 1777 plain/empty; chmod 555 deep/a/b
    touch -d '1960-01-02 03:04:05.123456789' plain/nothing; touch -h -d '2001-02-03 04:05:06.7' plain/dangling
    touch -d '2100-01-01' 'sp ace/name with spaces'; touch -d '1999-12-31 23:59:59.999999999' deep plain/empty
"#;

async fn everything() -> (Fixture, Manifest) {
    let fixture = Fixture::new();
    sh(&fixture.tree(), EVERYTHING);
    let manifest = fixture.take(BackupKind::Full, &[]).await;
    (fixture, manifest)
}

fn assert_green(verification: &Verification) {
    assert!(!verification.is_red(), "{verification:#?}");
    assert_eq!(verification.level(), Some(EvidenceLevel::E4), "{verification:#?}");
    assert!(verification.compared > 0);
}
