//! The ways out of [`Listener`]: each leaves other things behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use github_double::script::Phase;

use crate::conversation::End;
use crate::failure::{Failure, SESSION_CONFLICT, SUCCESS, TERMINATED};
use crate::listener::{Event, Listener};
use crate::signals::Asked;

/// 128 + SIGTERM.
const TERMINATED_BY_SIGNAL: u8 = 143;
/// Seconds that the runtime gives a program to end after SIGTERM.
const UNLOAD_LIMIT: f64 = 30.0;

impl Listener {
    /// SIGINT or SIGTERM: the job is told and waited for; files and registration stay.
    pub(crate) fn stop(&mut self, asked: Asked) -> u8 {
        if asked == Asked::Interrupt {
            self.runner.terminal.line("Exiting...");
        }
        if let Some(code) = self.performance.at(Phase::Stopping) {
            return code;
        }
        let (code, deadline) = match asked {
            Asked::Interrupt => (SUCCESS, None),
            Asked::Terminate => (
                TERMINATED_BY_SIGNAL,
                Some(Instant::now() + self.performance.wait(UNLOAD_LIMIT)),
            ),
        };
        if let Some(job) = &self.job {
            job.shut_down();
            if let Some(early) = self.wait_for_end(deadline) {
                return early;
            }
        }
        self.end_session();
        code
    }

    /// `Some`: something ended the wait before the job did.
    fn wait_for_end(&self, deadline: Option<Instant>) -> Option<u8> {
        loop {
            let event = match deadline {
                Some(deadline) => self
                    .inbox
                    .recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => self.inbox.recv().map_err(RecvTimeoutError::from),
            };
            match event {
                Err(_) => return Some(TERMINATED_BY_SIGNAL),
                Ok(Event::JobEnded(_)) => return self.performance.at(Phase::JobDone),
                Ok(Event::Signal(asked)) if !self.performance.hears(asked) => {}
                Ok(Event::Signal(Asked::Interrupt)) => self.runner.terminal.line("Exiting..."),
                Ok(Event::Signal(Asked::Terminate)) => return Some(TERMINATED_BY_SIGNAL),
                Ok(Event::Said(_)) => {}
            }
        }
    }

    pub(crate) fn wait_for_job(&self) {
        if let Some(job) = &self.job {
            job.shut_down();
            let _early = self.wait_for_end(None);
        }
    }

    pub(crate) fn ended(mut self, end: End) -> Result<u8, Failure> {
        let runner = Arc::clone(&self.runner);
        match end {
            End::NoSession => Ok(TERMINATED),
            End::Conflict => Ok(SESSION_CONFLICT),
            End::RunnerNotFound => {
                runner.terminal.error(
                    "The runner no longer exists on the server. Cleaning up local configuration.",
                );
                self.wait_for_job();
                runner.store.delete(&runner.terminal)?;
                Ok(SUCCESS)
            }
            End::Deprovisioned => {
                self.wait_for_job();
                self.end_session();
                Ok(SUCCESS)
            }
            End::Failed(failure) => {
                self.wait_for_job();
                self.end_session();
                Err(failure)
            }
        }
    }

    /// The service may have forgotten an ephemeral runner already, so no answer is an error.
    pub(crate) fn end_session(&mut self) {
        self.presence.over.store(true, Ordering::Relaxed);
        if self.session.take().is_none() {
            return;
        }
        let limit = self.performance.wait(30.0);
        if let Err(error) = self.broker.delete_session(limit) {
            let diag = self.runner.terminal.diag();
            diag.info(
                "Runner",
                &format!("Ignore any exception during DeleteSession. {error}"),
            );
        }
    }
}
