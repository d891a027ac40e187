//! What a stand-in for the runner's listener is told to do wrong.
//!
//! The real listener knows nothing of this: a stand-in asks `GET /_double/listener` before it
//! connects. With it a test can drive every exit of the listener's contract at a chosen moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything unset is true to the real listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Shortens (or stretches) the listener's own waits: back-off, the 30 s between two session
    /// attempts, the 30 s a SIGTERM may take. `None`: 1.
    pub wait_scale: Option<f64>,
    /// Signals that are not heard.
    pub deaf_to: Vec<Deafness>,
    /// The version it claims to be towards the service.
    pub version: Option<String>,
    /// What to do on reaching a phase, in order.
    pub at: BTreeMap<Phase, Vec<Act>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deafness {
    Interrupt,
    Terminate,
}

/// Moments in a listener's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The configuration is read, nothing was sent yet.
    Start,
    /// The session exists; `Listening for Jobs` is not printed yet.
    Connected,
    /// After `Listening for Jobs`.
    Listening,
    /// After `Running job: …`, before the worker starts.
    JobRunning,
    /// After `Job … completed with result: …`.
    JobDone,
    /// After the first SIGINT or SIGTERM.
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Act {
    /// Lines on standard output, as they are.
    Print { lines: Vec<String> },
    /// Lines on standard error, as they are.
    PrintError { lines: Vec<String> },
    /// That many bytes of lines on standard output.
    Flood { bytes: u64 },
    /// Ends at once with that code; nothing is cleaned up.
    Exit { code: u8 },
    /// Dies of that signal.
    Die { signal: i32 },
    /// Does nothing more, for ever, and hears no signal; only SIGKILL ends it.
    Hang,
    /// Leaves a process behind that keeps standard output open for that long, out of reach of
    /// the listener's process group.
    Grandchild { seconds: u32 },
}

impl Script {
    #[must_use]
    pub fn at(mut self, phase: Phase, act: Act) -> Self {
        self.at.entry(phase).or_default().push(act);
        self
    }

    #[must_use]
    pub fn wait_scale(mut self, scale: f64) -> Self {
        self.wait_scale = Some(scale);
        self
    }

    #[must_use]
    pub fn deaf_to(mut self, deafness: Deafness) -> Self {
        self.deaf_to.push(deafness);
        self
    }
}
