//! A limit for all that a data-root holds: an XFS project of its own.
//!
//! Owns the project's number and its limit. Numbers belong to the filesystem, not to a daemon, and
//! dockerd numbers its own projects from the one of its data-root on, beginning with the next (moby
//! `daemon/internal/quota/projectquota.go`). So tasks are far apart, and no two have the same: each
//! writes its number on its lock file first and looks at all others then. The lock file is also
//! what goes last, so whoever has removed a root knows whose limit to lift.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, mknod};
use tracing::warn;

use crate::data_root::{self, LOCK, TRASH};

/// How far tasks are apart: more than the containers that one of them can have.
const STRIDE: u32 = 1 << 16;

// linux/fs.h: `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`, `FS_XFLAG_PROJINHERIT`.
const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;
const INHERIT: u32 = 0x200;

// linux/quota.h, linux/dqblk_xfs.h: `QCMD(Q_XSETQLIM, PRJQUOTA)`, `QCMD(Q_XGETQUOTA, PRJQUOTA)`.
const SET_LIMIT: u32 = (0x5800 + 4) << 8 | 2;
const GET_QUOTA: u32 = (0x5800 + 3) << 8 | 2;
/// `FS_PROJ_QUOTA`.
const OF_A_PROJECT: i8 = 2;
/// `FS_DQ_BSOFT | FS_DQ_BHARD`.
const BLOCKS: u16 = 1 << 2 | 1 << 3;
/// XFS counts in these, whatever its own blocks are (`BBSIZE`).
const BASIC_BLOCK: u64 = 512;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Quota {
    version: i8,
    kind: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    timers: [u64; 2],
    real_time: [u64; 3],
    rest: [u64; 2],
}

/// Refuses a volume that does not count what projects hold.
///
/// # Errors
/// Names the mount option that is missing.
pub(crate) fn require(storage: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let device = fs::metadata(storage).map_or(0, |found| found.dev());
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if is_counted(&table, &format!("{major}:{minor}")) {
        return Ok(());
    }
    bail!(
        "DINDD_QUOTA is set, but {} is not mounted with the option prjquota; add it where the host \
         mounts the volume (it cannot be added to one that is mounted), or unset DINDD_QUOTA",
        storage.display()
    )
}

/// Whether a mount of the device is XFS with project quotas in force (proc(5), mountinfo).
fn is_counted(table: &str, device: &str) -> bool {
    table.lines().any(|line| {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            return false;
        };
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next();
        let mut options = filesystem.nth(1).unwrap_or_default().split(',');
        mount.split(' ').nth(2) == Some(device)
            && kind == Some("xfs")
            && options.any(|option| matches!(option, "prjquota" | "pquota"))
    })
}

/// Makes everything that is written below `folder` of the data-root `name` count, and limits it.
///
/// # Errors
/// When the volume has no project quotas, or the kernel refuses.
pub(crate) fn limit(storage: &Path, name: &str, bytes: u64) -> Result<()> {
    require(storage)?;
    let root = storage.join(name);
    let lock = root.join(LOCK);
    let project = loop {
        // The number of a task is a multiple of the stride, and never 0: that is everybody's.
        let project = rand::random_range(1..=u32::MAX / STRIDE) * STRIDE;
        set_project(&lock, project, 0)?;
        if !is_taken(storage, name, project)? {
            break project;
        }
    };
    for folder in ["data", "root"] {
        set_project(&root.join(folder), project, INHERIT)?;
    }
    set_limit(storage, project, bytes)
        .with_context(|| format!("cannot limit the data-root to {bytes} bytes (DINDD_QUOTA)"))
}

/// The project of a root, in the trash or not.
pub(crate) fn project_of(root: &Path) -> Option<u32> {
    let attributes = get_attributes(&File::open(root.join(LOCK)).ok()?).ok()?;
    (attributes.project != 0).then_some(attributes.project)
}

/// Lifts the limit of a root that is gone.
pub(crate) fn free(storage: &Path, project: u32) {
    if let Err(cause) = set_limit(storage, project, 0) {
        warn!(
            project,
            "the quota of a data-root that is gone stays: {cause}"
        );
    }
}

/// Whether another root has the number, or something that is none.
fn is_taken(storage: &Path, own: &str, project: u32) -> Result<bool> {
    for folder in [storage.to_owned(), storage.join(TRASH)] {
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("cannot read {}", folder.display()))?,
        };
        for entry in entries {
            let name = entry?.file_name();
            let other = name
                .to_str()
                .is_some_and(|name| data_root::is_name(name) && name != own);
            if other && project_of(&folder.join(name)) == Some(project) {
                return Ok(true);
            }
        }
    }
    let mut quota = Quota::default();
    match call(storage, GET_QUOTA, project, &mut quota) {
        Ok(()) => Ok(quota.blocks > 0 || quota.blocks_hard > 0 || quota.blocks_soft > 0),
        // The kernel knows no such project.
        Err(Errno::ENOENT) => Ok(false),
        Err(cause) => Err(cause).context("cannot ask for a quota (quotactl)"),
    }
}

fn set_limit(storage: &Path, project: u32, bytes: u64) -> Result<(), Errno> {
    let blocks = bytes.div_ceil(BASIC_BLOCK);
    let mut quota = Quota {
        version: 1,
        kind: OF_A_PROJECT,
        fields: BLOCKS,
        id: project,
        blocks_hard: blocks,
        blocks_soft: blocks,
        ..Quota::default()
    };
    call(storage, SET_LIMIT, project, &mut quota)
}

/// By a descriptor of the volume. Where a filter does not know that call, by a node of its device,
/// which is there for as long only.
fn call(storage: &Path, command: u32, project: u32, quota: &mut Quota) -> Result<(), Errno> {
    let volume = File::open(storage).map_err(|_| Errno::ENOENT)?;
    #[expect(unsafe_code, reason = "there is no safe wrapper of quotactl_fd(2)")]
    // SAFETY: the structure is as long as the kernel's, which reads or fills it.
    let done = unsafe {
        let quota = std::ptr::from_mut(quota);
        libc::syscall(
            libc::SYS_quotactl_fd,
            volume.as_raw_fd(),
            command,
            project,
            quota,
        )
    };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS | Errno::EPERM) => by_node(storage, command, project, quota),
        Err(cause) => Err(cause),
    }
}

fn by_node(storage: &Path, command: u32, project: u32, quota: &mut Quota) -> Result<(), Errno> {
    let device = fs::metadata(storage).map_err(|_| Errno::ENOENT)?.dev();
    let node = PathBuf::from(format!("/dev/dindd-{:032x}", rand::random::<u128>()));
    mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR, device)?;
    let path = std::ffi::CString::new(node.as_os_str().as_encoded_bytes());
    #[expect(unsafe_code, reason = "nix has not XFS's commands of quotactl(2)")]
    // SAFETY: the path ends, and the structure is as long as the kernel's.
    let done = path.map_err(|_| Errno::EINVAL).map(|path| unsafe {
        let quota = std::ptr::from_mut(quota);
        libc::syscall(libc::SYS_quotactl, command, path.as_ptr(), project, quota)
    });
    fs::remove_file(node).ok();
    Errno::result(done?).map(drop)
}

fn set_project(path: &Path, project: u32, flags: u32) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let set = || {
        let mut attributes = get_attributes(&file)?;
        attributes.project = project;
        attributes.flags |= flags;
        ioctl(&file, SET_ATTRIBUTES, &mut attributes)
    };
    set().with_context(|| format!("cannot put {} into a project", path.display()))
}

fn get_attributes(file: &File) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    ioctl(file, GET_ATTRIBUTES, &mut attributes)?;
    Ok(attributes)
}

fn ioctl(file: &File, request: libc::c_ulong, attributes: &mut Attributes) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "there is no safe wrapper of these ioctls")]
    // SAFETY: the structure is as long as the request says; the kernel reads or fills it.
    let done = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            request,
            std::ptr::from_mut(attributes),
        )
    };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        // The size is part of the request's number; struct fs_disk_quota has 112 bytes.
        assert_eq!(size_of::<Attributes>(), 0x1c);
        assert_eq!(size_of::<Quota>(), 112);
        assert_eq!(std::mem::offset_of!(Quota, blocks), 40);
    }

    #[test]
    fn a_volume_counts_only_with_the_option_on_its_own_device() {
        let line = |device: &str, kind: &str, options: &str| {
            format!("36 35 {device} /x /var/docker-storage rw shared:1 - {kind} /dev/x {options}\n")
        };
        for (table, counted) in [
            (line("7:0", "xfs", "rw,attr2,prjquota"), true),
            (line("7:0", "xfs", "rw,pquota,noquota"), true),
            (line("7:0", "xfs", "rw,noquota"), false),
            (line("7:0", "xfs", "rw,pqnoenforce"), false),
            (line("7:1", "xfs", "rw,prjquota"), false),
            (line("7:0", "ext4", "rw,prjquota"), false),
            ("nonsense".into(), false),
        ] {
            assert_eq!(is_counted(&table, "7:0"), counted, "{table}");
        }
    }

    #[test]
    fn a_volume_without_project_quotas_is_refused_with_the_option() {
        let error = require(Path::new("/proc")).unwrap_err();
        assert!(error.to_string().contains("prjquota"), "{error}");
    }
}
