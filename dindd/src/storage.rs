//! The storage volume: whether it can hold data-roots, and how full it is.
//!
//! Owns the guard that keeps images off a disk that was not meant for them: a host path that is
//! not mounted is a plain directory on the host's root disk, and Docker fills that until the host
//! fails. Does not know what lies on the volume; see [`crate::data_root`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};

/// `XFS_SUPER_MAGIC` (linux/magic.h).
const XFS: u64 = 0x5846_5342;

/// Files that Docker binds into every container from its own data-root: their device is the disk
/// that the host's Docker uses.
const FROM_THE_HOSTS_DOCKER: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// What dockerd needs to start at all: it writes a few databases, and containers some files each.
const LEAST_BYTES: u64 = 32 << 20;

/// Share of the volume below which it counts as full, in percent.
const TIGHT_PERCENT: u64 = 10;

/// Refuses a volume that is not XFS with ftype=1 on a device of its own.
///
/// # Errors
/// What is wrong with it and what to do.
pub(crate) fn require_suitable(storage: &Path, any: bool) -> Result<()> {
    let found = fs::metadata(storage).with_context(|| {
        format!(
            "the storage volume {} is not there; mount it, or name another by DINDD_STORAGE",
            storage.display()
        )
    })?;
    if !found.is_dir() {
        bail!("{} (DINDD_STORAGE) is not a directory", storage.display());
    }
    if any {
        return Ok(());
    }
    let path = storage.display();
    let statistics = rustix::fs::statfs(storage).context("statfs")?;
    if u64::try_from(statistics.f_type).ok() != Some(XFS) {
        bail!(
            "{path} is not XFS (its filesystem type is {:#x}); mount an XFS volume there, name another \
             by DINDD_STORAGE, or set DINDD_ALLOW_ANY_FS=1 to take it as it is",
            statistics.f_type
        );
    }
    if let Some(neighbour) = shares_its_device(found.dev()) {
        bail!(
            "{path} is on the same device as {}: the volume is not mounted and images would fill \
             that disk; mount it on the host, name another by DINDD_STORAGE, or set \
             DINDD_ALLOW_ANY_FS=1 to take it as it is",
            neighbour.display()
        );
    }
    if !tells_file_types(storage)? {
        bail!(
            "{path} is XFS with ftype=0, on which overlay2 does not work; make it anew with \
             mkfs.xfs -n ftype=1"
        );
    }
    Ok(())
}

/// A place outside the volume that has the volume's device.
fn shares_its_device(device: u64) -> Option<PathBuf> {
    let root = std::iter::once("/").chain(FROM_THE_HOSTS_DOCKER);
    root.map(PathBuf::from)
        .find(|place| fs::metadata(place).is_ok_and(|found| found.dev() == device))
}

/// Whether directory entries carry their type: what overlayfs calls `d_type` and XFS `ftype`.
fn tells_file_types(storage: &Path) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, storage, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", storage.display()))?;
    // Every directory has at least "." and "..".
    let mut entries = Dir::read_from(&folder).context("cannot read the storage volume")?;
    let first = entries.next().transpose()?;
    Ok(first.is_some_and(|entry| entry.file_type() != FileType::Unknown))
}

/// Free space of the volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
}

impl Space {
    /// # Errors
    /// When the volume does not answer.
    pub(crate) fn of(storage: &Path) -> Result<Self> {
        let found = rustix::fs::statvfs(storage).context("statvfs of the storage volume")?;
        Ok(Self {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Refuses a volume on which dockerd could not even start: it would take long to say so, and
    /// name a file.
    ///
    /// # Errors
    /// Names the volume.
    pub(crate) fn require_enough(self, storage: &Path) -> Result<()> {
        if self.free_bytes >= LEAST_BYTES {
            return Ok(());
        }
        bail!(
            "the storage volume {} is full: {} of {} MiB are free and dindd needs {}; make it \
             larger, or remove what is not dindd's from it",
            storage.display(),
            self.free_bytes >> 20,
            self.total_bytes >> 20,
            LEAST_BYTES >> 20
        )
    }

    /// Whether so little is left that orphans must go before dockerd starts.
    pub(crate) fn is_tight(self) -> bool {
        self.free_bytes < self.total_bytes / 100 * TIGHT_PERCENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_is_not_there_is_refused_with_the_setting_that_names_it() {
        let error = require_suitable(Path::new("/nowhere/storage"), true).unwrap_err();
        assert!(format!("{error:#}").contains("DINDD_STORAGE"), "{error:#}");
    }

    #[test]
    fn another_filesystem_is_refused_unless_any_is_allowed() {
        // /proc is never XFS.
        let error = require_suitable(Path::new("/proc/self"), false).unwrap_err();
        assert!(
            format!("{error:#}").contains("DINDD_ALLOW_ANY_FS=1"),
            "{error:#}"
        );
        require_suitable(Path::new("/proc/self"), true).unwrap();
    }

    #[test]
    fn a_folder_on_the_root_device_shares_it() {
        let root = fs::metadata("/").unwrap().dev();
        assert_eq!(shares_its_device(root), Some("/".into()));
        assert_eq!(shares_its_device(u64::MAX), None);
    }

    #[test]
    fn a_full_volume_is_named() {
        let space = |free_bytes| Space {
            total_bytes: 10 << 30,
            free_bytes,
        };
        let volume = Path::new("/volume");
        space(LEAST_BYTES).require_enough(volume).unwrap();
        let error = space(LEAST_BYTES - 1).require_enough(volume).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/volume is full: 31 of 10240 MiB"),
            "{error}"
        );
    }

    #[test]
    fn a_volume_is_tight_below_a_tenth() {
        let space = |free_bytes| Space {
            total_bytes: 1000,
            free_bytes,
        };
        assert!(space(99).is_tight());
        assert!(!space(100).is_tight());
    }
}
