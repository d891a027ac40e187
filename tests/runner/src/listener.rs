//! `run`: waits for a job and has it run (actions/runner `Runner.cs`).
//!
//! One loop over one channel: signals, what the broker says, the end of the job. The ways out of
//! the loop are in `ending`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use github_double::Message;
use github_double::script::Phase;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::broker::{Broker, Refused};
use crate::conversation::{Conversation, Presence, Said};
use crate::dispatch::{Job, display_name};
use crate::failure::{Failure, Outcome, RUN_ONCE_UPDATING, SUCCESS, TERMINATED, UPDATING};
use crate::script::Performance;
use crate::signals::{self, Asked};
use crate::store::Settings;
use crate::{Runner, VERSION};

pub(crate) enum Event {
    Signal(Asked),
    Said(Said),
    JobEnded(Outcome),
}

pub(crate) struct Listener {
    pub(crate) runner: Arc<Runner>,
    pub(crate) settings: Settings,
    pub(crate) broker: Arc<Broker>,
    pub(crate) performance: Arc<Performance>,
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
    pub(crate) session: Option<String>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) job: Option<Job>,
    /// Ends after one job.
    pub(crate) run_once: bool,
    /// Ends with the job's result as its code.
    pub(crate) return_result: bool,
}

pub(crate) fn run(runner: Runner, arguments: &Arguments) -> anyhow::Result<u8> {
    let runner = Arc::new(runner);
    match start(&runner, arguments) {
        Ok(code) => Ok(code),
        Err(failure) => {
            let name = "ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE";
            runner
                .terminal
                .error(&format!("An error occurred: {failure}"));
            Ok(failure.exit_code(runner.environment.is_true(name)))
        }
    }
}

fn start(runner: &Arc<Runner>, arguments: &Arguments) -> Result<u8, Failure> {
    let (events, inbox) = channel();
    signals::forward(events.clone(), Event::Signal)?;
    if let Some(encoded) = arguments
        .option("jitconfig")
        .filter(|text| !text.is_empty())
        && let Err(error) = runner.store.save_jit(encoded)
    {
        runner.terminal.error(&format!("{error:#}"));
        return Ok(TERMINATED);
    }
    if !runner.store.is_configured() {
        return Err(Failure::Terminated(
            "Not configured. Run config.(sh/cmd) to configure the runner.".to_owned(),
        ));
    }
    let settings = runner.store.settings()?;
    let work = runner.store.work(&settings);
    if std::fs::create_dir_all(&work).is_err() {
        runner.terminal.error(&format!(
            "Fail to create and validate runner's work directory '{}'.",
            work.display()
        ));
        return Ok(TERMINATED);
    }
    let performance = Arc::new(Performance::fetch(
        &settings.server_url_v2,
        &settings.agent_name,
    ));
    if let Some(code) = performance.at(Phase::Start) {
        return Ok(code);
    }
    let credentials = runner.store.credentials()?;
    let broker = Broker::new(settings.clone(), credentials, performance.version());
    let return_result = runner
        .environment
        .is_true("ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED");
    let listener = Listener {
        runner: Arc::clone(runner),
        broker: Arc::new(broker),
        performance,
        events,
        inbox,
        session: None,
        presence: Arc::default(),
        job: None,
        run_once: settings.ephemeral || arguments.flag("once") || return_result,
        return_result,
        settings,
    };
    listener.listen()
}

impl Listener {
    fn listen(mut self) -> Result<u8, Failure> {
        Conversation {
            runner: Arc::clone(&self.runner),
            broker: Arc::clone(&self.broker),
            performance: Arc::clone(&self.performance),
            skip_session_recover: self.settings.skip_session_recover,
            presence: Arc::clone(&self.presence),
            listener: self.events.clone(),
        }
        .start();
        loop {
            // We hold a sender ourselves, so the channel cannot close.
            let Ok(event) = self.inbox.recv() else {
                return Ok(SUCCESS);
            };
            let ended = match event {
                Event::Signal(asked) if self.performance.hears(asked) => {
                    return Ok(self.stop(asked));
                }
                Event::Signal(_) => None,
                Event::Said(Said::Connected(session)) => self.connected(session),
                Event::Said(Said::Message(message)) => self.take(&message)?,
                Event::Said(Said::Ended(end)) => return self.ended(end),
                Event::JobEnded(outcome) => self.job_ended(outcome)?,
            };
            if let Some(code) = ended {
                return Ok(code);
            }
        }
    }

    fn connected(&mut self, session: String) -> Option<u8> {
        self.session = Some(session);
        if let Some(code) = self.performance.at(Phase::Connected) {
            return Some(code);
        }
        let terminal = &self.runner.terminal;
        terminal.line(&format!("Current runner version: '{VERSION}'"));
        terminal.timed("Listening for Jobs");
        self.performance.at(Phase::Listening)
    }

    /// `Some`: the listener ends with that code.
    fn take(&mut self, message: &Message) -> Result<Option<u8>, Failure> {
        let body: Value = serde_json::from_str(&message.body).unwrap_or(Value::Null);
        let diag = self.runner.terminal.diag();
        match message.message_type.as_str() {
            "RunnerJobRequest" => return self.job_requested(&body),
            "JobCancellation" => {
                if let Some(job) = &self.job {
                    job.cancel(time_span(body["timeout"].as_str().unwrap_or_default()));
                }
            }
            "RunnerRefresh" | "AgentRefresh" => return Ok(self.update(&body)),
            "RunnerShutdown" => {
                diag.info("Runner", "Service requests the hosted runner to shutdown.");
                self.wait_for_job();
                return Ok(Some(SUCCESS));
            }
            "ForceTokenRefresh" => self.broker.forget_token(),
            other => diag.error(
                "Runner",
                &format!(
                    "Received message {} with unsupported message type {other}.",
                    message.message_id
                ),
            ),
        }
        Ok(None)
    }

    fn job_requested(&mut self, body: &Value) -> Result<Option<u8>, Failure> {
        if self.job.is_some() {
            return Ok(None);
        }
        let runner = Arc::clone(&self.runner);
        let diag = runner.terminal.diag();
        let request = body["runner_request_id"].as_str().unwrap_or_default();
        if body["should_acknowledge"] == json!(true) {
            let session = self.session.as_deref().unwrap_or_default();
            match self.broker.acknowledge(session, request) {
                Ok(()) => {}
                Err(Refused::JobNotFound(_)) if self.settings.ephemeral => {
                    diag.info(
                        "Runner",
                        "Acknowledge returned job-not-found. Exiting runner.",
                    );
                    self.end_session();
                    runner.store.delete(&runner.terminal)?;
                    return Ok(Some(SUCCESS));
                }
                Err(error) => diag.error(
                    "Runner",
                    &format!("Best-effort acknowledge failed: {error}"),
                ),
            }
        }
        let service = body["run_service_url"].as_str().unwrap_or_default();
        let mut message = match self.broker.acquire(service, request) {
            Ok(message) => message,
            Err(error) => {
                // Nothing reaches the terminal: a ghost for whoever only reads that.
                diag.info("Runner", &format!("Skipping message Job. {error}"));
                return Ok(None);
            }
        };
        runner
            .terminal
            .timed(&format!("Running job: {}", display_name(&message)));
        if let Some(code) = self.performance.at(Phase::JobRunning) {
            return Ok(Some(code));
        }
        message["runner"] = json!({
            "name": self.settings.agent_name,
            "root": runner.root,
            "work": runner.store.work(&self.settings),
        });
        self.presence.busy.store(true, Ordering::Relaxed);
        self.job = Some(Job::start(
            &self.runner,
            &self.performance,
            message,
            self.events.clone(),
        )?);
        Ok(None)
    }

    fn job_ended(&mut self, outcome: Outcome) -> Result<Option<u8>, Failure> {
        self.job = None;
        self.presence.busy.store(false, Ordering::Relaxed);
        if let Some(code) = self.performance.at(Phase::JobDone) {
            return Ok(Some(code));
        }
        if !self.run_once {
            return Ok(None);
        }
        self.end_session();
        if self.settings.ephemeral {
            self.runner.store.delete(&self.runner.terminal)?;
        }
        Ok(Some(if self.return_result {
            outcome.exit_code()
        } else {
            SUCCESS
        }))
    }

    /// The service wants another version. Nothing is downloaded here; what a supervisor sees of
    /// an update is the same: the lines, the code, and the marker once the listener is gone.
    fn update(&mut self, body: &Value) -> Option<u8> {
        let terminal = &self.runner.terminal;
        let version = body["target_version"].as_str().unwrap_or("unknown");
        terminal.line("Runner update in progress, do not shutdown runner.");
        terminal.line(&format!("Downloading {version} runner"));
        if self.job.is_some() {
            // The job's end is the runner's end as well.
            terminal.line("Waiting for current job finish running.");
            return None;
        }
        terminal.line("Waiting for current job finish running.");
        terminal.line("Generate and execute update script.");
        if let Err(error) = mark_updated_afterwards(&self.runner) {
            terminal.error(&format!("Runner update failed: {error:#}"));
            return None;
        }
        terminal
            .line("Runner will exit shortly for update, should be back online within 10 seconds.");
        self.end_session();
        Some(if self.run_once {
            RUN_ONCE_UPDATING
        } else {
            UPDATING
        })
    }
}

/// `hh:mm:ss`; nothing for anything else.
fn time_span(text: &str) -> Duration {
    let seconds = text
        .split(':')
        .map(|part| part.parse::<u64>().unwrap_or_default())
        .fold(0, |sum, part| sum * 60 + part);
    Duration::from_secs(seconds)
}

/// The update script of the real runner starts when the listener is gone, and ends with a marker
/// in the root.
#[expect(
    clippy::disallowed_methods,
    reason = "the script is meant to outlive the listener"
)]
fn mark_updated_afterwards(runner: &Runner) -> anyhow::Result<()> {
    let script = "while kill -0 \"$0\" 2>/dev/null; do sleep 0.05; done; : > update.finished";
    std::process::Command::new("sh")
        .args(["-c", script, &std::process::id().to_string()])
        .current_dir(&runner.root)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_counts_hours_minutes_and_seconds() {
        assert_eq!(time_span("01:05:10"), Duration::from_secs(3910));
        assert_eq!(time_span(""), Duration::ZERO);
    }
}
