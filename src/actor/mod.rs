//! The actors: who decides what runs, and who notices when something dies, hangs or stalls.
//!
//! Control plane only. Handlers return within a millisecond and do no I/O; work runs as tasks on `runtime::Workers`.
//! The only module (with `main` and `app`) that knows actix.

pub mod board;
pub mod daemon;
pub mod job;
pub mod node_work;
pub mod root;
pub mod supervise;
pub mod system;
pub mod work;
