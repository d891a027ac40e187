//! One script as a process: started, listened to, ended with growing force.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::Event;
use super::log::JobLog;
use super::step_environment::Variables;
use crate::process_tree;

/// After SIGINT, then after SIGTERM (actions/runner `ProcessInvoker.cs`).
pub(crate) const GRACES: [Duration; 2] = [Duration::from_millis(7500), Duration::from_millis(2500)];
/// How long output may come after the process has ended.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

pub(crate) struct Process {
    pid: u32,
    force: Force,
}

/// How hard the process was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Force {
    None,
    Interrupted,
    Terminated,
    Killed,
}

pub(crate) struct Script<'a> {
    pub(crate) arguments: &'a [&'a str],
    pub(crate) variables: &'a Variables,
    pub(crate) directory: &'a Path,
}

impl Process {
    /// Starts bash. Its end and the end of its output come as events.
    #[expect(
        clippy::disallowed_methods,
        reason = "the stand-in is no PID 1 and has no init::Children"
    )]
    pub(crate) fn start(
        script: &Script<'_>,
        log: &Arc<JobLog>,
        events: &Sender<Event>,
    ) -> anyhow::Result<Self> {
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        let mut child = Command::new("bash")
            .args(script.arguments)
            .current_dir(script.directory)
            .env_clear()
            .envs(script.variables)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("cannot start bash in {}", script.directory.display()))?;
        let pid = child.id();
        prefer_for_oom(pid, script.variables);
        let ended = events.clone();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                drop(ended.send(Event::StepExited(status)));
            }
        });
        let ended = events.clone();
        let log = Arc::clone(log);
        thread::spawn(move || {
            copy(reader, &log);
            drop(ended.send(Event::OutputEnded));
        });
        Ok(Self {
            pid,
            force: Force::None,
        })
    }

    /// The next harder way to end it, and how long to wait for the effect.
    pub(crate) fn escalate(&mut self) -> Option<Duration> {
        match self.force {
            Force::None => {
                process_tree::send(self.pid, Signal::SIGINT);
                self.force = Force::Interrupted;
                Some(GRACES[0])
            }
            Force::Interrupted => {
                process_tree::send(self.pid, Signal::SIGTERM);
                self.force = Force::Terminated;
                Some(GRACES[1])
            }
            Force::Terminated | Force::Killed => {
                process_tree::kill_tree(self.pid);
                self.force = Force::Killed;
                None
            }
        }
    }
}

fn copy(reader: PipeReader, log: &JobLog) {
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        log.line(&line);
    }
}

/// Steps shall be killed before the runner when memory runs out.
fn prefer_for_oom(pid: u32, variables: &Variables) {
    let score = variables
        .get(std::ffi::OsStr::new("PIPELINE_JOB_OOMSCOREADJ"))
        .map_or("500".into(), |score| score.to_string_lossy());
    // The real runner only traces a failure.
    drop(std::fs::write(
        format!("/proc/{pid}/oom_score_adj"),
        score.as_bytes(),
    ));
}
