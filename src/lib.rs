//! lifeboat: a disaster-recovery orchestrator.
//!
//! Layers, inwards to outwards (`docs/architecture.md`; `tests/tidy.rs` holds them):
//! `domain` → `error`, `runtime`, `archive` → ports (`storage`, `catalog`, `system`, `sandbox`, `alert`) → their adapters;
//! `pipeline`, `operation`, `runbook`, `scenario`, `drill`, `evidence` use the ports; `actor` drives them;
//! `web` and `cli` are faces; `app` puts concrete types together.

pub mod actor;
pub mod app;
pub mod archive;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod demo;
pub mod domain;
pub mod error;
pub mod evidence;
pub mod operation;
pub mod pipeline;
pub mod runbook;
pub mod runtime;
pub mod sandbox;
pub mod scenario;
pub mod storage;
pub mod system;
pub mod telemetry;
pub mod web;
