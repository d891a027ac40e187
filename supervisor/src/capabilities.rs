//! What this process may do as root: only what its duties need, from the first moment on.
//!
//! Owns the list. Programs that it starts as root get what the container has (capabilities(7),
//! "transformation during execve"): the bounding set is left alone, because with `RUNNER_SUDO=on`
//! it is the job's.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Own, write and read the runner's files and the caches; become and signal the runner's user.
const NEEDED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    // Emptying the bounding set of the listener.
    .union(CapabilitySet::SETPCAP);

/// Gives up what is not needed. Called before there is a second thread: each has its own.
pub(crate) fn drop_unneeded() -> rustix::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective &= NEEDED;
    sets.permitted &= NEEDED;
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets)
}
