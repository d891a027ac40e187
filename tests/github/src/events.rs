//! The event log: every request and every change of state, one JSON object each, in order.
//!
//! Owns the list in memory, the file beside it and waiting for an event. Writes what it is
//! given: that no event carries a secret is the duty of the caller, and the shape helps (there is
//! no field for a header, a query or a body).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A request was answered; `status` is absent when the connection was dropped instead.
    Request,
    /// A fault rule took effect on a request.
    Fault,
    /// A registration, remove or installation token was issued.
    TokenIssued,
    RunnerRegistered,
    /// The registration is gone; `detail` says why: `deleted`, `replaced` or `completed`.
    RunnerRemoved,
    SessionCreated,
    SessionDeleted,
    JobQueued,
    /// A message about the job is on its way to a runner; the runner is not busy yet.
    JobOffered,
    /// The runner took the job and is busy.
    JobAcquired,
    /// `detail` is the conclusion.
    JobCompleted,
    /// A cancellation was asked for, by REST or by the control plane.
    JobCancelled,
    /// Nothing renewed the lock of a running job.
    JobLost,
}

/// One line of the log. Absent fields are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1.
    pub sequence: u64,
    /// The machine's time, not the double's shifted one; RFC 3339.
    pub time: jiff::Timestamp,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Without query and without the `/api/v3` prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The runner's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// The job's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Event {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            sequence: 0,
            time: jiff::Timestamp::now(),
            kind,
            method: None,
            path: None,
            status: None,
            runner: None,
            job: None,
            detail: None,
        }
    }

    pub(crate) fn runner(mut self, name: impl Into<String>) -> Self {
        self.runner = Some(name.into());
        self
    }

    pub(crate) fn job(mut self, id: impl Into<String>) -> Self {
        self.job = Some(id.into());
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Whether this is the answer to such a request: `is_request("POST", "/app/installations")`.
    pub fn is_request(&self, method: &str, path: &str) -> bool {
        self.kind == Kind::Request
            && self.method.as_deref() == Some(method)
            && self.path.as_deref() == Some(path)
    }
}

#[derive(Debug)]
pub(crate) struct EventLog {
    written: Mutex<Written>,
    grown: Condvar,
}

#[derive(Debug)]
struct Written {
    events: Vec<Event>,
    file: Option<File>,
}

impl EventLog {
    pub(crate) fn create(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path
            .map(|path| {
                File::create(path)
                    .with_context(|| format!("--event-log: cannot create {}", path.display()))
            })
            .transpose()?;
        Ok(Self {
            written: Mutex::new(Written {
                events: Vec::new(),
                file,
            }),
            grown: Condvar::new(),
        })
    }

    pub(crate) fn append(&self, mut event: Event) {
        let mut written = self.written();
        event.sequence = written.events.len() as u64 + 1;
        if let Some(file) = &mut written.file {
            let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
            if file.write_all(line.as_bytes()).is_err() {
                // A full disk must not take the tests' view of the service away.
                written.file = None;
            }
        }
        written.events.push(event);
        self.grown.notify_all();
    }

    /// Events with a sequence number above `after`.
    pub(crate) fn since(&self, after: u64) -> Vec<Event> {
        let start = usize::try_from(after).unwrap_or(usize::MAX);
        self.written()
            .events
            .get(start..)
            .unwrap_or_default()
            .to_vec()
    }

    /// The first event, past or to come, for which `matches` says yes.
    pub(crate) fn wait_for(
        &self,
        matches: impl Fn(&Event) -> bool,
        limit: Duration,
    ) -> anyhow::Result<Event> {
        let deadline = Instant::now() + limit;
        let mut written = self.written();
        let mut seen = 0;
        loop {
            if let Some(event) = written.events[seen..].iter().find(|event| matches(event)) {
                return Ok(event.clone());
            }
            seen = written.events.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail: Vec<String> = written.events[seen.saturating_sub(20)..]
                    .iter()
                    .map(|event| serde_json::to_string(event).unwrap_or_default())
                    .collect();
                anyhow::bail!(
                    "no such event within {limit:?}; the last ones:\n{}",
                    tail.join("\n")
                );
            }
            written = self
                .grown
                .wait_timeout(written, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
