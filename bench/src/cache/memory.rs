//! The memory of a program and of all that it starts, at its peak.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use testhost::Running;

const PAUSE: Duration = Duration::from_millis(10);

/// Bytes: of its own processes, and of all. What processes share counts once.
pub(super) fn peak(command: Command) -> Result<(f64, f64)> {
    let name = command.get_program().to_owned();
    let mut running = Running::start(command, |_, _| ())?;
    let mut peak = (0.0_f64, 0.0_f64);
    loop {
        if let Some(ended) = running.try_wait()? {
            ensure!(ended.success(), "{} ended with {ended}", name.display());
            return Ok(peak);
        }
        let now = tree(running.id(), &name);
        peak = (peak.0.max(now.0), peak.1.max(now.1));
        std::thread::sleep(PAUSE);
    }
}

/// What ends meanwhile counts nothing.
fn tree(pid: u32, name: &std::ffi::OsStr) -> (f64, f64) {
    let mine = share(pid).unwrap_or_default();
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    let own = program.is_ok_and(|program| program.as_os_str() == name);
    let mut sum = (if own { mine } else { 0.0 }, mine);
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    for thread in threads.flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().flat_map(str::parse) {
            let below = tree(child, name);
            sum = (sum.0 + below.0, sum.1 + below.1);
        }
    }
    sum
}

/// Its share of the memory that it has with others, and all of its own.
fn share(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
