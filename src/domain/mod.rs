//! Pure values and decisions: no I/O, no clock, no runtime.

pub mod backup;
pub mod canary;
pub mod evidence;
pub mod id;
pub mod manifest;
pub mod objective;
pub mod place;
pub mod restore;
pub mod run;
pub mod tier;
pub mod verification;

/// Wall-clock instants are UTC everywhere inside; a time zone exists only at the edges.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
