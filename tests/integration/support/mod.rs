//! What the tests stand on: a world with production and configuration, its servers, and the program as a process.

pub mod content;
pub mod process;
pub mod server;
pub mod wait;
pub mod world;

pub use process::{Running, Said};
pub use wait::until;
pub use world::World;
