//! The mount and PID namespaces in which dockerd lives, from the outside.
//!
//! Owns their making and their end. A job that owns the Docker socket can have everything that
//! dockerd sees and every process that dockerd could see: so dockerd sees one data-root, and
//! neither dindd nor whatever enters dindd's container from outside. Killing the first process
//! there kills everything in it, whatever it forked, and undoes every mount.

use std::collections::VecDeque;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use init::output::{self, Copying};
use init::{Child, Children, Deadline, Exit, exit_code};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tracing::{error, warn};

use crate::broker;
use crate::inside::{self, Plan};

/// How many of dockerd's last lines are kept for the message that it has ended.
const KEPT_LINES: usize = 5;
/// How long the inner half may take to arrange what dockerd sees, in milliseconds.
const ARRANGING: u16 = 30_000;
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
    /// Mounts filesystems for everything in there, unless somebody further out does.
    broker: Option<Child>,
    /// Its other end sees when this process is gone.
    _lifeline: UnixStream,
    tail: Tail,
    copying: Option<Copying>,
}

/// The last lines, written by the thread that copies them.
type Tail = Arc<Mutex<VecDeque<String>>>;

impl Nest {
    /// Starts dindd's inner half as the first process of new namespaces. What dockerd says goes
    /// to `output`.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or the process.
    pub(crate) fn start(
        children: &Children,
        plan: &Plan,
        output: impl Write + Send + 'static,
    ) -> Result<Self> {
        let (mut lifeline, theirs) = UnixStream::pair().context("cannot make a socket")?;
        let mut command = ourselves()?;
        command
            .arg(inside::NAME)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped());
        let mut first = spawn_in_new_namespaces(children.clone(), command)?;
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        lifeline
            .write_all(&line)
            .context("cannot tell the inner half what to do")?;
        let listener = receive(&lifeline).context("dockerd's namespaces are not arranged")?;
        let broker = listener
            .map(|listener| start_broker(children, plan, listener))
            .transpose()?;
        let tail = Tail::default();
        let lines = Arc::clone(&tail);
        let from = first.stdout.take().context("no pipe from dockerd")?;
        let copying = output::copy(from, output, move |line| keep(&lines, line))?;
        Ok(Self {
            first,
            broker,
            _lifeline: lifeline,
            tail,
            copying: Some(copying),
        })
    }

    /// Waits for its end. Cancel-safe and repeatable.
    pub(crate) async fn ended(&mut self) -> Exit {
        if let Some(broker) = &mut self.broker {
            tokio::select! {
                biased;
                exit = self.first.exited() => return exit,
                exit = broker.exited() => if exit != Exit::Code(exit_code::DONE) {
                    error!("what mounts for containers ended with {exit}; without it nothing can start");
                    self.first.signal(Signal::SIGKILL);
                }
            }
        }
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

fn ourselves() -> Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("cannot find dindd")?,
    ))
}

fn start_broker(children: &Children, plan: &Plan, listener: OwnedFd) -> Result<Child> {
    let mut command = ourselves()?;
    let format = if plan.log_json { "json" } else { "text" };
    command
        .args([broker::NAME, format, &plan.log_level])
        .stdin(listener)
        .stdout(Stdio::null());
    children
        .spawn(&mut command)
        .context("cannot start what mounts for containers")
}

/// Waits until everything in there is arranged; who receives the filter's questions.
fn receive(lifeline: &UnixStream) -> Result<Option<OwnedFd>> {
    wait_for_word(lifeline)?;
    let mut word = [0; 16];
    let mut parts = [IoSliceMut::new(&mut word)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let told = recvmsg::<()>(lifeline.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    if told.bytes == 0 {
        bail!("dindd's inner half has ended; what it said is in the log");
    }
    let descriptor = told.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::ScmRights(descriptors) = message else {
            return None;
        };
        descriptors.first().copied()
    });
    #[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
    // SAFETY: it has just come, and nobody else knows it.
    Ok(descriptor.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// A read with a limit would end with every child that ends meanwhile (signal(7)), and some do.
fn wait_for_word(lifeline: &UnixStream) -> Result<()> {
    let mut lifeline = [PollFd::new(lifeline.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut lifeline, ARRANGING) {
            Err(Errno::EINTR) => {}
            Ok(0) => bail!("dindd's inner half says nothing"),
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
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
