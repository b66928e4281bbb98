//! Logs and metrics: set up in one place, names in one place.

pub mod log;
pub mod metric;
