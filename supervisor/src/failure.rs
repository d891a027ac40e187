//! Why the work could not be done, with the exit code that says so.

use init::exit_code;

/// An end before the work was done that nobody asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// Credentials or privileges do not suffice, or GitHub refuses this runner.
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: exit_code::REFUSED,
            error: error.into(),
        }
    }

    /// Something that is needed is not there, after retries.
    pub(crate) fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: exit_code::UNAVAILABLE,
            error: error.into(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            code: exit_code::UNEXPECTED,
            error,
        }
    }
}
