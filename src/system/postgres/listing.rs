//! The server's own list of the files in a base backup (`backup_manifest`): path, size and SHA-256 of each.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// A list for more files than a server can reasonably have is not read.
pub const LISTING_BYTES_MAX: usize = 1 << 30;

/// Files by path relative to the data directory. Files of tablespaces lie below `pg_tblspc/<oid>`.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub files: HashMap<PathBuf, Listed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub bytes: u64,
    pub sha256: [u8; 32],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    files: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawFile {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

impl Listing {
    /// Reads the server's JSON. `Corrupt` when it is none or lists something without SHA-256.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let refuse = |why: String| Error::new(ErrorKind::Corrupt, "read backup_manifest").why(why);
        let raw: Raw = serde_json::from_slice(text).map_err(|e| refuse(e.to_string()))?;
        let mut files = HashMap::with_capacity(raw.files.len());
        for file in raw.files {
            let path = match (file.path, file.encoded_path) {
                (Some(path), None) => OsString::from(path),
                (None, Some(hexed)) => {
                    OsString::from_vec(hex::decode(&hexed).map_err(|e| refuse(e.to_string()))?)
                }
                (Some(_), Some(_)) | (None, None) => {
                    return Err(refuse("a file without one path".to_owned()));
                }
            };
            let mut sha256 = [0; 32];
            let checksum = file.checksum.unwrap_or_default();
            if file.algorithm.as_deref() != Some("SHA256")
                || hex::decode_to_slice(&checksum, &mut sha256).is_err()
            {
                return Err(refuse(format!("no SHA-256 of {}", path.to_string_lossy())));
            }
            let listed = Listed { bytes: file.size, sha256 };
            if files.insert(PathBuf::from(path), listed).is_some() {
                return Err(refuse("a file listed twice".to_owned()));
            }
        }
        if files.is_empty() {
            return Err(refuse("it lists no file".to_owned()));
        }
        Ok(Self { files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_text_are_read_and_empty_lists_are_refused() {
        let sum = "00".repeat(32);
        let text = format!(
            r#"{{"PostgreSQL-Backup-Manifest-Version":1,"Files":[
            {{"Encoded-Path":"ff","Size":5,"Last-Modified":"x","Checksum-Algorithm":"SHA256","Checksum":"{sum}"}}],
            "WAL-Ranges":[]}}"#
        );
        let listing = Listing::parse(text.as_bytes()).unwrap();
        let path = PathBuf::from(OsString::from_vec(vec![0xff]));
        assert_eq!(listing.files[&path].bytes, 5);
        assert!(Listing::parse(br#"{"Files":[]}"#).is_err());
        assert!(Listing::parse(&text.replace("SHA256", "CRC32C").into_bytes()).is_err());
    }
}
