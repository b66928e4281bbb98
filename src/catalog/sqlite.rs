//! The catalog in a SQLite database.
