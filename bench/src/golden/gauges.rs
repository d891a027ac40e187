//! What is read off a task and its host: dindd's own time, space on a volume, memory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::daemon::Daemon;

/// The time that dindd itself tells, in milliseconds.
pub(super) fn attached(daemon: &Daemon<'_>) -> Result<f64> {
    let log = daemon.container.whole_log()?;
    let line = log
        .lines()
        .find(|line| line.contains("golden images are attached"))
        .with_context(|| format!("nothing was attached: {log}"))?;
    let (_, rest) = line
        .split_once("\"elapsed_us\":")
        .with_context(|| format!("no time in {line}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let micros: f64 = digits
        .parse()
        .with_context(|| format!("no time in {line}"))?;
    Ok(micros / 1000.0)
}

/// Bytes that files below a folder occupy.
pub(super) fn used(folder: &Path) -> Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        bytes += entry?.metadata()?.len();
    }
    #[expect(clippy::cast_precision_loss, reason = "some GiB")]
    Ok(bytes as f64)
}

/// Bytes in use on the file system of `path`.
pub(super) fn occupied(path: &Path) -> Result<f64> {
    let found =
        nix::sys::statvfs::statvfs(path).with_context(|| format!("statvfs {}", path.display()))?;
    let blocks = found.blocks() - found.blocks_free();
    #[expect(clippy::cast_precision_loss, reason = "some GiB")]
    Ok((blocks * found.fragment_size()) as f64)
}

/// Bytes of files that the kernel has in memory.
pub(super) fn page_cache() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Cached:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("no Cached in /proc/meminfo")?.trim().parse()?;
    Ok(kib * 1024.0)
}
