//! A test double of the GitHub REST endpoints and runner services that a self-hosted runner's
//! supervisor and listener use.
//!
//! It is strict where GitHub is: authorization, required headers, body shapes, expiry, name
//! collisions, busy runners, single use of a configuration. Every answer carries
//! `X-Double: github-double`, so nobody takes it for the real thing. REST routes exist at the
//! root and below `/api/v3`; URLs that it hands out are made from the request's `Host`, so it can
//! be reached by any address.
//!
//! In a test: [`GithubDouble::start`], then the methods of [`Double`]. As a program: the binary
//! of the same name, with the same methods below `/_double/`.
//!
//! Differences from GitHub that a reader should know:
//! - `POST …/cancel` and every other REST call take effect at once.
//! - A runner is offline two seconds after its last connection ended (`Options::offline_after`),
//!   not after minutes.
//! - The job message names its parts as the real one does, but its steps are plain scripts, and
//!   job logs go to `POST /_results/jobs/{id}/log` instead of signed blob URLs.

mod clock;
mod double;
mod events;
mod faults;
mod gate;
mod http;
mod jwt;
mod keys;
pub mod rsa_key;
pub mod script;
mod server;
mod world;

pub use double::{Double, TokenKind};
pub use events::{Event, Kind};
pub use faults::{Action, Armed, Hangup, Rule};
pub use server::{GithubDouble, Options};
pub use world::Group;
pub use world::apps::App;
pub use world::credentials::Grant;
pub use world::job_spec::{Condition, JobSpec, StepSpec};
pub use world::jobs::{JobState, JobView, SHUTDOWN_ANNOTATION};
pub use world::runners::RunnerView;
pub use world::scope::Scope;
pub use world::sessions::Message;
pub use world::versions::Versions;
