//! The ways a listener ends, as its exit code tells them (actions/runner `Constants.cs`,
//! `Program.cs`).

pub(crate) const SUCCESS: u8 = 0;
pub(crate) const TERMINATED: u8 = 1;
const RETRYABLE: u8 = 2;
pub(crate) const UPDATING: u8 = 3;
pub(crate) const RUN_ONCE_UPDATING: u8 = 4;
pub(crate) const SESSION_CONFLICT: u8 = 5;
const VERSION_DEPRECATED: u8 = 7;

/// What the real program throws up to its main function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No sense in trying again.
    #[error("{0}")]
    Terminated(String),
    /// The service gives this version no messages.
    #[error("{0}")]
    VersionTooOld(String),
    /// Anything else.
    #[error("{0:#}")]
    Retryable(#[from] anyhow::Error),
}

impl Failure {
    /// `deprecated_code`: whether a version too old has a code of its own.
    pub(crate) fn exit_code(&self, deprecated_code: bool) -> u8 {
        match self {
            Self::VersionTooOld(_) if deprecated_code => VERSION_DEPRECATED,
            Self::Terminated(_) | Self::VersionTooOld(_) => TERMINATED,
            Self::Retryable(_) => RETRYABLE,
        }
    }
}

/// How a job ended; `100 + n` is the worker's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    Canceled,
    Abandoned,
}

impl Outcome {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Succeeded => 100,
            Self::Failed => 102,
            Self::Canceled => 103,
            Self::Abandoned => 105,
        }
    }

    /// Any other code means that the worker crashed.
    pub(crate) fn from_exit_code(code: Option<i32>) -> Option<Self> {
        match code {
            Some(100) => Some(Self::Succeeded),
            Some(102) => Some(Self::Failed),
            Some(103) => Some(Self::Canceled),
            Some(105) => Some(Self::Abandoned),
            Some(_) | None => None,
        }
    }

    /// The word of the listener's line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
            Self::Abandoned => "Abandoned",
        }
    }

    /// The word of the service's API.
    pub(crate) fn conclusion(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Abandoned => "abandoned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_too_old_has_its_own_code_only_when_asked_for() {
        let too_old = Failure::VersionTooOld("old".to_owned());
        assert_eq!((too_old.exit_code(false), too_old.exit_code(true)), (1, 7));
        assert_eq!(Failure::Terminated(String::new()).exit_code(true), 1);
        assert_eq!(Failure::Retryable(anyhow::anyhow!("x")).exit_code(true), 2);
    }

    #[test]
    fn an_outcome_survives_the_exit_code() {
        for outcome in [
            Outcome::Succeeded,
            Outcome::Failed,
            Outcome::Canceled,
            Outcome::Abandoned,
        ] {
            let code = i32::from(outcome.exit_code());
            assert_eq!(Outcome::from_exit_code(Some(code)), Some(outcome));
        }
        assert_eq!(Outcome::from_exit_code(Some(1)), None);
        assert_eq!(Outcome::from_exit_code(None), None);
    }
}
