//! The store behind `slowfs`, as slow as a network file store, with its requests counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};
use testhost::Running;

use crate::programs;

/// Requests that the store has under way at most: an NFS client has that many slots.
pub(crate) const SLOTS: u32 = 64;
const LIMIT: Duration = Duration::from_secs(30);

/// A mount that knows nothing yet, so that nobody finds in the kernel's cache what another has read.
/// Dropping it unmounts it.
pub(crate) struct SlowStore {
    pub(crate) path: PathBuf,
    statistics: PathBuf,
    running: Option<Running>,
}

impl SlowStore {
    /// `latency` is in microseconds.
    pub(crate) fn mount(store: &Path, at: &Path, latency: u32) -> Result<Self> {
        fs::create_dir_all(at)?;
        let statistics = at.with_extension("json");
        let mut command = Command::new(programs::find("slowfs")?);
        command.arg("--lat-us").arg(latency.to_string());
        command.arg("--slots").arg(SLOTS.to_string());
        command.arg("--stats").arg(&statistics);
        command.arg(store).arg(at);
        let running = Running::start(command, |_, _| ())?;
        let mounted = Self {
            path: at.to_owned(),
            statistics,
            running: Some(running),
        };
        let begin = Instant::now();
        while !is_mounted(at)? {
            let late = begin.elapsed() >= LIMIT;
            ensure!(!late, "slowfs does not mount {}", at.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(mounted)
    }

    /// Unmounts it; the number of requests that it had.
    pub(crate) fn requests(mut self) -> Result<f64> {
        self.unmount();
        let text = fs::read(&self.statistics).context("read what slowfs has counted")?;
        let counts: serde_json::Value = serde_json::from_slice(&text)?;
        counts["rpc_total"]
            .as_f64()
            .context("slowfs has not counted")
    }

    fn unmount(&mut self) {
        if let Some(mut running) = self.running.take() {
            // By the call alone: the command looks at the store first, and that would be counted. What
            // a peer left running may still be in it.
            if umount2(&self.path, MntFlags::empty()).is_err() {
                umount2(&self.path, MntFlags::MNT_DETACH).ok();
            }
            drop(running.wait(LIMIT));
        }
    }
}

impl Drop for SlowStore {
    fn drop(&mut self) {
        self.unmount();
    }
}

pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let path = path.display().to_string();
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&path)))
}
