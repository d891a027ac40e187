//! Why dindd stops: the line that tells it and the code to exit with.
//!
//! Owns the codes that are dindd's own. What happens then is [`crate::lifecycle`]'s.

use init::{Exit, exit_code};
use nix::sys::signal::Signal;
use tracing::{error, info};

/// dockerd ended though nobody asked it to (`EX_SOFTWARE`).
const DOCKERD_DIED: u8 = 70;
/// dockerd did not answer any more (`EX_OSERR`).
const DOCKERD_HUNG: u8 = 71;

/// Why dindd stops.
#[derive(Debug)]
pub(crate) enum Stop {
    Asked {
        signal: Signal,
        served: bool,
    },
    DockerdDied {
        exit: Exit,
        lines: String,
    },
    DockerdHung {
        misses: u32,
    },
    /// Something that is needed is not there.
    Unavailable(anyhow::Error),
    /// A privilege is missing.
    Refused(anyhow::Error),
    Failed(anyhow::Error),
}

impl Stop {
    /// The code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Asked { served: true, .. } => exit_code::DONE,
            Self::Asked {
                signal,
                served: false,
            } => Exit::Signal(*signal).shell_code(),
            Self::DockerdDied { .. } => DOCKERD_DIED,
            Self::DockerdHung { .. } => DOCKERD_HUNG,
            Self::Unavailable(_) => exit_code::UNAVAILABLE,
            Self::Refused(_) => exit_code::REFUSED,
            Self::Failed(_) => exit_code::UNEXPECTED,
        }
    }

    /// One line: what happened and, where somebody must act, what to do.
    pub(crate) fn log(&self) {
        match self {
            Self::Asked { signal, served } => info!(%signal, served, "asked to stop"),
            Self::DockerdDied { exit, lines } => {
                error!("dockerd ended with {exit}; its last lines: {lines}");
            }
            Self::DockerdHung { misses } => error!("dockerd missed {misses} probes: it hangs"),
            Self::Unavailable(cause) | Self::Refused(cause) | Self::Failed(cause) => {
                error!("{cause:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_documented_exit_code() {
        let asked = |served| Stop::Asked {
            signal: Signal::SIGTERM,
            served,
        };
        let failed = || anyhow::anyhow!("why");
        let died = Stop::DockerdDied {
            exit: Exit::Code(1),
            lines: String::new(),
        };
        for (stop, code) in [
            (asked(true), 0),
            (asked(false), 143),
            (
                Stop::Asked {
                    signal: Signal::SIGINT,
                    served: false,
                },
                130,
            ),
            (died, 70),
            (Stop::DockerdHung { misses: 3 }, 71),
            (Stop::Unavailable(failed()), 69),
            (Stop::Refused(failed()), 77),
            (Stop::Failed(failed()), 1),
        ] {
            assert_eq!(stop.exit_code(), code, "{stop:?}");
            let row = format!("| {code} |");
            assert!(
                include_str!("../README.md").contains(&row),
                "{row} is not in the README"
            );
        }
    }
}
