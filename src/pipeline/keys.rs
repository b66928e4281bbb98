//! age keys: the recipients that backups are encrypted to, the identities that open them, and the files both live in.
//!
//! The machine that takes backups needs recipients only. Identities never leave memory and are never shown. Key files are
//! made create-only with mode 0600 in a directory of mode 0700.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use age::x25519;

use super::signing::SigningKey;
use crate::domain::Timestamp;
use crate::error::{Error, ErrorKind, IoContext, Result};

pub const IDENTITY_FILE: &str = "identity.age";
pub const RECIPIENTS_FILE: &str = "recipients.txt";
pub const SIGNING_KEY_FILE: &str = "signing.key";
pub const SIGNERS_FILE: &str = "signers.txt";

/// Key files hold a few lines; anything longer is not a key file.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
const KEY_FILE_MODE: u32 = 0o600;
const KEY_DIR_MODE: u32 = 0o700;

/// Whom backups are encrypted to. Empty means that they are not encrypted.
#[derive(Clone, Debug, Default)]
pub struct EncryptionKeys(Vec<x25519::Recipient>);

impl EncryptionKeys {
    /// Parses `age1…` public keys.
    pub fn parse<S: AsRef<str>>(keys: &[S]) -> Result<Self> {
        keys.iter().map(|k| parse_recipient(k.as_ref())).collect::<Result<_>>().map(Self)
    }

    /// Reads a file with one public key a line; `#` begins a comment. `Config` when it holds none.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_key_file(path)?;
        let lines: Vec<&str> = key_lines(&text).map(|(_, line)| line).collect();
        if lines.is_empty() {
            return Err(Error::new(ErrorKind::Config, "find a public key in recipients file")
                .with("path", path.display())
                .hint("put one age public key (age1…) on each line, or run `lifeboat keys init`"));
        }
        Self::parse(&lines).map_err(|e| e.during(format!("read recipients file {}", path.display())))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    pub(super) fn recipients(&self) -> impl Iterator<Item = &dyn age::Recipient> {
        self.0.iter().map(|r| r as &dyn age::Recipient)
    }
}

fn parse_recipient(text: &str) -> Result<x25519::Recipient> {
    let refused = || Error::new(ErrorKind::Config, "read age public key");
    // a secret key pasted by mistake must not be repeated in an error
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(refused()
            .why("this is a secret key")
            .hint("recipients are public keys (age1…); keep secret keys in the identity file only"));
    }
    text.parse().map_err(|why: &str| {
        refused()
            .with("key", text)
            .why(why)
            .hint("a recipient is an age X25519 public key: age1 and 58 more characters")
    })
}

/// Secret keys that open backups. `Debug` shows the public halves only.
#[derive(Default)]
pub struct Identities {
    keys: Vec<x25519::Identity>,
    public: Vec<String>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.public).finish()
    }
}

/// Something read from key files, and what a person should know about those files.
#[derive(Debug)]
pub struct Loaded<T> {
    pub keys: T,
    /// Files that others may read, in words.
    pub findings: Vec<String>,
}

impl Identities {
    /// Reads secret key files as `age-keygen` writes them; each may hold several keys.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Loaded<Self>> {
        let (mut keys, mut findings) = (Self::default(), Vec::new());
        for path in paths {
            let path = path.as_ref();
            findings.extend(exposure(path)?);
            let before = keys.keys.len();
            keys.add(&read_key_file(path)?)
                .map_err(|e| e.during(format!("read identity file {}", path.display())))?;
            if keys.keys.len() == before {
                return Err(Error::new(ErrorKind::Config, "find a secret key in identity file")
                    .with("path", path.display())
                    .hint("name a file that `age-keygen` or `lifeboat keys init` wrote"));
            }
        }
        Ok(Loaded { keys, findings })
    }

    /// Parses the text of a secret key file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = Self::default();
        all.add(text)?;
        Ok(all)
    }

    fn add(&mut self, text: &str) -> Result<()> {
        for (number, line) in key_lines(text) {
            // the line may hold a secret: say where it is, never what it is
            let key: x25519::Identity = line.parse().map_err(|why: &str| {
                Error::new(ErrorKind::Config, "read age secret key")
                    .with("line", number)
                    .why(why)
                    .hint("a line is a comment (#) or an age X25519 secret key; keys protected by a passphrase are opened with `age -d` first")
            })?;
            self.public.push(key.to_public().to_string());
            self.keys.push(key);
        }
        Ok(())
    }

    pub fn public_keys(&self) -> &[String] {
        &self.public
    }

    /// Can backups encrypted to `recipients` be opened with these keys? Always, when they are not encrypted.
    pub fn open_any_of(&self, recipients: &[String]) -> bool {
        recipients.is_empty() || recipients.iter().any(|r| self.public.contains(r))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|k| k as &dyn age::Identity)
    }
}

/// Lines of a key file that are neither empty nor comments, numbered from 1.
pub(super) fn key_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

pub(super) fn read_key_file(path: &Path) -> Result<String> {
    let bytes = std::fs::metadata(path).or_io("read key file", path)?.len();
    if bytes > KEY_FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::Config, "read key file")
            .with("path", path.display())
            .with("bytes", bytes)
            .why("it is too large to be a key file"));
    }
    std::fs::read_to_string(path).or_io("read key file", path)
}

/// A finding when others may read a secret key file.
pub(super) fn exposure(path: &Path) -> Result<Option<String>> {
    let mode = std::fs::metadata(path).or_io("read key file", path)?.mode() & 0o777;
    Ok((mode & 0o077 != 0).then(|| {
        let path = path.display();
        format!("secret key file {path} has mode {mode:o}, so others may use it: chmod 600 {path}")
    }))
}

/// The files of a new set of keys, and their public halves.
#[derive(Clone, Debug)]
pub struct NewKeys {
    /// Secret: opens backups. Belongs off this machine once it is safe elsewhere.
    pub identity: PathBuf,
    pub recipients: PathBuf,
    /// Secret: signs manifests.
    pub signing: PathBuf,
    pub signers: PathBuf,
    pub recipient: String,
    pub signer: String,
}

/// Makes a set of keys in `dir`. `Conflict` when any of the files is there already; then none is made.
pub fn generate(dir: &Path, now: Timestamp) -> Result<NewKeys> {
    DirBuilder::new().recursive(true).mode(KEY_DIR_MODE).create(dir).or_io("make key directory", dir)?;
    let identity = x25519::Identity::generate();
    let signing = SigningKey::generate()?;
    let recipient = identity.to_public().to_string();
    let created = now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let secret = identity.to_string();
    let files = [
        (
            IDENTITY_FILE,
            format!("# created: {created}\n# public key: {recipient}\n{}\n", secret.expose_secret()),
        ),
        (
            RECIPIENTS_FILE,
            format!(
                "# backups are encrypted to every key here; add an escrow key as another line\n{recipient}\n"
            ),
        ),
        (SIGNING_KEY_FILE, signing.file_text(&created)),
        (
            SIGNERS_FILE,
            format!("# manifests signed by any of these keys are trusted\n{}\n", signing.public_key()),
        ),
    ];
    for (name, _) in &files {
        refuse_existing(&dir.join(name))?;
    }
    for (n, (name, text)) in files.iter().enumerate() {
        if let Err(error) = create_private(&dir.join(name), text) {
            // only what this call made
            for (made, _) in &files[..n] {
                let path = dir.join(made);
                if let Err(left) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), error = %left, "half a set of keys is left");
                }
            }
            return Err(error);
        }
    }
    std::fs::File::open(dir).and_then(|d| d.sync_all()).or_io("sync key directory", dir)?;
    Ok(NewKeys {
        identity: dir.join(IDENTITY_FILE),
        recipients: dir.join(RECIPIENTS_FILE),
        signing: dir.join(SIGNING_KEY_FILE),
        signers: dir.join(SIGNERS_FILE),
        recipient,
        signer: signing.public_key(),
    })
}

fn refuse_existing(path: &Path) -> Result<()> {
    let found = std::fs::symlink_metadata(path);
    if found.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    found.or_io("look for key file", path)?;
    Err(Error::new(ErrorKind::Conflict, "make key file")
        .with("path", path.display())
        .why("it exists")
        .hint("backups made with these keys need them: keep them, or name another directory"))
}

fn create_private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(KEY_FILE_MODE)
        .open(path)
        .or_io("make key file", path)?;
    file.write_all(text.as_bytes()).or_io("write key file", path)?;
    file.sync_all().or_io("sync key file", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::signing::TrustedSigners;
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T14:30:07Z".parse().unwrap()
    }

    #[test]
    fn new_keys_are_private_fit_together_and_are_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("keys");
        let made = generate(&dir, now()).unwrap();
        for path in [&made.identity, &made.recipients, &made.signing, &made.signers] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let identities = Identities::load(&[&made.identity]).unwrap();
        assert!(identities.findings.is_empty());
        let recipients = EncryptionKeys::load(&made.recipients).unwrap().to_strings();
        assert_eq!(recipients, std::slice::from_ref(&made.recipient));
        assert!(identities.keys.open_any_of(&recipients));
        let signing = SigningKey::load(&made.signing).unwrap().keys;
        assert!(TrustedSigners::load(&made.signers).unwrap().trusts(&signing.public_key()));

        let before = std::fs::read(&made.identity).unwrap();
        std::fs::remove_file(&made.signers).unwrap();
        let error = generate(&dir, now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(std::fs::read(&made.identity).unwrap(), before);
        assert!(!made.signers.try_exists().unwrap(), "half a set was made");
    }

    #[test]
    fn a_readable_secret_is_a_finding_that_says_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let made = generate(home.path(), now()).unwrap();
        std::fs::set_permissions(&made.identity, std::fs::Permissions::from_mode(0o644)).unwrap();
        let findings = Identities::load(&[&made.identity]).unwrap().findings;
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("chmod 600"), "{findings:?}");
    }

    #[test]
    fn secrets_show_neither_in_debug_nor_in_errors() {
        let home = tempfile::tempdir().unwrap();
        let made = generate(home.path(), now()).unwrap();
        let text = std::fs::read_to_string(&made.identity).unwrap();
        let secret = text.lines().last().unwrap();
        let identities = Identities::parse(&text).unwrap();
        let signing = SigningKey::load(&made.signing).unwrap().keys;
        let pkcs8 = std::fs::read_to_string(&made.signing).unwrap();
        let shown = [
            format!("{identities:?} {signing:?}"),
            EncryptionKeys::parse(&[secret]).unwrap_err().to_string(),
            Identities::parse(&format!("{secret}x")).unwrap_err().to_string(),
        ]
        .concat();
        assert!(shown.contains(&made.recipient), "{shown}");
        assert!(!shown.contains("SECRET-KEY") && !shown.contains(pkcs8.lines().last().unwrap()), "{shown}");
    }

    #[test]
    fn several_keys_in_several_files_are_all_held() {
        let home = tempfile::tempdir().unwrap();
        let one = generate(&home.path().join("one"), now()).unwrap();
        let two = generate(&home.path().join("two"), now()).unwrap();
        let held = Identities::load(&[&one.identity, &two.identity]).unwrap().keys;
        assert_eq!(held.public_keys(), [one.recipient, two.recipient]);
        let empty = home.path().join("empty");
        std::fs::write(&empty, "# nothing\n").unwrap();
        assert_eq!(Identities::load(&[&empty]).unwrap_err().kind(), ErrorKind::Config);
    }
}
