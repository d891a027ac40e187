//! Killing a process with everything below it, and whatever else carries a mark.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills `root` and its descendants, the deepest last seen first.
pub(crate) fn kill_tree(root: u32) {
    let parents: Vec<(u32, u32)> = processes()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(of) = tree.get(next).copied() {
        tree.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == of)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    for pid in tree.into_iter().rev() {
        send(pid, Signal::SIGKILL);
    }
}

/// Processes whose first environment has this `NAME=value`, without our own.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    processes()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            environment(*pid)
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        })
        .collect()
}

/// The environment a process started with; nothing for one that is gone or not ours to read.
fn environment(pid: u32) -> Vec<u8> {
    let patience = Instant::now() + Duration::from_secs(1);
    loop {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let environment = read("environ");
        // In the middle of exec a process shows neither environment nor arguments for a moment.
        // Kernel threads and zombies show none either, but have no program.
        let in_exec = environment.is_empty()
            && read("cmdline").is_empty()
            && fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        if !in_exec || Instant::now() > patience {
            return environment;
        }
        std::thread::yield_now();
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended in the meantime.
        let _gone = kill(Pid::from_raw(pid), signal);
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, so count from its end.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
