//! Rebuilding the catalog from storage alone.
