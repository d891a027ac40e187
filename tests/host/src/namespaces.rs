//! Owns the step from a process of the machine to PID 1 of namespaces of its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

/// Which of the two processes returns from [`become_pid_1`].
pub(crate) enum Side {
    /// The process outside; it only waits. Carries the number by which the machine knows PID 1.
    Outer(Pid),
    Pid1,
}

/// Makes PID and mount namespaces (and the others in `more`), and forks PID 1 into them.
///
/// PID 1 dies with the outer process; everything in the namespaces dies with PID 1.
pub(crate) fn become_pid_1(more: CloneFlags) -> Result<Side> {
    // A Ctrl-C in the driver's terminal is for the driver.
    setsid().context("make a session")?;
    unshare(more | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
        .context("make namespaces: root is needed; use sudo")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("keep mounts from the machine")?;
    #[expect(unsafe_code, reason = "PID 1 of a namespace is made by fork")]
    // SAFETY: a part of the executable has one thread up to here, so the child may do anything.
    let forked = unsafe { fork() }.context("fork PID 1")?;
    match forked {
        ForkResult::Parent { child } => Ok(Side::Outer(child)),
        ForkResult::Child => {
            set_pdeathsig(Signal::SIGKILL).context("tie PID 1 to its parent")?;
            Ok(Side::Pid1)
        }
    }
}

/// Waits for PID 1; its exit code, or 128 + n when signal n ended it.
pub(crate) fn wait(pid: Pid) -> Result<u8> {
    let status = waitpid(pid, None).context("wait for PID 1")?;
    if let WaitStatus::Signaled(_, signal, _) = status {
        return Ok(128 + u8::try_from(signal as i32)?);
    }
    let WaitStatus::Exited(_, code) = status else {
        bail!("PID 1 neither ended nor runs")
    };
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Ends the process, and with it the namespaces, when the driver's end of standard input closes.
#[expect(
    clippy::exit,
    reason = "the driver is gone: nobody is left to report to"
)]
pub(crate) fn end_with_the_driver() {
    std::thread::spawn(|| {
        drop(io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(1);
    });
}

/// A PID namespace, held open: the kernel gives its number to no other one meanwhile.
#[derive(Debug)]
pub(crate) struct PidNamespace(File);

impl PidNamespace {
    /// The one that a process is in.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/ns/pid")).map(Self)
    }

    /// Whether a process is in it.
    pub(crate) fn has(&self, pid: i32) -> bool {
        let other = Self::of(pid).and_then(|other| other.number());
        matches!((self.number(), other), (Ok(this), Ok(other)) if this == other)
    }

    fn number(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.ino())
    }
}
