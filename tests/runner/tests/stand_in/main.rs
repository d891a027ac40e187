//! The stand-in against the double of GitHub, over real sockets and with real processes.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test driver: a failure is a panic, and it is no PID 1"
)]

mod exits;
mod harness;
mod jobs;
mod registration;
mod scripts;
