//! The runner's listener as a child: its command line, its user, its environment, its signals.
//!
//! Executes `bin/Runner.Listener` itself, because `run.sh` hides exit codes and loses signals.
//! Its output goes to ours unchanged on a thread of its own; what the lines mean is
//! [`crate::listener_output`]'s. SIGINT to this process alone is the one way to stop it in order
//! (actions/runner `Runner.cs` CtrlCHandler): its group would take the job's steps with it, and
//! SIGTERM gives up after 30 s.

use std::fs::File;
use std::io;
use std::mem::discriminant;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use init::output::{self, Copying};
use init::{Child, Children, Deadline, Exit};
use nix::sys::signal::Signal;
use nix::unistd::Gid;
use tokio::sync::{mpsc, watch};

use crate::config::{Docker, Runner};
use crate::job_hooks::Hook;
use crate::listener_output::{Ended, Line, Seen, State, meaning};
use crate::processes;
use crate::user::{Sudo, User};

/// How long a grandchild may hold the output after the listener's end.
const DRAIN: Duration = Duration::from_secs(1);
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// As whom and with what the runner's programs run.
pub(crate) struct Place<'a> {
    pub(crate) runner: &'a Runner,
    pub(crate) user: &'a User,
    pub(crate) docker: Option<&'a Docker>,
    /// Those of the Docker socket.
    pub(crate) groups: Vec<Gid>,
    /// The scripts that tell us about the job.
    pub(crate) hooks: Vec<Hook>,
}

/// A listener that runs.
#[derive(Debug)]
pub(crate) struct Listener {
    child: Child,
    copying: Option<Copying>,
    seen: watch::Receiver<Seen>,
    changes: mpsc::UnboundedReceiver<State>,
}

/// What happens next to a listener.
#[derive(Debug)]
pub(crate) enum Next {
    Changed(State),
    Ended(Ended),
}

impl Place<'_> {
    /// A program of the runner, as the runner's user and with nothing of ours.
    pub(crate) fn command(&self, program: &str) -> Command {
        let home = &self.runner.home;
        let mut command = Command::new(home.join(program));
        let user_home = if self.user.home.is_dir() {
            &self.user.home
        } else {
            home
        };
        let tools = &self.runner.tool_cache;
        command
            .current_dir(home)
            .env_clear()
            .envs(
                self.runner
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .env("HOME", user_home)
            .env("USER", &self.user.name)
            .env("LOGNAME", &self.user.name)
            // All the names by which setup actions look for the tool cache.
            .env("RUNNER_TOOL_CACHE", tools)
            .env("RUNNER_TOOLSDIRECTORY", tools)
            .env("AGENT_TOOLSDIRECTORY", tools)
            // Without it "too old" looks like any other failure. It must be exactly 1.
            .env("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", "1");
        if let Some(docker) = self.docker {
            command.env("DOCKER_HOST", docker.address.to_string());
        }
        command.envs(self.hooks.iter().map(|hook| (hook.variable, &hook.script)));
        let sudo = if self.runner.sudo {
            Sudo::Allowed
        } else {
            Sudo::Refused
        };
        self.user.apply(&mut command, &self.groups, sudo);
        command
    }

    /// The version of the runner's program.
    pub(crate) async fn version(&self, children: &Children) -> anyhow::Result<String> {
        let mut command = self.command("bin/Runner.Listener");
        command.arg("--version");
        let out = children
            .run(&mut command, Deadline::within(VERSION_LIMIT))
            .await?
            .checked()?;
        let text = String::from_utf8_lossy(&out);
        // A program that prints more than it was asked for says the version last.
        let version = text.split_whitespace().next_back().unwrap_or_default();
        ensure!(
            version.starts_with(|first: char| first.is_ascii_digit()),
            "bin/Runner.Listener --version says {text:?}, which is no version"
        );
        Ok(version.to_owned())
    }
}

/// Whether there is a runner to start.
pub(crate) fn find(home: &Path) -> anyhow::Result<()> {
    let program = home.join("bin/Runner.Listener");
    ensure!(
        program.is_file(),
        "RUNNER_HOME: there is no runner in {}: {} is missing; the image must contain actions/runner",
        home.display(),
        program.display()
    );
    Ok(())
}

impl Listener {
    /// Starts the listener of a configured runner.
    pub(crate) fn start(place: &Place<'_>, children: &Children) -> anyhow::Result<Self> {
        let mut command = place.command("bin/Runner.Listener");
        // One pipe for both streams: their lines stay in order and never mix.
        let (read, write) = io::pipe().context("cannot make a pipe")?;
        let error = write.try_clone().context("cannot make a pipe")?;
        command
            .arg("run")
            .stdin(Stdio::null())
            .stdout(write)
            .stderr(error);
        let child = children.spawn(&mut command).with_context(|| {
            format!(
                "cannot start {}",
                place.runner.home.join("bin/Runner.Listener").display()
            )
        })?;
        // Our copies of the write end are in the command: with it they go.
        drop(command);
        let (tell, seen) = watch::channel(Seen::default());
        let (change, changes) = mpsc::unbounded_channel();
        let ours = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot duplicate our output")?;
        let copying = output::copy(OwnedFd::from(read), File::from(ours), move |line| {
            let Some(line) = Line::read(line) else { return };
            let mut changed = None;
            tell.send_modify(|seen| {
                let before = discriminant(&seen.state);
                seen.note(line);
                // The same state again is no news, whoever writes it however often.
                changed = (discriminant(&seen.state) != before).then(|| seen.state.clone());
            });
            if let Some(state) = changed {
                // Nobody listens any more once the listener was given up.
                change.send(state).ok();
            }
        })
        .context("cannot copy the runner's output")?;
        Ok(Self {
            child,
            copying: Some(copying),
            seen,
            changes,
        })
    }

    /// What is known from its output by now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until its state changes or it has ended.
    pub(crate) async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            Some(state) = self.changes.recv() => Next::Changed(state),
            exit = self.child.exited() => Next::Ended(self.end(exit).await),
        }
    }

    /// A state that it was in and that [`Self::next`] did not tell.
    pub(crate) fn missed(&mut self) -> Option<State> {
        self.changes.try_recv().ok()
    }

    /// Waits for its end and what that means.
    pub(crate) async fn ended(&mut self) -> Ended {
        let exit = self.child.exited().await;
        self.end(exit).await
    }

    /// Asks it to stop; a job that runs is cancelled.
    pub(crate) fn interrupt(&self) {
        self.child.signal(Signal::SIGINT);
    }

    /// Ends the job's steps, so that the runner can report the job's end.
    pub(crate) fn kill_steps(&self) {
        processes::kill_steps(self.child.pid());
    }

    /// Ends it and its session.
    pub(crate) fn kill(&self) {
        self.child.signal_group(Signal::SIGKILL);
    }

    /// Whether its one job is under way, as far as it tells.
    pub(crate) fn is_working(&self) -> bool {
        matches!(self.seen.borrow().state, State::Busy { .. })
    }

    /// Whether it will end by itself at once: its job is over, or it has ended already.
    pub(crate) fn is_finishing(&self) -> bool {
        self.child.ended().is_some() || matches!(self.seen.borrow().state, State::Done { .. })
    }

    async fn end(&mut self, exit: Exit) -> Ended {
        if let Some(copying) = self.copying.take()
            && !copying.ended(Deadline::within(DRAIN)).await
        {
            tracing::warn!(
                "a process that the job left behind holds the runner's output; its last lines may be missing"
            );
        }
        meaning(exit, &self.seen.borrow())
    }
}
