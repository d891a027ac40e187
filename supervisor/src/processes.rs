//! The last resort: killing everything that the runner and its jobs left running.
//!
//! Owns finding our descendants. Steps may start sessions of their own and let their parents die;
//! as PID 1 or subreaper we are the ancestor of all of them all the same.

use std::collections::HashMap;
use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

/// A process that forks faster than it is found is stopped by the rounds, not by their number.
const ROUNDS: u32 = 100;

/// Kills all processes that descend from this one; how many there were.
pub(crate) fn kill_descendants() -> usize {
    if getpid().as_raw() == 1 {
        // At once and without a race: everything in our namespace but us.
        let count = descendants().len();
        if let Err(error) = kill(Pid::from_raw(-1), Signal::SIGKILL)
            && error != Errno::ESRCH
        {
            tracing::warn!(%error, "cannot kill what the runner left");
        }
        return count;
    }
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let found = descendants();
        if found.is_empty() {
            break;
        }
        killed = killed.max(found.len());
        for pid in found {
            // It may have ended by itself.
            kill(pid, Signal::SIGKILL).ok();
        }
        std::thread::yield_now();
    }
    killed
}

/// Kills the steps of a job, and neither the runner's listener nor its worker, which then has time
/// to report the job's end: GitHub keeps the registration of a runner whose job never ended.
pub(crate) fn kill_steps(listener: Pid) {
    let parents = parents();
    let listener = listener.as_raw();
    let spared = |pid: &i32| *pid == listener || parents.get(pid) == Some(&listener);
    for pid in descendants_in(&parents).filter(|pid| !spared(pid)) {
        // It may have ended by itself.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}

/// Our living descendants.
fn descendants() -> Vec<Pid> {
    descendants_in(&parents()).map(Pid::from_raw).collect()
}

/// The parent of every living process.
fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, living_parent(&stat)?))
        })
        .collect()
}

fn descendants_in(parents: &HashMap<i32, i32>) -> impl Iterator<Item = i32> {
    let us = getpid().as_raw();
    let descends = move |mut pid: i32| {
        // The bound is for a pid that was reused while we read.
        for _ in 0..parents.len() {
            match parents.get(&pid) {
                Some(parent) if *parent == us => return true,
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(move |pid| descends(*pid))
}

/// The parent of a process that is no zombie (proc_pid_stat(5)). Its name may contain anything.
fn living_parent(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_whatever_the_process_is_called() {
        for (stat, parent) in [
            (&b"12 (cat) S 7 12 12 0"[..], Some(7)),
            (b"12 (a) S 1 (b) R 7 12", Some(7)),
            (b"12 (\xff\xfe) D 7 12", Some(7)),
            (b"12 (cat) Z 7 12", None),
            (b"12 cat", None),
        ] {
            assert_eq!(living_parent(stat), parent, "{stat:?}");
        }
    }
}
