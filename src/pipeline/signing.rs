//! Ed25519 keys: the one that signs manifests, and the ones whose signatures are trusted.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::keys::{Loaded, exposure, key_lines, read_key_file};
use crate::error::{Error, ErrorKind, Result};

const PUBLIC_KEY_BYTES: usize = 32;

/// Signs manifests. `Debug` shows the public half only.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public_key()).finish()
    }
}

impl SigningKey {
    pub fn generate() -> Result<Self> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|e| {
            Error::new(ErrorKind::Failed, "draw random bytes for a signing key").why(e.to_string())
        })?;
        Self::from_pkcs8(made.as_ref())
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self> {
        // neither library's error repeats the key
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|e| {
            Error::new(ErrorKind::Config, "read signing key")
                .why(e.to_string())
                .hint("name a file that `lifeboat keys init` wrote")
        })?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec() })
    }

    pub fn load(path: &Path) -> Result<Loaded<Self>> {
        let text = read_key_file(path)?;
        let refused = |why: String| {
            Error::new(ErrorKind::Config, "read signing key")
                .with("path", path.display())
                .why(why)
                .hint("name a file that `lifeboat keys init` wrote")
        };
        let mut lines = key_lines(&text);
        let (Some((_, line)), None) = (lines.next(), lines.next()) else {
            return Err(refused("it does not hold exactly one key".to_owned()));
        };
        let pkcs8 = BASE64.decode(line).map_err(|_| refused("the key is not base64".to_owned()))?;
        Ok(Loaded { keys: Self::from_pkcs8(&pkcs8)?, findings: exposure(path)?.into_iter().collect() })
    }

    /// Base64.
    pub fn public_key(&self) -> String {
        BASE64.encode(self.pair.public_key().as_ref())
    }

    /// The text of the key's file. Secret.
    pub(super) fn file_text(&self, created: &str) -> String {
        format!(
            "# lifeboat signing key: Ed25519, PKCS#8, base64\n# created: {created}\n# public key: {}\n{}\n",
            self.public_key(),
            BASE64.encode(&self.pkcs8)
        )
    }

    /// A signature with its signer: `signer:signature`, both base64. For short messages of our own.
    pub fn sign_text(&self, message: &[u8]) -> String {
        format!("{}:{}", self.public_key(), self.sign(message))
    }

    /// Base64.
    pub(super) fn sign(&self, bytes: &[u8]) -> String {
        BASE64.encode(self.pair.sign(bytes).as_ref())
    }
}

/// Public keys whose manifests are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedSigners(Vec<[u8; PUBLIC_KEY_BYTES]>);

impl TrustedSigners {
    /// Parses base64 public keys.
    pub fn parse<S: AsRef<str>>(keys: &[S]) -> Result<Self> {
        let parse = |key: &S| {
            decode_key(key.as_ref()).ok_or_else(|| {
                Error::new(ErrorKind::Config, "read public key of signer").with("key", key.as_ref()).hint(
                    "a signer is the base64 of 32 bytes, as in signers.txt and in the comment of signing.key",
                )
            })
        };
        keys.iter().map(parse).collect::<Result<_>>().map(Self)
    }

    /// Reads a file with one public key a line; `#` begins a comment.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_key_file(path)?;
        let lines: Vec<&str> = key_lines(&text).map(|(_, line)| line).collect();
        Self::parse(&lines).map_err(|e| e.during(format!("read signers file {}", path.display())))
    }

    pub fn of(key: &SigningKey) -> Self {
        Self(decode_key(&key.public_key()).into_iter().collect())
    }

    pub fn trusts(&self, signer: &str) -> bool {
        decode_key(signer).is_some_and(|key| self.0.contains(&key))
    }

    /// Was `signed` made by [`SigningKey::sign_text`] over `message`, by somebody who is trusted?
    pub fn signed(&self, message: &[u8], signed: &str) -> bool {
        signed
            .split_once(':')
            .is_some_and(|(signer, signature)| self.trusts(signer) && holds(signer, message, signature))
    }

    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|key| BASE64.encode(key)).collect()
    }

    pub fn extend(&mut self, more: &Self) {
        for key in &more.0 {
            if !self.0.contains(key) {
                self.0.push(*key);
            }
        }
    }
}

fn decode_key(text: &str) -> Option<[u8; PUBLIC_KEY_BYTES]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// Does `signature` (base64) over `bytes` belong to `signer` (base64)?
pub(super) fn holds(signer: &str, bytes: &[u8], signature: &str) -> bool {
    let (Some(key), Ok(signature)) = (decode_key(signer), BASE64.decode(signature)) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, key).verify(bytes, &signature).is_ok()
}
