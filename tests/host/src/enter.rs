//! Owns the way of a command into a host.
//!
//! Two processes, because a process cannot move itself into a PID namespace, only its children: the
//! outer one is the driver's child, passes signals on and ends as the inner one does; the inner one
//! dies with it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::cgroup;
use crate::reexec::{self, Part, text};

/// What a process of a host finds in its environment; nothing of the driver's gets there.
pub(crate) const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
];

/// Namespaces by their name below `/proc/PID/ns`, the mount namespace last: after it `/proc` is
/// the host's.
const NAMESPACES: [(&str, CloneFlags); 6] = [
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// A command that runs `program` in `folder` of the host whose PID 1 the machine knows as `pid`.
pub(crate) fn command(pid: i32, leaf: &Path, folder: &Path, program: &OsStr) -> Command {
    let mut command = reexec::command(Part::Enter);
    command
        .arg(pid.to_string())
        .arg(leaf)
        .arg(folder)
        .arg("--")
        .arg(program)
        .env_clear()
        .envs(ENVIRONMENT)
        .stdin(Stdio::null())
        // A Ctrl-C in the driver's terminal is for the driver.
        .process_group(0);
    command
}

/// The outer process. Exit code: the program's, or 128 + n when signal n ended it; 125 when the
/// host cannot be entered, 127 when there is no such program.
pub(crate) fn main(arguments: &[OsString]) -> Result<u8> {
    let [_, leaf, folder, _, program, rest @ ..] = arguments else {
        bail!("arguments are missing");
    };
    let pid: i32 = text(arguments, 0)?
        .parse()
        .context("number of the host's PID 1")?;
    enter(pid, Path::new(leaf))?;
    let mut command = Command::new(program);
    command.args(rest).current_dir(folder);
    #[expect(
        unsafe_code,
        reason = "the child must set its parent-death signal itself"
    )]
    // SAFETY: prctl is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    // Registered before the program exists: a signal that comes in between waits in the iterator.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])
        .context("watch signals")?;
    let mut child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            use std::io::Write;
            let (program, folder) = (program.display(), folder.display());
            writeln!(
                std::io::stderr(),
                "testhost: no program {program}, or no folder {folder}"
            )?;
            return Ok(127);
        }
        other => other.with_context(|| format!("start {}", program.display()))?,
    };
    // No thread: after setns(CLONE_NEWPID) the kernel refuses to make one.
    for signal in signals.forever() {
        if signal != SIGCHLD {
            let inner = Pid::from_raw(i32::try_from(child.id())?);
            // Not reaped yet, so the number is still the program's.
            kill(inner, Signal::try_from(signal)?).context("pass a signal on")?;
        } else if let Some(status) = child.try_wait().context("wait for the program")? {
            let code = status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal));
            return Ok(code
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(u8::MAX));
        }
    }
    bail!("the signals ended");
}

fn enter(pid: i32, leaf: &Path) -> Result<()> {
    cgroup::join(leaf).context("the host has ended")?;
    let open = |(name, kind): (&str, CloneFlags)| {
        let path = format!("/proc/{pid}/ns/{name}");
        File::open(&path)
            .map(|file| (file, kind))
            .with_context(|| format!("open {path}"))
    };
    // All are opened before any is entered.
    let namespaces: Vec<_> = NAMESPACES.into_iter().map(open).collect::<Result<_>>()?;
    for (namespace, kind) in namespaces {
        setns(&namespace, kind).with_context(|| format!("enter a namespace ({kind:?})"))?;
    }
    Ok(())
}
