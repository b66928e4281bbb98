//! An engine in memory: the example to copy, and the one that generic tests use.
