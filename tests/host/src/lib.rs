#![doc = include_str!("../README.md")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver and its helpers, not the PID 1 of a container: nobody else here waits for children"
)]

mod boot;
mod cache;
mod cgroup;
mod disk;
mod docker;
mod enter;
mod first;
mod interrupt;
mod janitor;
mod leftovers;
mod loopdev;
mod mounts;
mod namespaces;
mod packages;
mod pid1;
mod process;
mod recipe;
mod reexec;
mod slirp;

pub use boot::{Host, Options};
pub use disk::{ImageBuild, Plan, PreparedDisk, prepare};
pub use interrupt::{interrupted, watch_signals};
pub use leftovers::Leftovers;
pub use process::{Running, Stream};
pub use reexec::reexec;
