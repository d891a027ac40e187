//! The mount and PID namespaces in which dockerd lives, from the outside.
//!
//! Owns their making and their end. A job that owns the Docker socket can have everything that
//! dockerd sees and every process that dockerd could see: so dockerd sees one data-root, and
//! neither dindd nor whatever enters dindd's container from outside. Killing the first process
//! there kills everything in it, whatever it forked, and undoes every mount.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use init::output::{self, Copying};
use init::{Child, Children, Deadline, Exit};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use tracing::{error, warn};

use crate::inside::{self, Plan};

/// How many of dockerd's last lines are kept for the message that it has ended.
const KEPT_LINES: usize = 5;
/// How long the kernel may take to end a namespace whose first process was killed.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How often it is seen whether containers are left.
const PAUSE: Duration = Duration::from_millis(5);
/// How long dockerd has, after the last container, to send its output to a log driver.
const LAST_OUTPUT: Duration = Duration::from_millis(300);
/// How long the last output may take after the end.
const DRAIN: Duration = Duration::from_millis(500);

/// dockerd and everything that it has started.
#[derive(Debug)]
pub(crate) struct Nest {
    first: Child,
    /// Its other end sees when this process is gone.
    _lifeline: File,
    tail: Tail,
    copying: Option<Copying>,
}

/// The last lines, written by the thread that copies them.
type Tail = Arc<Mutex<VecDeque<String>>>;

impl Nest {
    /// Starts dindd's inner half as the first process of new namespaces.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or the process.
    pub(crate) fn start(children: &Children, plan: &Plan) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find dindd")?);
        command
            .arg(inside::NAME)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut first = spawn_in_new_namespaces(children.clone(), command)?;
        let mut lifeline = File::from(first.stdin.take().context("no pipe to dockerd")?);
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        lifeline
            .write_all(&line)
            .context("cannot tell the inner half what to do")?;
        let tail = Tail::default();
        let lines = Arc::clone(&tail);
        let from = first.stdout.take().context("no pipe from dockerd")?;
        let copying = output::copy(from, io::stdout(), move |line| keep(&lines, line))?;
        Ok(Self {
            first,
            _lifeline: lifeline,
            tail,
            copying: Some(copying),
        })
    }

    /// Waits for its end. Cancel-safe and repeatable.
    pub(crate) async fn ended(&mut self) -> Exit {
        self.first.exited().await
    }

    /// dockerd's last words, after a short wait for them.
    pub(crate) async fn last_lines(&mut self) -> String {
        if let Some(copying) = self.copying.take() {
            copying.ended(Deadline::within(DRAIN)).await;
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().cloned().collect::<Vec<_>>().join("; ")
    }

    /// Ends it. While containers run, which `containers` tells, dockerd gets its SIGTERM and so
    /// gives every container its own; when none is left, or at the deadline, everything is
    /// killed. What dockerd would still put in order is removed anyway.
    pub(crate) async fn stop(&mut self, deadline: Deadline, containers: impl Fn() -> bool) {
        if containers() {
            self.first.signal(Signal::SIGTERM);
            if deadline.bound(self.without(containers)).await.is_none() {
                warn!("containers did not stop in time; everything is killed");
            }
        }
        self.first.signal(Signal::SIGKILL);
        let killed = Deadline::within(AFTER_KILL);
        if killed.bound(self.first.exited()).await.is_none() {
            error!("dockerd's processes do not end though they were killed");
        }
    }

    /// Waits until no container is left and its last output had time to reach its log driver.
    async fn without(&mut self, containers: impl Fn() -> bool) {
        while containers() && self.first.ended().is_none() {
            tokio::time::sleep(PAUSE).await;
        }
        Deadline::within(LAST_OUTPUT)
            .bound(self.first.exited())
            .await;
    }
}

/// A thread has namespaces of its own until it gives them to a child; ours stay as they are.
fn spawn_in_new_namespaces(children: Children, mut command: Command) -> Result<Child> {
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let thread = std::thread::Builder::new()
        .name("nest".into())
        .spawn(move || -> Result<Child> {
            unshare(namespaces).context(
                "cannot make namespaces for dockerd; SYS_ADMIN and a seccomp profile that lets \
                 it unshare are needed (Docker's default does)",
            )?;
            children
                .spawn(&mut command)
                .context("cannot start dindd's inner half")
        })
        .context("cannot start a thread")?;
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that starts dockerd panicked"))?
}

fn keep(lines: &Tail, line: &[u8]) {
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == KEPT_LINES {
        lines.pop_front();
    }
    lines.push_back(String::from_utf8_lossy(line).into_owned());
}
