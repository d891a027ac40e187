//! The cache engine between local disks and a store, with the real rsync.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its case has failed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own temporary directories"
)]

#[path = "caches/anomalies.rs"]
mod anomalies;
#[path = "caches/campaign.rs"]
mod campaign;
#[path = "caches/early.rs"]
mod early;
#[path = "caches/fidelity.rs"]
mod fidelity;
#[path = "caches/hostile.rs"]
mod hostile;
#[path = "caches/sharing.rs"]
mod sharing;
#[path = "caches/world.rs"]
mod world;
