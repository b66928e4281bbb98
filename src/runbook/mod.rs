//! Runbooks: readable, executable procedures.
