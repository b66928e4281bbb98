//! Scenarios: what is lost, and which runbooks answer it.
