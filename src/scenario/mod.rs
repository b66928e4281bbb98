//! Scenarios: what is lost, what must be reached, and which runbooks answer it.
//!
//! `model` reads them, `library` holds them together with the runbooks, `expand` applies one to the configured systems,
//! `measure` says afterwards whether the objectives were met.

pub mod critical;
pub mod expand;
pub mod library;
pub mod measure;
pub mod model;

#[cfg(test)]
mod expand_tests;
#[cfg(test)]
mod library_tests;
#[cfg(test)]
mod measure_tests;
