//! The listener's life, followed phase by phase, and its next one where that helps.

use std::time::Duration;

use init::{Deadline, Owed};

use crate::failure::Failure;
use crate::lifecycle::{Duty, Task};
use crate::listener::{Listener, Next, Place};
use crate::listener_output::{Ended, State};
use crate::progress::Phase;
use crate::state::Stage;

/// How often a listener that could go on is started again.
const RESTARTS: u32 = 3;
const RESTART_PAUSE: Duration = Duration::from_secs(5);
/// How long the runner's update script may take (actions/runner `run-helper.sh.template`).
const UPDATE_LIMIT: Duration = Duration::from_secs(31);

impl Task<'_> {
    /// Starts the listener, and again when that helps, until its end means something.
    pub(crate) async fn serve(
        &self,
        owed: &mut Owed<Duty>,
        place: &Place<'_>,
    ) -> Result<Ended, Failure> {
        let mut starts = 0;
        loop {
            self.progress.enter(Stage::Connecting);
            let phase = self.progress.begin("listener-start");
            let listener = Listener::start(place, self.children)?;
            // No await between the start and the debt.
            let Duty::StopRunner(listener) = owed.owe(Duty::StopRunner(listener)) else {
                unreachable!("this duty was just owed");
            };
            let ended = self.follow(listener, phase).await;
            owed.done();
            starts += 1;
            self.ended.replace(Some(ended.clone()));
            if starts > RESTARTS {
                return Ok(ended);
            }
            match ended {
                Ended::Retryable => {
                    tracing::warn!(
                        starts,
                        "the runner's listener failed and may be started again"
                    );
                    tokio::time::sleep(RESTART_PAUSE * starts).await;
                }
                Ended::Updating => {
                    tracing::warn!(
                        "the runner updates itself, which costs every task a minute; build the image with a newer RUNNER_VERSION"
                    );
                    self.wait_for_update().await;
                }
                Ended::JobDone
                | Ended::NoJob
                | Ended::RegistrationGone
                | Ended::TooOld
                | Ended::SessionConflict
                | Ended::Failed(_)
                | Ended::Killed(_) => return Ok(ended),
            }
        }
    }

    async fn follow(&self, listener: &mut Listener, phase: Phase<'_>) -> Ended {
        let mut phase = Some(phase);
        let mut advance = |state: &State| {
            self.record(state);
            let (next, detail) = match state {
                State::Started | State::Connected | State::Stopping => return,
                State::Idle => (Some("idle"), "listening for jobs".to_owned()),
                State::Busy { job } => (Some("job"), job.clone()),
                State::Done { job, result } => (None, format!("{job}: {result}")),
            };
            if let Some(phase) = phase.take() {
                phase.done(detail);
            }
            phase = next.map(|name| self.progress.begin(name));
        };
        let ended = loop {
            match listener.next().await {
                Next::Changed(state) => advance(&state),
                Next::Ended(ended) => break ended,
            }
        };
        while let Some(state) = listener.missed() {
            advance(&state);
        }
        if let Some(phase) = phase {
            phase.done("the listener has ended");
        }
        ended
    }

    /// Tells the job's record.
    pub(crate) fn record(&self, state: &State) {
        match state {
            State::Started | State::Connected | State::Stopping => {}
            State::Idle => self.progress.enter(Stage::Idle),
            State::Busy { job } => {
                self.progress.job(job);
                self.ecs.protect();
            }
            State::Done { result, .. } => self.progress.result(result),
        }
    }

    async fn wait_for_update(&self) {
        let finished = self.settings.runner.home.join("update.finished");
        let deadline = Deadline::within(UPDATE_LIMIT);
        while !finished.exists() && !deadline.is_over() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
