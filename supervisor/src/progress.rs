//! What the operator sees: one log line per phase with its duration, the state file, the summary.
//!
//! Owns the list of phases of this run and the job's record. Everything that happens is told here
//! once; who wants to know reads it.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::job_report::JobReport;
use crate::state::{Stage, State};

/// A phase that is over.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Past {
    pub(crate) phase: &'static str,
    pub(crate) elapsed_ms: u64,
    /// What it brought, or `interrupted`.
    pub(crate) detail: String,
}

/// The record of this run.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    phases: RefCell<Vec<Past>>,
    state: RefCell<State>,
    file: PathBuf,
    /// Whether the state file cannot be written: that is told once.
    blind: Cell<bool>,
}

/// A phase that goes on. Dropping it tells that it was interrupted.
#[derive(Debug)]
#[must_use]
pub(crate) struct Phase<'a> {
    progress: &'a Progress,
    name: &'static str,
    began: Instant,
    over: bool,
}

impl Progress {
    pub(crate) fn new(file: PathBuf) -> Self {
        let progress = Self {
            started: Instant::now(),
            phases: RefCell::default(),
            state: RefCell::new(State::new()),
            file,
            blind: Cell::new(false),
        };
        progress.write();
        progress
    }

    pub(crate) fn begin(&self, name: &'static str) -> Phase<'_> {
        tracing::debug!(phase = name, "phase begins");
        Phase {
            progress: self,
            name,
            began: Instant::now(),
            over: false,
        }
    }

    /// The supervisor enters another stage.
    pub(crate) fn enter(&self, stage: Stage) {
        self.change(|state| state.phase = stage);
    }

    pub(crate) fn runner(&self, name: &str) {
        self.change(|state| state.runner = Some(name.to_owned()));
    }

    pub(crate) fn job(&self, name: &str) {
        self.change(|state| {
            state.phase = Stage::Job;
            state.job = Some(name.to_owned());
        });
    }

    pub(crate) fn result(&self, result: &str) {
        self.change(|state| state.result = Some(result.to_owned()));
    }

    /// Where the job comes from.
    pub(crate) fn origin(&self, report: JobReport) {
        self.change(|state| {
            state.repository = Some(report.repository);
            state.run_id = report.run_id;
        });
    }

    pub(crate) fn ended(&self, exit_code: u8) {
        self.change(|state| {
            state.phase = Stage::Ended;
            state.exit_code = Some(exit_code);
        });
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn phases(&self) -> Vec<Past> {
        self.phases.borrow().clone()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.borrow_mut();
        let before = state.clone();
        change(&mut state);
        if *state == before {
            return;
        }
        if state.phase != before.phase {
            state.since = Timestamp::now();
        }
        drop(state);
        self.write();
    }

    fn write(&self) {
        if let Err(error) = self.state.borrow().write(&self.file)
            && !self.blind.replace(true)
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "supervisor status will not work; make the directory writable or set SUPERVISOR_STATE_FILE"
            );
        }
    }

    fn past(&self, (phase, elapsed_ms): (&'static str, u64), detail: String) {
        self.phases.borrow_mut().push(Past {
            phase,
            elapsed_ms,
            detail,
        });
    }
}

impl Phase<'_> {
    /// The phase is over and brought this.
    pub(crate) fn done(mut self, detail: impl Display) {
        self.over = true;
        let detail = detail.to_string();
        let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(phase = self.name, elapsed_ms, detail, "phase done");
        self.progress.past((self.name, elapsed_ms), detail);
    }
}

impl Drop for Phase<'_> {
    fn drop(&mut self) {
        if !self.over {
            let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(phase = self.name, elapsed_ms, "phase interrupted");
            self.progress
                .past((self.name, elapsed_ms), "interrupted".to_owned());
        }
    }
}
