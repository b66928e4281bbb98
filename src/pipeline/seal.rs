//! Writing age files with the cipher of `ring`, which is faster than the age crate's (`docs/adr/0004`).
//!
//! Header, recipients and file key are the age crate's own; only the payload is sealed here: chunks of 64 KiB under
//! ChaCha20-Poly1305 with a counter and a mark on the last one (the STREAM of age-encryption.org/v1). Reading stays
//! with the age crate, so whatever is sealed wrongly fails to open in the tests.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use age::secrecy::ExposeSecret;
use age::{EncryptError, Encryptor, Recipient};
use age_core::format::{FileKey, Stanza};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::keys::EncryptionKeys;

const CHUNK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
/// The header is followed by this many random bytes, from which the payload's key is derived.
const NONCE_BYTES: usize = 16;

/// Encrypts what is written to it. Without [`Sealer::finish`] the file is cut short and nobody opens it.
pub(super) struct Sealer<W> {
    key: LessSafeKey,
    /// Never sealed before more is known to follow: the last chunk is marked.
    chunk: Vec<u8>,
    number: u64,
    to: W,
}

impl<W: Write> Sealer<W> {
    /// Writes the header for `keys`, of which there must be at least one.
    pub(super) fn new(keys: &EncryptionKeys, mut to: W) -> io::Result<Self> {
        let recipients: Vec<&dyn Recipient> = keys.recipients().collect();
        let (first, others) =
            recipients.split_first().ok_or_else(|| io::Error::other("encryption without a recipient"))?;
        let witness = Witness { recipient: *first, seen: Mutex::default() };
        let header = header(&witness, others)?;
        let file_key = witness.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file_key = file_key.ok_or_else(|| io::Error::other("the file key was not shown"))?;
        let nonce_at = header.len().saturating_sub(NONCE_BYTES);
        let derived = Salt::new(HKDF_SHA256, &header[nonce_at..]).extract(file_key.expose_secret());
        let key: UnboundKey = derived
            .expand(&[b"payload"], &CHACHA20_POLY1305)
            .map_err(|_| io::Error::other("the payload key cannot be derived"))?
            .into();
        to.write_all(&header)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            chunk: Vec::with_capacity(CHUNK_BYTES + TAG_BYTES),
            number: 0,
            to,
        })
    }

    /// Seals what is left and gives the writer below back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.seal(Position::Last)?;
        Ok(self.to)
    }

    fn seal(&mut self, position: Position) -> io::Result<()> {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = match position {
            Position::Inner => 0,
            Position::Last => 1,
        };
        self.number += 1;
        // unique for the key: the key belongs to this file alone, and the number is never the same twice
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.chunk)
            .map_err(|_| io::Error::other("a chunk cannot be sealed"))?;
        self.chunk.extend_from_slice(tag.as_ref());
        self.to.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

fn header(first: &dyn Recipient, others: &[&dyn Recipient]) -> io::Result<Vec<u8>> {
    let all = std::iter::once(first).chain(others.iter().copied());
    let encryptor = Encryptor::with_recipients(all).map_err(io::Error::other)?;
    let mut header = Vec::new();
    // the writer that this gives would encrypt; only the header and the nonce behind it are wanted
    drop(encryptor.wrap_output(&mut header)?);
    Ok(header)
}

#[derive(Clone, Copy)]
enum Position {
    Inner,
    Last,
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.chunk.len() == CHUNK_BYTES {
                self.seal(Position::Inner)?;
            }
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            rest = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A recipient that remembers the key it wrapped: the age crate shows a new file's key to its recipients only.
struct Witness<'a> {
    recipient: &'a dyn Recipient,
    seen: Mutex<Option<FileKey>>,
}

impl Recipient for Witness<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let copy = FileKey::new(Box::new(*file_key.expose_secret()));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        self.recipient.wrap_file_key(file_key)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::testing::{Fixture, noise};
    use super::*;

    fn sealed(keys: &EncryptionKeys, plain: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(keys, Vec::new()).unwrap();
        for part in plain.chunks(50_000) {
            sealer.write_all(part).unwrap();
        }
        sealer.finish().unwrap()
    }

    fn opened(fixture: &Fixture, sealed: &[u8]) -> io::Result<Vec<u8>> {
        let decryptor = age::Decryptor::new_buffered(sealed).map_err(io::Error::other)?;
        let mut reader = decryptor.decrypt(fixture.identities.all()).map_err(io::Error::other)?;
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn the_age_crate_opens_what_is_sealed_here_around_every_chunk_boundary() {
        let (fixture, escrow) = (Fixture::new(), Fixture::new());
        let both = [fixture.encoding.recipients.clone(), escrow.encoding.recipients.clone()].concat();
        let keys = EncryptionKeys::parse(&both).unwrap();
        let chunk = CHUNK_BYTES;
        for bytes in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 5 * chunk + 7] {
            let plain = noise(3, bytes);
            let sealed = sealed(&keys, &plain);
            for holder in [&fixture, &escrow] {
                assert!(opened(holder, &sealed).unwrap() == plain, "{bytes}");
            }
            assert!(opened(&fixture, &sealed[..sealed.len() - 1]).is_err());
        }
    }

    #[test]
    fn dropped_and_exchanged_chunks_do_not_open() {
        let fixture = Fixture::new();
        let keys = EncryptionKeys::parse(&fixture.encoding.recipients).unwrap();
        let sealed = sealed(&keys, &noise(3, 3 * CHUNK_BYTES));
        let whole = CHUNK_BYTES + TAG_BYTES;
        let head = sealed.len() - 3 * whole;
        let chunk = |n: usize| &sealed[head + n * whole..head + (n + 1) * whole];
        for order in [vec![0, 1], vec![1, 0, 2], vec![0, 0, 2], vec![0, 1, 1], vec![0, 1, 2, 2]] {
            let mut changed = sealed[..head].to_vec();
            order.iter().for_each(|n| changed.extend_from_slice(chunk(*n)));
            assert!(opened(&fixture, &changed).is_err(), "{order:?}");
        }
    }

    #[test]
    fn no_two_files_share_a_key() {
        let fixture = Fixture::new();
        let keys = EncryptionKeys::parse(&fixture.encoding.recipients).unwrap();
        let plain = noise(3, 1000);
        let (one, two) = (sealed(&keys, &plain), sealed(&keys, &plain));
        assert_ne!(one[one.len() - 1016..], two[two.len() - 1016..]);
    }
}
