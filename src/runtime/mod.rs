//! What every long piece of work needs: a job context, bounded workers, a clock, retries, child processes.

pub mod account;
pub mod child;
pub mod clock;
pub mod job;
pub mod lock;
pub mod process;
pub mod progress;
pub mod retry;
pub mod secret;
pub mod workers;

pub use clock::{Clock, SystemClock};
pub use job::JobContext;
pub use progress::Progress;
pub use workers::Workers;
