//! Being told to stop: by the clock, or by whoever started the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Cheap to clone; all clones stop together.
#[derive(Clone, Debug)]
pub struct Stop {
    at: Option<Instant>,
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// Stops when `budget` is over; never by itself without one.
    #[must_use]
    pub fn within(budget: Option<Duration>) -> Self {
        Self {
            at: budget.map(|budget| Instant::now() + budget),
            asked: Arc::default(),
        }
    }

    /// Asks everybody to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether it is time.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// What is left; `None` when there is no end.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        if self.asked.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        self.at
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.is_over() {
            bail!("{TOO_LATE}");
        }
        Ok(())
    }
}

/// What is said of what did not fit.
pub(crate) const TOO_LATE: &str = "the time did not suffice";
