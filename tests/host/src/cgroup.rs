//! Owns the host's part of the machine's cgroup2 hierarchy.
//!
//! ```text
//! <cgroup2 mount>/testhost-<driver pid>-<driver start>-<n>/   root of the host's cgroup namespace
//!     host/     every process of the host that is not a container's
//!     docker/   made by dockerd, one folder per container
//! ```
//! The leaf exists because a cgroup that hands controllers to its children must have no processes
//! of its own (cgroup-v2, "No Internal Process Constraint").

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use crate::mounts::{MountLine, parse_mountinfo};
use crate::process::until;

const PREFIX: &str = "testhost-";
pub(crate) const LEAF: &str = "host";

/// The folder of one host. Removing it is [`remove`]'s and the janitor's part.
#[derive(Debug, Clone)]
pub(crate) struct HostCgroup {
    pub(crate) path: PathBuf,
}

impl HostCgroup {
    /// Makes the folder and its leaf.
    pub(crate) fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = mount_point()?;
        remove_those_of_dead_drivers(&base);
        let pid = std::process::id();
        let start = start_time(pid).context("read the driver's start time")?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{pid}-{start}-{count}"));
        let leaf = path.join(LEAF);
        fs::create_dir_all(&leaf).with_context(|| {
            format!(
                "make the cgroup {}: root is needed; use sudo",
                leaf.display()
            )
        })?;
        Ok(Self { path })
    }

    /// Makes the folder the root of a new cgroup namespace, with the calling process in its leaf
    /// and every controller handed on that the machine offers.
    pub(crate) fn become_root(&self) -> Result<()> {
        // The order counts: the namespace's root is the cgroup one is in when it is made, and
        // controllers can be handed on only once that cgroup is empty.
        join(&self.path.join("cgroup.procs"))?;
        unshare(CloneFlags::CLONE_NEWCGROUP).context("make a cgroup namespace")?;
        join(&self.leaf_processes())?;
        let controllers = fs::read_to_string(self.path.join("cgroup.controllers"))
            .with_context(|| format!("read the controllers of {}", self.path.display()))?;
        for controller in controllers.split_whitespace() {
            // One by one: a controller that cannot be handed on must not take the others along.
            drop(fs::write(
                self.path.join("cgroup.subtree_control"),
                format!("+{controller}"),
            ));
        }
        Ok(())
    }

    pub(crate) fn leaf_processes(&self) -> PathBuf {
        self.path.join(LEAF).join("cgroup.procs")
    }
}

/// Moves the calling process into the cgroup whose `cgroup.procs` this is.
pub(crate) fn join(processes: &Path) -> Result<()> {
    fs::write(processes, "0").with_context(|| format!("join the cgroup of {}", processes.display()))
}

/// Every folder below `path`, parents first, as paths relative to it.
pub(crate) fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        // A cgroup may vanish while it is looked at; then it has no children either.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
                found.push(
                    entry
                        .path()
                        .strip_prefix(path)
                        .unwrap_or(&entry.path())
                        .to_owned(),
                );
            }
        }
    }
    found.sort();
    found
}

/// Kills whatever is still in the cgroup and removes it, deepest folder first.
///
/// # Errors
/// It still exists after `limit`.
pub(crate) fn remove(path: &Path, limit: Duration) -> Result<()> {
    if path.exists() {
        // Fails on kernels before 5.14; there the end of the PID namespace has done it already.
        drop(fs::write(path.join("cgroup.kill"), "1"));
    }
    let mut last = None;
    let gone = until(limit, || {
        last = remove_empty(path).err();
        last.is_none()
    });
    match last {
        Some(error) if !gone => {
            Err(error).with_context(|| format!("remove the cgroup {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_empty(path: &Path) -> io::Result<()> {
    let folders = below(path)
        .into_iter()
        .map(|folder| path.join(folder))
        .rev();
    for folder in folders.chain([path.to_owned()]) {
        match fs::remove_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what a driver left that was killed together with its janitor. Only empty cgroups can be
/// removed, so nothing that runs is touched.
fn remove_those_of_dead_drivers(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner_of) else {
            continue;
        };
        if start_time(owner.0).ok() != Some(owner.1) {
            drop(remove_empty(&entry.path()));
        }
    }
}

/// Process number and start time of the driver that a cgroup's name tells.
fn owner_of(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Start time of a process in clock ticks since boot, field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = text.rsplit_once(')').context("no name in stat")?;
    let field = after_name
        .split_whitespace()
        .nth(19)
        .context("no start time in stat")?;
    field.parse().context("start time in stat")
}

/// Where the machine has its cgroup2 hierarchy.
fn mount_point() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // A mount may be hidden below another one.
    let visible = |path: &Path| path.join("cgroup.controllers").exists();
    choose(&parse_mountinfo(&text), visible).context(
        "no cgroup2 filesystem is mounted; mount one: \
         mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
    )
}

/// `/sys/fs/cgroup` on a pure v2 machine, `/sys/fs/cgroup/unified` on a hybrid one, else wherever
/// there is one.
fn choose(mounts: &[MountLine], visible: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let rank = |path: &PathBuf| match path.to_str() {
        Some("/sys/fs/cgroup") => 0,
        Some("/sys/fs/cgroup/unified") => 1,
        _ => 2,
    };
    let cgroup2 = mounts.iter().filter(|line| line.kind == "cgroup2");
    let points = cgroup2.map(|line| PathBuf::from(&line.point));
    points.filter(|path| visible(path)).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroups_name_tells_its_driver() {
        assert_eq!(owner_of("testhost-12-3456-0"), Some((12, 3456)));
        assert_eq!(owner_of("testhost-12"), None);
        assert_eq!(owner_of("system.slice"), None);
    }

    #[test]
    fn this_process_has_a_start_time_and_a_process_that_is_not_there_has_none() {
        assert!(start_time(std::process::id()).is_ok_and(|ticks| ticks > 0));
        assert_eq!(start_time(u32::MAX).ok(), None);
    }

    #[test]
    fn the_hierarchy_is_found_on_pure_and_hybrid_machines_and_not_where_it_is_hidden() {
        let mounts = parse_mountinfo(
            "1 0 0:1 / /run/other rw - cgroup2 none rw\n\
             2 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n\
             3 0 0:2 / /sys/fs/cgroup rw - tmpfs none rw\n\
             4 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n",
        );
        let found = |mounts: &[MountLine]| choose(mounts, |_| true).unwrap();
        assert_eq!(found(&mounts), Path::new("/sys/fs/cgroup"));
        assert_eq!(found(&mounts[..3]), Path::new("/sys/fs/cgroup/unified"));
        let hidden = |path: &Path| path == Path::new("/run/other");
        assert_eq!(choose(&mounts, hidden).unwrap(), Path::new("/run/other"));
        assert_eq!(choose(&mounts[2..3], |_| true), None);
    }
}
