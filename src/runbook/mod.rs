//! Runbooks: readable, executable procedures.
//!
//! `model` reads them, `plan` resolves them, `execute` carries them out through a [`host::Host`] and the catalog's
//! journal. Nothing here touches the world except through the host.

pub mod execute;
pub mod fact;
pub mod graph;
pub mod host;
pub mod input;
pub mod instance;
pub mod journal;
pub mod model;
pub mod output;
pub mod plan;
pub mod problem;
pub mod render;
pub mod seconds;
pub mod show;
pub mod spec;
pub mod step;
pub mod yaml;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub mod testing;
