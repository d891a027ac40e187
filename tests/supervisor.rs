//! The real binary between a double of GitHub, a stand-in for the runner's listener and rsync:
//! the order of things, and what is left when something goes wrong.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its case has failed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver is no PID 1 of a container"
)]

#[path = "supervisor/caches.rs"]
mod caches;
#[path = "supervisor/commands.rs"]
mod commands;
#[path = "supervisor/docker_double.rs"]
mod docker_double;
#[path = "supervisor/ecs.rs"]
mod ecs;
#[path = "supervisor/ecs_double.rs"]
mod ecs_double;
#[path = "supervisor/github.rs"]
mod github;
#[path = "supervisor/harness.rs"]
mod harness;
#[path = "supervisor/job.rs"]
mod job;
#[path = "supervisor/life.rs"]
mod life;
#[path = "supervisor/listener.rs"]
mod listener;
#[path = "supervisor/progress.rs"]
mod progress;
#[path = "supervisor/rest.rs"]
mod rest;
#[path = "supervisor/settings.rs"]
mod settings;
#[path = "supervisor/shared.rs"]
mod shared;
#[path = "supervisor/stop.rs"]
mod stop;
#[path = "supervisor/table.rs"]
mod table;
#[path = "supervisor/table_faults.rs"]
mod table_faults;
#[path = "supervisor/table_phases.rs"]
mod table_phases;
