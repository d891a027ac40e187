//! The OCI hook that keeps a container's namespaces reachable for dockerd and runc.
//!
//! Linux lets a process follow `/proc/<pid>/ns/…` of another one only when it has `SYS_PTRACE`, or
//! when the other runs as the same user and is dumpable (ptrace(2), "Ptrace access mode
//! checking"). dindd's container has no `SYS_PTRACE`. A container that runs as somebody else than
//! root could then not be entered by `docker exec`, nor be joined, and engines from 28.0 on could
//! not even give it a network (moby#52268).
//!
//! When the hook runs, the container's first process still is root. Each of its namespaces is then
//! mounted over its own link: a mount is crossed without that check. It goes with the process.
//!
//! A mount namespace cannot be mounted in one that the kernel holds for younger, and kernels from
//! 6.18 on do not number them by age (fs/namespace.c, `mnt_ns_loop`; kernel/nstree.c). A keeper,
//! a small process beside the container, has it open then, and its link is mounted instead.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

/// The name under which the hook is called.
pub(super) const NAME: &str = "dindd-namespaces";
/// The name under which a keeper is called.
pub(super) const KEEPER: &str = "dindd-namespace-keeper";

const ALL: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// The part of the container's state that the hook is about.
#[derive(Deserialize)]
struct State {
    pid: i32,
}

/// Performs the hook for the container whose state comes on standard input.
///
/// # Errors
/// When that makes no sense, or the kernel refuses a mount.
pub(super) fn run() -> Result<()> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("read the container's state")?;
    let State { pid } = serde_json::from_str(&text).context("the container's state as JSON")?;
    // The kernel lets nobody share a mount of a mount namespace.
    let nothing = None::<&str>;
    mount(nothing, "/proc", nothing, MsFlags::MS_PRIVATE, nothing).context("make /proc private")?;
    let folder = PathBuf::from(format!("/proc/{pid}/ns"));
    for name in ALL {
        let link = folder.join(name);
        let context = || format!("keep {}", link.display());
        let namespace = File::open(&link).with_context(context)?;
        let itself = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        let kept = match cover(&link, &itself) {
            Err(cause) if cause.kind() == io::ErrorKind::InvalidInput => keeper(namespace, pid)
                .and_then(|keeper| {
                    let its_own = open_link(Path::new(&format!("/proc/{keeper}/fd/0")))?;
                    cover(&link, &format!("/proc/self/fd/{}", its_own.as_raw_fd()))
                }),
            other => other,
        };
        kept.with_context(context)?;
    }
    Ok(())
}

/// Mounts `what` over the link itself, not over what it leads to.
fn cover(link: &Path, what: &str) -> io::Result<()> {
    let place = open_link(link)?;
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    let nothing = None::<&str>;
    mount(
        Some(what),
        place.as_str(),
        nothing,
        MsFlags::MS_BIND,
        nothing,
    )?;
    Ok(())
}

fn open_link(link: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, link, flags, Mode::empty())?.into())
}

/// Starts a keeper that has the namespace as its standard input until the process ends.
#[expect(
    clippy::disallowed_methods,
    reason = "the hook is no PID 1; the shim, which is the subreaper, waits for the keeper"
)]
fn keeper(namespace: File, pid: i32) -> io::Result<u32> {
    let keeper = Command::new(std::env::current_exe()?)
        .arg0(KEEPER)
        .arg(pid.to_string())
        .stdin(Stdio::from(namespace))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(keeper.id())
}

/// A keeper's life.
///
/// # Errors
/// When it has been called in another way.
pub(super) fn wait(pid: &str) -> Result<()> {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    let pid = pid.context("the number of a process")?;
    // One that is not there has ended.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let mut end = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    while poll(&mut end, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    Ok(())
}
