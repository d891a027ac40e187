//! The double over real sockets: what it refuses, what it grants, and how it fails on order.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test driver: a failure is a panic, and it is no PID 1"
)]

mod apps;
mod client;
mod control;
mod faults;
mod program;
mod runners;
