//! Owns what must happen when the driver is gone and could not do it itself.
//!
//! The end of a PID namespace ends its processes, its mounts and, by autoclear, its loop devices.
//! What stays are cgroup folders: those the janitor removes. It is a process in a session of its own
//! that waits for the end of a pipe whose other end only the driver has.

use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::setsid;

use crate::cgroup;
use crate::reexec::{self, Part};

/// How long processes that were killed may take to leave their cgroups.
const LIMIT: Duration = Duration::from_secs(30);

/// A janitor that waits. Dropping it makes it work and waits for its end.
#[derive(Debug)]
pub(crate) struct Janitor {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Janitor {
    pub(crate) fn start(cgroup: &Path) -> Result<Self> {
        let mut command = reexec::command(Part::Janitor);
        let mut child = command
            .arg(cgroup)
            .current_dir("/")
            .stdin(Stdio::piped())
            // Whoever reads the driver's output to its end must not wait for the janitor.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the janitor")?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        drop(self.child.wait());
    }
}

/// The janitor itself. Argument: the host's cgroup folder.
pub(crate) fn main(arguments: &[OsString]) -> Result<u8> {
    // A Ctrl-C in the driver's terminal is for the driver.
    setsid().context("make a session")?;
    let cgroup = PathBuf::from(arguments.first().context("the cgroup folder is missing")?);
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the driver's end")?;
    cgroup::remove(&cgroup, LIMIT)?;
    Ok(0)
}
