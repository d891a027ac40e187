//! The worker: one job in a process of its own (actions/runner `Runner.Worker`).
//!
//! It reads the job and later orders from standard input, one JSON value per line, runs the
//! steps, sends their output to the service, reports the end, and tells the outcome by its exit
//! code. Its own standard output is the listener's to read and mostly to drop.

mod directories;
mod file_commands;
mod hooks;
mod log;
mod process;
mod step_environment;
mod steps;

use std::collections::BTreeMap;
use std::io::{BufRead, stdin};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use github_double::StepSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::broker::JobConnection;
use crate::diag::Diag;
use crate::environment::Environment;
use crate::failure::Outcome;
use crate::process_tree;
use crate::signals::{self, Asked};
use directories::Directories;
use log::JobLog;
use steps::{Finished, State, Steps};

/// What the listener may ask for while the job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// From the service: `always()` steps still run.
    CancelRequest,
    /// From a signal: nothing more runs.
    RunnerShutdown,
}

/// What the worker's one loop waits for.
pub(crate) enum Event {
    Order(Order),
    Signal(Asked),
    StepExited(std::process::ExitStatus),
    OutputEnded,
}

/// The job message, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobMessage {
    job_display_name: String,
    steps: Vec<StepSpec>,
    environment_variables: BTreeMap<String, String>,
    context_data: ContextData,
    runner: Whereabouts,
}

#[derive(Deserialize)]
struct ContextData {
    github: Value,
}

#[derive(Deserialize)]
pub(crate) struct Whereabouts {
    pub(crate) name: String,
    root: PathBuf,
    pub(crate) work: PathBuf,
}

/// A crash: the listener takes any code that is no outcome for one.
const CRASHED: u8 = 1;

pub(crate) fn main() -> u8 {
    match work() {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            crate::terminal::print_error(&format!("{error:#}"));
            CRASHED
        }
    }
}

fn work() -> anyhow::Result<Outcome> {
    let (events, inbox) = channel();
    // SIGINT is swallowed: the listener decides. SIGTERM is a shutdown of our own.
    signals::forward(events.clone(), Event::Signal)?;
    let mut lines = stdin().lock().lines();
    let first = lines.next().context("the listener sent no job")??;
    drop(lines);
    let message: Value = serde_json::from_str(&first).context("the job message is no JSON")?;
    let connection = JobConnection::of(&message)?;
    let job: JobMessage =
        serde_json::from_value(message).context("the job message is not what it should be")?;
    hear_orders(events.clone());

    let environment = Environment::inherited();
    let diag = Diag::create(&job.runner.root, "Worker", &environment)?;
    diag.info("Worker", &format!("Job {} received.", job.job_display_name));
    let log = Arc::new(JobLog::start(diag, connection.clone()));
    let directories = Directories::prepare(&job.runner, &job.context_data.github, &environment)?;
    let mark = format!("github_{:032x}", rand::random::<u128>());
    let mut steps = Steps {
        events,
        inbox,
        log: Arc::clone(&log),
        directories: &directories,
        variables: step_environment::base(&environment, &job.environment_variables),
        fixed: step_environment::fixed(&job.runner, &job.context_data.github, &directories, &mark),
        path: Vec::new(),
        state: State::Succeeding,
    };
    let finished = steps.run(&job.steps, &environment);

    for orphan in process_tree::marked(&format!("RUNNER_TRACKING_ID={mark}")) {
        log.line(format!("Terminate orphan process: pid ({orphan})").as_bytes());
        process_tree::kill_tree(orphan);
    }
    log.flush();
    directories.clean()?;
    report(&connection, &finished)?;
    Ok(finished.outcome)
}

fn hear_orders(events: Sender<Event>) {
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if let Ok(order) = serde_json::from_str(&line) {
                drop(events.send(Event::Order(order)));
            }
        }
        // The listener is gone: nobody can ask for anything any more.
        drop(events.send(Event::Order(Order::RunnerShutdown)));
    });
}

/// Five attempts, like the real one.
fn report(connection: &JobConnection, finished: &Finished) -> anyhow::Result<()> {
    let steps: Vec<Value> = finished
        .steps
        .iter()
        .map(|(name, conclusion)| json!({ "name": name, "conclusion": conclusion }))
        .collect();
    let annotations: Vec<Value> = finished
        .annotations
        .iter()
        .map(|text| json!({ "message": text }))
        .collect();
    let body = json!({
        "conclusion": finished.outcome.conclusion(),
        "stepResults": steps,
        "annotations": annotations,
    });
    let mut attempts = 0;
    loop {
        attempts += 1;
        match connection.complete(body.clone()) {
            Ok(()) => return Ok(()),
            Err(error) if attempts == 5 => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(500 << attempts)),
        }
    }
}
