#![doc = include_str!("../README.md")]

mod changed;
mod filter;
mod inspect;
mod local;
mod memory;
mod moved;
mod pack;
mod problems;
mod progress;
mod prune;
mod publish;
pub mod request;
mod restore;
pub mod rsync;
mod shard;
mod stop;
mod store;
mod tree;
mod trees;
mod unit;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use inspect::{Found, Verified, list, verify};
pub use memory::BELIEVED;
pub use progress::{Amount, Progress};
pub use prune::{Pruned, Rules, prune};
pub use publish::{Condition, Published, publish};
pub use restore::{Order, Restored, restore};
pub use stop::Stop;
pub use store::hand_over;
pub use unit::{Unit, scan};
pub use watch::watch;

/// How many requests a store answers at once: an NFS client has that many slots.
pub(crate) const REQUESTS: usize = 64;

/// A cached directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Where it is; absolute.
    pub path: PathBuf,
    /// It is restored, and never published.
    #[serde(default)]
    pub read_only: bool,
    /// Names that are neither restored nor published, beside those that never are.
    #[serde(default)]
    pub exclude: Vec<String>,
}

impl Root {
    /// Its last name, under which the store keeps it.
    #[must_use]
    pub fn name(&self) -> OsString {
        self.path.file_name().unwrap_or_default().to_owned()
    }
}

/// What is cached, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caches {
    /// The shared store.
    pub store: PathBuf,
    /// The cached directories; the first is the tool cache.
    pub roots: Vec<Root>,
}

impl Caches {
    fn tools(&self) -> &Path {
        self.roots.first().map_or(Path::new(""), |root| &root.path)
    }
}

/// What is told while the work goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Units that are there before a job: what it does to them is not published.
    Known(Vec<Unit>),
    /// A unit is complete on the local disk.
    Restored(Unit),
    /// A unit is in the store.
    Published {
        /// Which one.
        unit: Unit,
        /// Its files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// What a job is likely to need is there; the rest follows.
    Ready {
        /// The files that arrived by now.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
}

pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

pub(crate) fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

/// Removes a directory of our own with everything in it; what is gone already is fine.
pub(crate) fn remove_tree(path: &Path) -> std::io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "our own directories inside a cache or a store; nothing is mounted in them, and links are not followed"
    )]
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
