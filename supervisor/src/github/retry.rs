//! When to ask GitHub again: a growing, jittered pause, or the one that GitHub asked for.
//!
//! Owns the pauses. Whether a failure is worth another try is the error's to say, and how long
//! all tries may take is the caller's.

use std::time::Duration;

use init::Deadline;

use super::Error;

/// A try is given that long, however little time is left.
const LEAST: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);
/// What docs "Rate limits for the REST API" asks for when a limit does not say how long it lasts.
const UNSAID: Duration = Duration::from_secs(60);

/// Asks until it succeeds, fails for good, or the deadline leaves no time for another try.
pub(crate) async fn until<T>(
    deadline: Deadline,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut pauses = Pauses::default();
    loop {
        // A try that is not answered must leave time for another one.
        let half = deadline.at_most(LEAST.max(deadline.remaining() / 2));
        let error = match within(half, ask()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tokio::time::sleep(pauses.after(error, deadline, what)?).await;
    }
}

/// One try that ends at the deadline.
pub(crate) async fn within<T>(
    deadline: Deadline,
    ask: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    deadline.bound(ask).await.unwrap_or_else(|| {
        Err(Error::Transport {
            cause: "no answer in the time there was".to_owned(),
            sent: true,
        })
    })
}

/// The pauses between the tries of one call.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    tries: u32,
}

impl Pauses {
    /// The pause before the next try.
    ///
    /// # Errors
    /// The failure itself, when another try does not help or would come after the deadline.
    pub(crate) fn after(
        &mut self,
        error: Error,
        deadline: Deadline,
        what: &str,
    ) -> Result<Duration, Error> {
        if !error.may_pass() {
            return Err(error);
        }
        let pause = if let Error::Limited { wait, .. } = &error {
            wait.unwrap_or(UNSAID)
        } else {
            FIRST.saturating_mul(1 << self.tries.min(8)).min(LONGEST)
        };
        // Many tasks that start at once must not come back at once.
        let pause = pause + pause.mul_f64(rand::random::<f64>() / 2.0);
        if pause >= deadline.remaining() {
            return Err(error);
        }
        self.tries += 1;
        tracing::warn!(%error, pause_ms = pause.as_millis(), "{what}: trying again");
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Error {
        Error::Server {
            status: 500,
            message: String::new(),
        }
    }

    fn limited(wait: Option<u64>) -> Error {
        Error::Limited {
            message: String::new(),
            wait: wait.map(Duration::from_secs),
        }
    }

    #[test]
    fn pauses_grow_with_a_jitter_up_to_a_limit() {
        let mut pauses = Pauses::default();
        let deadline = Deadline::within(Duration::from_secs(3600));
        for least in [500, 1000, 2000, 4000, 8000, 15_000, 15_000] {
            let pause = pauses
                .after(server(), deadline, "test")
                .unwrap()
                .as_millis();
            assert!(
                (least..=least * 3 / 2).contains(&pause),
                "{pause} after {least}"
            );
        }
    }

    #[test]
    fn the_pause_is_the_one_that_github_asked_for() {
        let deadline = Deadline::within(Duration::from_secs(3600));
        for (wait, least) in [(Some(7), 7), (None, 60)] {
            let pause = Pauses::default()
                .after(limited(wait), deadline, "test")
                .unwrap();
            assert!(
                (least..=least * 3 / 2 + 1).contains(&pause.as_secs()),
                "{pause:?}"
            );
        }
    }

    #[test]
    fn there_is_no_pause_that_ends_after_the_deadline_or_does_not_help() {
        let soon = Deadline::within(Duration::from_secs(5));
        for error in [
            limited(Some(10)),
            Error::NotFound(String::new()),
            Error::Conflict(String::new()),
        ] {
            let text = error.to_string();
            let back = Pauses::default().after(error, soon, "test").unwrap_err();
            assert_eq!(back.to_string(), text);
        }
    }
}
