//! Mounts that nobody can undo, whatever his capabilities are.
//!
//! When the kernel copies a mount namespace for another user namespace it locks every mount of the
//! copy: none can be unmounted or moved by itself, what is read-only or without devices stays so, and
//! nothing can be bound without what is mounted below it (fs/namespace.c, `lock_mnt_tree`,
//! `has_locked_children`; mount_namespaces(7), "Restrictions on mount namespaces"). A user namespace
//! is needed for that moment only: whoever enters such a copy with the capabilities of the first one
//! keeps them, and copies of the copy are locked, too.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::broker::end;

/// Moves this process, which has one thread, into a locked copy of its mount namespace.
///
/// # Errors
/// The host allows no user namespaces; everything is as it was then.
pub(super) fn lock(processes: &OwnedFd) -> Result<()> {
    let (mut ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
    #[expect(unsafe_code, reason = "namespaces are made by becoming part of them")]
    // SAFETY: this process has one thread.
    let forked = unsafe { fork() };
    let child = match forked.context("cannot fork")? {
        ForkResult::Child => {
            drop(ours);
            hold(theirs);
            end();
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    let entered = enter(&mut ours, processes, &child.to_string());
    drop(ours);
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody else waits yet: it is before init::start"
    )]
    waitpid(child, None).context("cannot wait for what was forked")?;
    entered
}

/// The child: makes the namespaces, says so, and stays until it is let go.
fn hold(mut theirs: UnixStream) {
    let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let word = made.map_or_else(|cause| cause as i32, |()| 0).to_ne_bytes();
    if theirs.write_all(&word).is_ok() {
        // Nothing comes but the end.
        std::io::copy(&mut theirs, &mut std::io::sink()).ok();
    }
}

fn enter(ours: &mut UnixStream, processes: &OwnedFd, child: &str) -> Result<()> {
    let mut word = [0; 4];
    ours.read_exact(&mut word)?;
    match i32::from_ne_bytes(word) {
        0 => {}
        cause => return Err(Errno::from_raw(cause)).context("cannot make a user namespace"),
    }
    let namespace = open(processes, child)?;
    setns(&namespace, CloneFlags::CLONE_NEWNS).context("cannot enter the locked mounts")
}

/// The mount namespace that a process is in.
///
/// # Errors
/// When it may not be seen.
pub(super) fn open(processes: impl AsFd, process: &str) -> Result<OwnedFd> {
    let path = format!("{process}/ns/mnt");
    openat(
        processes,
        path.as_str(),
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .context("cannot open a mount namespace")
}
