//! Archives: pax tar written and read as bytes, and unpacked without leaving a directory. Knows nothing of backups.
//!
//! Written with what GNU tar and bsdtar read: ustar headers, pax records for what does not fit them, sparse files in the
//! 1.0 form of GNU tar, extended attributes as `SCHILY.xattr`. Paths and names are bytes and stay as they are.

mod attributes;
mod crew;
mod decode;
mod dirs;
mod encode;
mod feed;
mod make;
mod member;
mod pax;
#[cfg(test)]
mod tests;
mod unpack;

pub use attributes::{Attributes, attributes_at, attributes_of, copy_metadata};
pub use crew::{Crew, Shift};
pub use decode::{Reader, safe_path};
pub use dirs::{DirStack, Missing, join, list, open_directory, remove_tree, split};
pub use encode::{BLOCK_BYTES, END, encode, pad};
pub use feed::{FeedReader, feed, pump};
pub use member::{Extent, Kind, Member, Time};
pub use unpack::{Devices, Owners, UnpackOptions, Unpacked, Unpacker};

/// A path of bytes as a person reads it: as it is when it is UTF-8, escaped otherwise.
pub fn show(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok("") => ".".to_owned(),
        Ok(text) => text.to_owned(),
        Err(_) => path.escape_ascii().to_string(),
    }
}
