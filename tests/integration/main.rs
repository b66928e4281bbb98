//! Tests of the whole program: the real `lifeboat` against real servers on loopback, each test in a world of its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "test code outside of #[test] functions: a failure is a panic, and there is no job to run within"
)]

mod bad_input;
mod crash;
mod demo;
mod interrupt;
mod lifecycle;
mod proof;
mod refusal;
mod serve;
mod support;
