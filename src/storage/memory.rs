//! Storage in memory, for tests.
