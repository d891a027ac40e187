//! Our own log: standard error, text on a terminal and JSON elsewhere, set up once.
//!
//! A child's output never comes through here; see [`crate::output`].

use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How the log was started.
static STARTED: OnceLock<Format> = OnceLock::new();

/// How our own log is written (`LOG_FORMAT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for log drivers.
    Json,
}

impl Format {
    /// What is used when nothing was said: text on a terminal, else JSON.
    #[must_use]
    pub fn fitting_stderr() -> Self {
        if io::stderr().is_terminal() {
            Self::Text
        } else {
            Self::Json
        }
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("text or json"),
        }
    }
}

/// Starts the log. `level` is one of error, warn, info, debug, trace, or a filter of
/// tracing-subscriber's `EnvFilter` syntax.
///
/// # Errors
/// When `level` is no filter, or the log was started before.
pub fn start(format: Format, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_timer(SystemTime)
        .with_target(false);
    let started = match format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    STARTED.get_or_init(|| format);
    Ok(())
}

/// How the log is written, once it was started: for what people and machines are told differently.
#[must_use]
pub fn format() -> Option<Format> {
    STARTED.get().copied()
}
