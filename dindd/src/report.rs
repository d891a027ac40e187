//! What is going on, for the log and for whoever asks over TCP.
//!
//! Owns the one value that the lifecycle writes and the health server reads, and the log line that
//! every phase ends with. Does not decide what is healthy; see [`crate::health`].

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tracing::info;

use crate::data_root::seconds_since_1970;
use crate::isolation::Isolation;

/// Where dindd is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Starting,
    Healthy,
    /// dockerd has missed probes; it may recover.
    Failing,
    Stopping,
}

impl State {
    pub(crate) const ALL: [Self; 4] =
        [Self::Starting, Self::Healthy, Self::Failing, Self::Stopping];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
        }
    }
}

/// What `/healthz` shows.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// Why, in one sentence.
    pub(crate) reason: String,
    /// Since when, in seconds since 1970.
    pub(crate) since: u64,
    pub(crate) version: &'static str,
    /// What dockerd told about itself, when it was ready.
    pub(crate) engine: Option<Versions>,
    pub(crate) isolation: Option<&'static str>,
    pub(crate) data_root: Option<String>,
    /// Every phase so far with its duration in milliseconds.
    pub(crate) phases: Vec<(&'static str, u64)>,
}

/// The engine's versions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) docker: String,
    pub(crate) api: String,
    pub(crate) kernel: String,
    /// The answer to `/version`, as dockerd gave it.
    #[serde(skip)]
    pub(crate) whole: String,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Report {
    status: watch::Sender<Status>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let status = Status {
            state: State::Starting,
            reason: "dindd prepares".to_owned(),
            since: seconds_since_1970(),
            version: env!("CARGO_PKG_VERSION"),
            engine: None,
            isolation: None,
            data_root: None,
            phases: Vec::new(),
        };
        Self {
            status: watch::Sender::new(status),
        }
    }

    pub(crate) fn reader(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Begins a phase; its end is logged by [`Phase::done`].
    pub(crate) fn phase(&self, name: &'static str) -> Phase<'_> {
        Phase {
            report: self,
            name,
            begun: Instant::now(),
        }
    }

    pub(crate) fn state(&self, state: State, reason: &str) {
        self.status.send_modify(|status| {
            if status.state != state {
                status.since = seconds_since_1970();
            }
            status.state = state;
            reason.clone_into(&mut status.reason);
        });
    }

    pub(crate) fn data_root(&self, name: &str) {
        self.status
            .send_modify(|status| status.data_root = Some(name.to_owned()));
    }

    pub(crate) fn isolation(&self, isolation: Isolation) {
        self.status
            .send_modify(|status| status.isolation = Some(isolation.name()));
    }

    pub(crate) fn engine(&self, versions: Versions) {
        self.status
            .send_modify(|status| status.engine = Some(versions));
    }
}

/// A step of the lifecycle that is under way.
#[derive(Debug)]
#[must_use]
pub(crate) struct Phase<'a> {
    report: &'a Report,
    name: &'static str,
    begun: Instant,
}

impl Phase<'_> {
    pub(crate) fn done(self) {
        let elapsed_ms = milliseconds(self.begun.elapsed());
        info!(phase = self.name, elapsed_ms, "phase done");
        self.report
            .status
            .send_modify(|status| status.phases.push((self.name, elapsed_ms)));
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
