//! The whole chain on a test host, as `make demo` shows it and the end-to-end tests check it: the
//! two images, a store for runtime caches, a double of GitHub, and tasks of two containers.
//!
//! Owns the arrangement. The host itself is the library `testhost`; what the containers do is
//! `supervisor`'s and `dindd`'s business, and nothing here tells them that this is a test.

mod binaries;
mod container;
pub mod driver;
mod engine;
mod github;
mod images;
mod job;
mod line;
mod stage;
mod task;

pub use container::Container;
pub use engine::Engine;
pub use github::Github;
pub use job::{ADDED_TOOL, KEPT_TOOL, everyday_job};
pub use line::{Line, Said};
pub use stage::{STORE, Stage, plan, prepare, prepare_all_engines};
pub use task::{Task, TaskOptions};
