//! The only fork and the only wait of the process.
//!
//! Owns every child from its fork to its exit status, and reaps orphans that the kernel gives us.
//! Fork and reap happen under one lock, so a status can neither be lost to another waiter nor
//! arrive before its child is known. Does not read what children print; see [`crate::output`].

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::Deadline;

/// How much of a captured child's standard output is kept.
const CAPTURE_LIMIT: u64 = 1024 * 1024;
/// How much of the end of a captured child's standard error is kept for the error message.
const STDERR_TAIL: usize = 1024;
/// How long a captured child's pipes may stay open after its exit: a grandchild can hold them.
const DRAIN: Duration = Duration::from_millis(200);

type Live = HashMap<Pid, watch::Sender<Option<Exit>>>;

/// The door to fork. Cheap to clone; every clone is the same owner.
#[derive(Clone, Debug)]
pub struct Children {
    live: Arc<Mutex<Live>>,
}

impl Children {
    pub(crate) fn new() -> Self {
        Self {
            live: Arc::default(),
        }
    }

    /// Starts `command` as the leader of a session and process group of its own.
    ///
    /// # Errors
    /// When the fork or the exec fails; nothing is left to wait for then.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        lead_a_session(command);
        // Held across the fork: a child that ends at once is reaped only when it is known.
        let mut live = lock(&self.live);
        #[expect(clippy::disallowed_methods, reason = "this is the only door to fork")]
        let mut started = command.spawn()?;
        let pid = Pid::from_raw(started.id().cast_signed());
        let (report, exit) = watch::channel(None);
        live.insert(pid, report);
        drop(live);
        Ok(Child {
            pid,
            exit,
            live: Arc::clone(&self.live),
            stdin: started.stdin.take().map(OwnedFd::from),
            stdout: started.stdout.take().map(OwnedFd::from),
            stderr: started.stderr.take().map(OwnedFd::from),
        })
    }

    /// Runs `command` to its end and keeps what it printed. Its standard input is empty.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended at the deadline: then it is killed with its
    /// group. An exit status other than 0 is not an error here; see [`Captured::checked`].
    pub async fn run(&self, command: &mut Command, deadline: Deadline) -> anyhow::Result<Captured> {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .spawn(command)
            .with_context(|| format!("cannot start {program}"))?;
        let stdout = receiver(child.stdout.take())?;
        let stderr = receiver(child.stderr.take())?;
        let mut out = Vec::new();
        let mut err = Vec::new();
        let finished = deadline
            .bound(async {
                let mut reading = std::pin::pin!(async {
                    tokio::join!(capture(stdout, &mut out), capture(stderr, &mut err));
                });
                tokio::select! {
                    () = &mut reading => child.exited().await,
                    exit = child.exited() => {
                        Deadline::within(DRAIN).bound(reading).await;
                        exit
                    }
                }
            })
            .await;
        let Some(exit) = finished else {
            child.signal_group(Signal::SIGKILL);
            bail!("{program} did not end in the time it had and was killed");
        };
        Ok(Captured {
            program,
            exit,
            stdout: out,
            stderr: err,
        })
    }

    /// Takes every status that the kernel has for us. Called on SIGCHLD, which may stand for
    /// many exits at once.
    pub(crate) fn reap(&self) {
        let mut live = lock(&self.live);
        loop {
            #[expect(clippy::disallowed_methods, reason = "this is the only wait")]
            let status = waitpid(None, Some(WaitPidFlag::WNOHANG));
            let (pid, exit) = match status {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(low_byte(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for children");
                    return;
                }
            };
            match live.remove(&pid) {
                Some(report) => {
                    report.send_replace(Some(exit));
                }
                None => tracing::trace!(%pid, %exit, "reaped an orphan"),
            }
        }
    }
}

/// A child of ours. Dropping it kills its group if it still runs.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    live: Arc<Mutex<Live>>,
    /// The write end of its standard input, if it was piped.
    pub stdin: Option<OwnedFd>,
    /// The read end of its standard output, if it was piped.
    pub stdout: Option<OwnedFd>,
    /// The read end of its standard error, if it was piped.
    pub stderr: Option<OwnedFd>,
}

impl Child {
    /// Its process id, which is also the id of its session and process group.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end. Cancel-safe and repeatable.
    pub async fn exited(&mut self) -> Exit {
        if let Ok(exit) = self.exit.wait_for(Option::is_some).await
            && let Some(exit) = *exit
        {
            return exit;
        }
        // The sender is dropped only after it has sent.
        std::future::pending().await
    }

    /// Its exit if it has ended.
    #[must_use]
    pub fn ended(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Signals the child alone; nothing happens once it was reaped.
    pub fn signal(&self, signal: Signal) {
        self.if_alive(|| kill(self.pid, signal));
    }

    /// Signals the child's whole process group; nothing happens once the child was reaped.
    pub fn signal_group(&self, signal: Signal) {
        self.if_alive(|| killpg(self.pid, signal));
    }

    /// The lock keeps the reaper from freeing the pid between the look and the act.
    fn if_alive(&self, act: impl FnOnce() -> nix::Result<()>) {
        let live = lock(&self.live);
        if live.contains_key(&self.pid)
            && let Err(error) = act()
        {
            tracing::debug!(pid = %self.pid, %error, "cannot signal a child");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal_group(Signal::SIGKILL);
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Code(u8),
    /// This signal ended it.
    Signal(Signal),
}

impl Exit {
    /// Whether it returned 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// The status as a shell reports it: 128 + n for a signal.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => low_byte(128 + signal as i32),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a child that ran to its end left.
#[derive(Debug)]
pub struct Captured {
    program: String,
    /// How it ended.
    pub exit: Exit,
    /// The first megabyte of its standard output.
    pub stdout: Vec<u8>,
    /// The first megabyte of its standard error.
    pub stderr: Vec<u8>,
}

impl Captured {
    /// The standard output of a child that returned 0.
    ///
    /// # Errors
    /// For any other end, with the last kilobyte of its standard error.
    pub fn checked(self) -> anyhow::Result<Vec<u8>> {
        if self.exit.is_success() {
            return Ok(self.stdout);
        }
        let tail = &self.stderr[self.stderr.len().saturating_sub(STDERR_TAIL)..];
        bail!(
            "{} ended with {}: {}",
            self.program,
            self.exit,
            String::from_utf8_lossy(tail).trim()
        )
    }
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    // A panic while the lock was held leaves the map usable: each change is one insert or remove.
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(unsafe_code, reason = "std has no stable way to start a session")]
fn lead_a_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches nothing of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

fn receiver(fd: Option<OwnedFd>) -> anyhow::Result<pipe::Receiver> {
    let fd = fd.context("the child was started without a pipe")?;
    pipe::Receiver::from_owned_fd(fd).context("cannot read the child's output")
}

async fn capture(from: impl AsyncRead + Unpin, to: &mut Vec<u8>) {
    let mut limited = from.take(CAPTURE_LIMIT);
    if let Err(error) = limited.read_to_end(to).await {
        tracing::debug!(%error, "a child's output ended early");
    }
    // Read on past the limit, or the child blocks on a full pipe.
    let mut rest = limited.into_inner();
    tokio::io::copy(&mut rest, &mut tokio::io::sink())
        .await
        .ok();
}

/// Exit statuses and 128 + n fit in a byte; the kernel reports no others.
fn low_byte(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_reported_as_a_shell_reports_it() {
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(7), 7),
            (Exit::Signal(Signal::SIGTERM), 143),
            (Exit::Signal(Signal::SIGKILL), 137),
        ] {
            assert_eq!(exit.shell_code(), code, "{exit}");
        }
    }
}
