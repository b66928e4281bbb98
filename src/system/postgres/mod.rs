//! PostgreSQL engine.
