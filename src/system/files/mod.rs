//! File tree engine.
