//! The steps of a job, one after another (actions/runner `StepsRunner.cs`): which run, what an
//! order in the middle does to the running one and to the rest, and how the job ended.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context;
use github_double::{Condition, SHUTDOWN_ANNOTATION, StepSpec};

use super::directories::Directories;
use super::file_commands::FileCommands;
use super::hooks::Hook;
use super::log::JobLog;
use super::process::{DRAIN, Process, Script};
use super::step_environment::Variables;
use super::{Event, Order};
use crate::environment::Environment;
use crate::failure::Outcome;
use crate::signals::Asked;

/// How the job stands between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Succeeding,
    Failing,
    /// By the service: conditions are still asked.
    Cancelled,
    /// By a signal: nothing runs any more, whatever its condition.
    ShutDown,
}

pub(crate) struct Steps<'a> {
    pub(crate) events: Sender<Event>,
    pub(crate) inbox: Receiver<Event>,
    pub(crate) log: Arc<JobLog>,
    pub(crate) directories: &'a Directories,
    /// Inherited and set by the job, changed by `GITHUB_ENV`.
    pub(crate) variables: Variables,
    /// What no step can change.
    pub(crate) fixed: Variables,
    /// What steps put in front of `PATH`.
    pub(crate) path: Vec<String>,
    pub(crate) state: State,
}

pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    /// Name and conclusion of every step.
    pub(crate) steps: Vec<(String, String)>,
    pub(crate) annotations: Vec<String>,
}

enum Work<'a> {
    Hook(Result<String, String>),
    Step(&'a StepSpec),
}

impl Steps<'_> {
    pub(crate) fn run(&mut self, steps: &[StepSpec], environment: &Environment) -> Finished {
        let hook = |hook: Hook| {
            let script = hook.script(environment)?;
            Some((hook.step_name(), Condition::Always, Work::Hook(script)))
        };
        let planned = hook(Hook::Started)
            .into_iter()
            .chain(
                steps
                    .iter()
                    .map(|step| (step.name.as_str(), step.condition, Work::Step(step))),
            )
            .chain(hook(Hook::Completed));
        let mut conclusions = Vec::new();
        for (name, condition, work) in planned {
            while let Ok(event) = self.inbox.try_recv() {
                self.hear(&event);
            }
            let conclusion = if holds(condition, self.state) {
                self.perform(name, condition, &work)
            } else {
                "skipped"
            };
            let diag = self.log.diag();
            diag.info("StepsRunner", &format!("Step '{name}' {conclusion}."));
            conclusions.push((name.to_owned(), conclusion.to_owned()));
        }
        let (outcome, annotations) = match self.state {
            State::Succeeding => (Outcome::Succeeded, Vec::new()),
            State::Failing => (Outcome::Failed, Vec::new()),
            State::Cancelled => (
                Outcome::Canceled,
                vec!["The operation was canceled.".to_owned()],
            ),
            // Failed to the service; the listener's own line says Canceled.
            State::ShutDown => (Outcome::Failed, vec![SHUTDOWN_ANNOTATION.to_owned()]),
        };
        Finished {
            outcome,
            steps: conclusions,
            annotations,
        }
    }

    /// Takes notice of an order; `true` when it is one.
    fn hear(&mut self, event: &Event) -> bool {
        let state = match event {
            Event::Order(Order::CancelRequest) if self.state != State::ShutDown => State::Cancelled,
            Event::Order(Order::RunnerShutdown) | Event::Signal(Asked::Terminate) => {
                State::ShutDown
            }
            Event::Order(Order::CancelRequest)
            | Event::Signal(Asked::Interrupt)
            | Event::StepExited(_)
            | Event::OutputEnded => return false,
        };
        self.state = state;
        true
    }

    fn perform(&mut self, name: &str, condition: Condition, work: &Work<'_>) -> &'static str {
        self.log.line(format!("##[group]Run {name}").as_bytes());
        self.log.line(b"##[endgroup]");
        let error = match self.run_step(condition, work) {
            Ok(Ended::Well) => return "succeeded",
            Ok(Ended::Cancelled) => {
                self.log.line(b"##[error]The operation was canceled.");
                return "canceled";
            }
            Ok(Ended::Badly(error)) => error,
            Err(error) => format!("{error:#}"),
        };
        self.log.line(format!("##[error]{error}").as_bytes());
        if self.state == State::Succeeding {
            self.state = State::Failing;
        }
        "failed"
    }

    fn run_step(&mut self, condition: Condition, work: &Work<'_>) -> anyhow::Result<Ended> {
        let files = FileCommands::create(self.directories)?;
        let mut variables = self.variables.clone();
        let mut directory = self.directories.workspace.clone();
        let file = match work {
            Work::Hook(Err(problem)) => return Ok(Ended::Badly(problem.clone())),
            Work::Hook(Ok(script)) => script.clone(),
            Work::Step(step) => {
                variables.extend(
                    step.env
                        .iter()
                        .map(|(name, value)| (name.into(), value.into())),
                );
                if let Some(below) = &step.working_directory {
                    directory.push(below);
                }
                self.write_script(&step.run)?
            }
        };
        variables.extend(self.fixed.clone());
        for (name, path) in files.variables() {
            variables.insert(name.into(), path.into_os_string());
        }
        self.extend_path(&mut variables);
        let arguments: &[&str] = match work {
            Work::Hook(_) => &["-e", &file],
            Work::Step(_) => &["--noprofile", "--norc", "-eo", "pipefail", &file],
        };
        let script = Script {
            arguments,
            variables: &variables,
            directory: &directory,
        };
        let process = Process::start(&script, &self.log, &self.events)?;
        let ended = self.accompany(process, condition)?;
        files.apply(&mut self.variables, &mut self.path)?;
        Ok(ended)
    }

    /// Waits for the process and its output, and ends it when an order says so.
    fn accompany(&mut self, mut process: Process, condition: Condition) -> anyhow::Result<Ended> {
        let mut deadline: Option<Instant> = None;
        let mut output_ended = false;
        let mut cancelled = false;
        let status = loop {
            match self.next(deadline) {
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("nobody is left to wait for"),
                Err(RecvTimeoutError::Timeout) => deadline = after(process.escalate()),
                Ok(Event::StepExited(status)) => break status,
                Ok(Event::OutputEnded) => output_ended = true,
                Ok(event) => {
                    if self.hear(&event) && !cancelled && !holds(condition, self.state) {
                        cancelled = true;
                        deadline = after(process.escalate());
                    }
                }
            }
        };
        // Whoever still holds the pipe is not waited for longer than this.
        let drained = Instant::now() + DRAIN;
        while !output_ended {
            match self.next(Some(drained)) {
                Ok(Event::OutputEnded) => output_ended = true,
                Ok(event) => drop(self.hear(&event)),
                Err(_) => break,
            }
        }
        Ok(if cancelled {
            Ended::Cancelled
        } else if status.success() {
            Ended::Well
        } else {
            Ended::Badly(match status.code() {
                Some(code) => format!("Process completed with exit code {code}."),
                None => format!("Process ended: {status}."),
            })
        })
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Event, RecvTimeoutError> {
        match deadline {
            Some(deadline) => self
                .inbox
                .recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => self.inbox.recv().map_err(RecvTimeoutError::from),
        }
    }

    fn write_script(&self, text: &str) -> anyhow::Result<String> {
        let name = format!("{:032x}.sh", rand::random::<u128>());
        let path = self.directories.temp.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn extend_path(&self, variables: &mut Variables) {
        let mut path: Vec<OsString> = self.path.iter().map(OsString::from).collect();
        path.extend(variables.get(&OsString::from("PATH")).cloned());
        variables.insert("PATH".into(), path.join(&OsString::from(":")));
    }
}

/// How a step ended; `Badly` says why.
enum Ended {
    Well,
    Badly(String),
    Cancelled,
}

fn holds(condition: Condition, state: State) -> bool {
    match (condition, state) {
        (_, State::ShutDown) => false,
        (Condition::Always, _)
        | (Condition::Success, State::Succeeding)
        | (Condition::Failure, State::Failing)
        | (Condition::Cancelled, State::Cancelled) => true,
        (Condition::Success | Condition::Failure | Condition::Cancelled, _) => false,
    }
}

fn after(grace: Option<Duration>) -> Option<Instant> {
    grace.map(|grace| Instant::now() + grace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_runs_after_a_cancellation_and_nothing_after_a_shutdown() {
        let running = |state: State| {
            [
                Condition::Success,
                Condition::Always,
                Condition::Failure,
                Condition::Cancelled,
            ]
            .map(|condition| holds(condition, state))
        };
        assert_eq!(running(State::Succeeding), [true, true, false, false]);
        assert_eq!(running(State::Failing), [false, true, true, false]);
        assert_eq!(running(State::Cancelled), [false, true, false, true]);
        assert_eq!(running(State::ShutDown), [false; 4]);
    }
}
