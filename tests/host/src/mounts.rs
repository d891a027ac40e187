//! Owns mounts that are made outside a host and appear inside it.
//!
//! A mount is first made detached (a descriptor, in no namespace), then moved into the host's mount
//! namespace. Until it is moved nobody sees it, and it goes with its descriptor.

use std::fs;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount as api;

/// Whether a mount may be written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A mount that is in no namespace yet.
#[derive(Debug)]
pub(crate) struct DetachedMount {
    tree: OwnedFd,
    root: RootKind,
}

/// What the mount point must be.
#[derive(Debug, Clone, Copy)]
enum RootKind {
    Folder,
    File,
}

impl DetachedMount {
    /// The XFS filesystem on `device`.
    ///
    /// `nouuid`, because every clone of a disk image has the same UUID and XFS refuses the second.
    pub(crate) fn xfs(device: &Path) -> Result<Self> {
        let tree = (|| {
            let context = api::fsopen("xfs", api::FsOpenFlags::FSOPEN_CLOEXEC)?;
            api::fsconfig_set_string(&context, "source", device)?;
            api::fsconfig_set_flag(&context, "nouuid")?;
            api::fsconfig_create(&context)?;
            let flags = api::FsMountFlags::FSMOUNT_CLOEXEC;
            api::fsmount(&context, flags, api::MountAttrFlags::empty())
        })()
        .with_context(|| format!("mount the XFS filesystem on {}", device.display()))?;
        Ok(Self {
            tree,
            root: RootKind::Folder,
        })
    }

    /// What is at `path` on the machine, with everything mounted below it.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).with_context(|| format!("bind {}", path.display()))?;
        let flags = api::OpenTreeFlags::OPEN_TREE_CLONE
            | api::OpenTreeFlags::OPEN_TREE_CLOEXEC
            | api::OpenTreeFlags::AT_RECURSIVE;
        let tree =
            api::open_tree(CWD, path, flags).with_context(|| format!("bind {}", path.display()))?;
        let root = if metadata.is_dir() {
            RootKind::Folder
        } else {
            RootKind::File
        };
        Ok(Self { tree, root })
    }

    /// Puts the mount at `inside`, made if missing, in the mount namespace of process `pid`.
    pub(crate) fn attach(self, pid: i32, inside: &Path, access: Access) -> Result<()> {
        let namespace = format!("/proc/{pid}/ns/mnt");
        let namespace = File::open(&namespace).with_context(|| format!("open {namespace}"))?;
        let inside = inside.to_owned();
        // Only the thread that enters the namespace leaves the driver's, and it ends here.
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).context("unshare the working directory")?;
            setns(&namespace, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
            self.attach_here(&inside, access)
                .with_context(|| format!("mount at {} in the host", inside.display()))
        });
        thread
            .join()
            .map_err(|_| anyhow!("the mounting thread panicked"))?
    }

    fn attach_here(&self, inside: &Path, access: Access) -> Result<()> {
        match self.root {
            RootKind::Folder => fs::create_dir_all(inside)?,
            RootKind::File => {
                fs::create_dir_all(inside.parent().unwrap_or(Path::new("/")))?;
                File::options().create(true).append(true).open(inside)?;
            }
        }
        let flags = api::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        api::move_mount(&self.tree, "", CWD, inside, flags)?;
        if access == Access::ReadOnly {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            nix::mount::mount(None::<&str>, inside, None::<&str>, flags, None::<&str>)?;
        }
        Ok(())
    }
}

/// A line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MountLine {
    /// The mount point. First, so that lines sort by it.
    pub(crate) point: String,
    /// Tells two mounts at the same point apart.
    pub(crate) id: u32,
    /// Filesystem type.
    pub(crate) kind: String,
}

/// Parses `/proc/PID/mountinfo` (proc_pid_mountinfo(5)). Paths keep the kernel's `\040` escapes.
pub(crate) fn parse_mountinfo(text: &str) -> Vec<MountLine> {
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        Some(MountLine {
            point: (*left.get(4)?).to_owned(),
            id: left.first()?.parse().ok()?,
            kind: right.split(' ').next()?.to_owned(),
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_and_without_optional_fields() {
        let text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
                    37 35 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let line = |point: &str, id, kind: &str| MountLine {
            point: point.into(),
            id,
            kind: kind.into(),
        };
        assert_eq!(
            parse_mountinfo(text),
            [
                line("/mnt2", 36, "ext3"),
                line("/sys/fs/cgroup", 37, "cgroup2")
            ]
        );
    }
}
