//! How far the work is: counted by whoever does it, told by whoever started it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::rsync::Copied;

/// What is done and what there is to do, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Files that are done.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that there are in all, as far as it is known.
    pub all_files: u64,
    /// Their bytes.
    pub all_bytes: u64,
}

/// The counts. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    all_files: AtomicU64,
    all_bytes: AtomicU64,
    counters: Mutex<Vec<Arc<(AtomicU64, AtomicU64)>>>,
}

/// One counter of many, whose sum is told.
#[derive(Clone, Debug)]
pub(crate) struct Counter(Arc<(AtomicU64, AtomicU64)>);

impl Counter {
    pub(crate) fn add(&self, files: u64, bytes: u64) {
        self.0.0.fetch_add(files, Ordering::Relaxed);
        self.0.1.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, copied: Copied) {
        self.0.0.store(copied.files, Ordering::Relaxed);
        self.0.1.store(copied.bytes, Ordering::Relaxed);
    }
}

impl Progress {
    pub(crate) fn counter(&self) -> Counter {
        let counter = Arc::<(AtomicU64, AtomicU64)>::default();
        let mut counters = self
            .shared
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counters.push(Arc::clone(&counter));
        Counter(counter)
    }

    pub(crate) fn expect(&self, files: u64, bytes: u64) {
        self.shared.all_files.fetch_add(files, Ordering::Relaxed);
        self.shared.all_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How far it is now.
    #[must_use]
    pub fn amount(&self) -> Amount {
        let counters = self
            .shared
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&(AtomicU64, AtomicU64)) -> &AtomicU64| {
            counters
                .iter()
                .map(|counter| of(counter).load(Ordering::Relaxed))
                .sum()
        };
        Amount {
            files: sum(|counter| &counter.0),
            bytes: sum(|counter| &counter.1),
            all_files: self.shared.all_files.load(Ordering::Relaxed),
            all_bytes: self.shared.all_bytes.load(Ordering::Relaxed),
        }
    }
}
