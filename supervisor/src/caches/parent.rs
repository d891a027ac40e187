//! Starting a worker, hearing what it tells, and giving it up.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use ::caches::request::{Line, Request, send};
use anyhow::Context;
use init::{Child, Children, Deadline};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;

use crate::user::{Sudo, User};

/// A worker that was given up is not waited for longer.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A worker. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    lines: Lines<BufReader<pipe::Receiver>>,
    stdin: File,
}

/// What a worker told.
#[derive(Debug)]
pub(super) enum Told {
    Progress(::caches::Amount),
    Event(::caches::Event),
    /// What came out, or why nothing did.
    End(anyhow::Result<String>),
}

impl Running {
    pub(super) fn start(
        children: &Children,
        (request, memory): (&Request, Option<&File>),
        user: Option<&User>,
    ) -> anyhow::Result<Self> {
        let stdin = send(request, memory)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("cache-worker");
        command
            .stdin(Stdio::from(stdin.try_clone()?))
            .stdout(Stdio::piped());
        command.env_clear().envs(environment());
        if let Some(user) = user {
            user.apply(&mut command, &[], Sudo::Refused);
        }
        let mut child = children
            .spawn(&mut command)
            .context("cannot start a process for the caches")?;
        let stdout = child
            .stdout
            .take()
            .context("the process for the caches has no output")?;
        let stdout = pipe::Receiver::from_owned_fd(stdout)?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
            stdin,
        })
    }

    /// Waits for the next thing it tells, until the deadline.
    pub(super) async fn next(&mut self, deadline: Deadline) -> Told {
        let Some(line) = deadline.bound(self.lines.next_line()).await else {
            return Told::End(Err(anyhow::anyhow!(
                "CACHE_STORE: the storage did not answer in time"
            )));
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) | Err(_) => return Told::End(Err(self.died().await)),
        };
        match serde_json::from_str(&line) {
            Ok(Line::Progress(amount)) => Told::Progress(amount),
            Ok(Line::Event(event)) => Told::Event(event),
            Ok(Line::Done(value)) => Told::End(Ok(value)),
            Ok(Line::Failed(reason)) => Told::End(Err(anyhow::anyhow!(reason))),
            Err(error) => Told::End(Err(error.into())),
        }
    }

    async fn died(&mut self) -> anyhow::Error {
        match Deadline::within(LAST_WORDS)
            .bound(self.child.exited())
            .await
        {
            Some(exit) => anyhow::anyhow!("the process for the caches ended with {exit}"),
            None => anyhow::anyhow!("the process for the caches fell silent"),
        }
    }

    /// Asks it to end with what it has begun; what it tells until then is still heard.
    pub(super) fn ask_to_end(&self) {
        self.child.signal(Signal::SIGTERM);
    }

    /// What it remembers, once it is done.
    pub(super) fn memory(&self) -> anyhow::Result<File> {
        Ok(self.stdin.try_clone()?)
    }
}

/// A worker needs to find rsync, and no secret.
fn environment() -> impl Iterator<Item = (String, std::ffi::OsString)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "handed on as it is; nothing is decided by it"
    )]
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| ["PATH", "LOG_FORMAT", "LOG_LEVEL", "TMPDIR"].contains(&name.as_str()))
}
