//! The caches on a store that is slow, broken, full or hung: `slowfs` mounted as one. Needs root,
//! /dev/fuse, and `slowfs` beside `supervisor`: `make build`.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its case has failed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver is no PID 1 of a container"
)]

#[path = "stores/faults.rs"]
mod faults;
#[path = "supervisor/harness.rs"]
#[expect(dead_code, reason = "what is not about stores is for the other tests")]
mod harness;
#[path = "supervisor/life.rs"]
#[expect(dead_code, reason = "what is not about stores is for the other tests")]
mod life;
#[path = "stores/mount.rs"]
mod mount;
#[path = "stores/owners.rs"]
mod owners;
#[path = "stores/requests.rs"]
mod requests;
