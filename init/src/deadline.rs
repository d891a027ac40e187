//! The one instant by which something is over. Made in few places, passed down everywhere.

use std::future::Future;
use std::time::{Duration, Instant};

/// An instant that work must not outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// The instant that is `budget` from now.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self {
            at: Instant::now() + budget,
        }
    }

    /// An earlier deadline that leaves `reserve` for the duties that come after.
    ///
    /// Never takes more than half of what remains, so that a hurried shutdown still gives every
    /// duty a positive share.
    #[must_use]
    pub fn reserving(self, reserve: Duration) -> Self {
        let half = self.remaining() / 2;
        Self {
            at: self.at.checked_sub(reserve.min(half)).unwrap_or(self.at),
        }
    }

    /// The earlier of this deadline and `budget` from now.
    #[must_use]
    pub fn at_most(self, budget: Duration) -> Self {
        self.min(Self::within(budget))
    }

    /// What is left, zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether the instant has passed.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs `work` until it ends or the deadline passes; `None` when it passed first.
    pub async fn bound<F: Future>(self, work: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.at.into(), work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserving_takes_the_reserve_from_the_end() {
        let whole = Deadline::within(Duration::from_secs(30));
        let earlier = whole.reserving(Duration::from_secs(10));
        assert_eq!(whole.at - earlier.at, Duration::from_secs(10));
    }

    #[test]
    fn reserving_more_than_there_is_still_leaves_a_positive_budget() {
        let hurried = Deadline::within(Duration::from_secs(4));
        let share = hurried.reserving(Duration::from_secs(60));
        assert!(share.remaining() > Duration::from_secs(1), "{share:?}");
    }

    #[test]
    fn at_most_never_moves_a_deadline_back() {
        let near = Deadline::within(Duration::from_secs(1));
        assert_eq!(near.at_most(Duration::from_secs(60)), near);
    }

    #[test]
    fn work_that_outlives_the_deadline_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let outcome = runtime.block_on(
            Deadline::within(Duration::from_millis(1)).bound(std::future::pending::<()>()),
        );
        assert_eq!(outcome, None);
    }
}
