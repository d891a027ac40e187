//! A root filesystem of dockerd's own.
//!
//! What is started in the container from outside (the health check, ECS Exec) is started from the
//! container's root filesystem, outside of dockerd's namespaces. A job can write wherever dockerd
//! can, so dockerd gets another `/`:
//!
//! ```text
//! /                    an overlay: below it the container's, on it what is changed, on the volume
//! /dev                 a new one with the same devices; terminals of whoever enters the container
//!                      from outside are not there
//! /etc/resolv.conf, …  copies: the files themselves are on the host's disk
//! the socket's folder  the container's, if it is no volume: dindd has to reach the socket
//! other mounts         the container's
//! ```
//!
//! It is put together at [`PLACE`] and then moved over `/`. `pivot_root`, which would let go of what
//! is below, is filtered by Docker's default profile; that nobody lifts it is the business of
//! [`super::lock`].

use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{chdir, chroot};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::table::{Entry, table};
use super::{bind, hide_mounts, make_mount_point, remount};

/// Where it is put together: every container has the folder, and it is not needed meanwhile.
const PLACE: &str = "/sys";
/// What comes back when it is done; not mounted beneath, so that runc may unmount it.
const LATER: [&str; 2] = ["/proc", "/sys"];
/// What Docker keeps on the host's disk for a container, and mounts.
const COPIED: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// Of what is mounted on `/dev`: terminals.
const TERMINALS: [&str; 2] = ["/dev/console", "/dev/pts"];

/// A root that is not in force yet.
#[derive(Debug)]
pub(super) struct Root {
    socket: PathBuf,
    later: Vec<(&'static str, OwnedFd)>,
}

impl Root {
    /// Begins one whose changes are kept in `changes`, on the storage volume. `socket` is the folder
    /// of dockerd's socket.
    ///
    /// # Errors
    /// Such a root is not possible here; nothing has changed then.
    pub(super) fn begin(changes: &Path, socket: &Path) -> Result<Self> {
        let later = LATER.into_iter().map(|path| Ok((path, copy(path)?)));
        let later = later.collect::<Result<_>>()?;
        overlay(changes)?;
        let root = Self {
            socket: socket.to_owned(),
            later,
        };
        let filled = root.devices().and_then(|()| root.take_along());
        if let Err(cause) = filled {
            umount2(PLACE, MntFlags::MNT_DETACH).context("cannot unmount what was begun")?;
            return Err(cause);
        }
        Ok(root)
    }

    /// Where `path` is until the root is in force.
    pub(super) fn at(path: &Path) -> PathBuf {
        let mut whole = std::ffi::OsString::from(PLACE);
        whole.push(path);
        whole.into()
    }

    /// Makes it `/`. Mounts of the old root are not there any more, as far as they can be undone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn enter(self, hidden: &[&Path]) -> Result<Later> {
        for folder in hidden {
            hide_mounts(folder)?;
        }
        protect()?;
        chdir(PLACE).context("cannot enter dockerd's root")?;
        let nothing = None::<&str>;
        mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing)
            .context("cannot move dockerd's root over /")?;
        chroot(".").context("cannot change to dockerd's root")?;
        chdir("/").context("cannot enter dockerd's root")?;
        Ok(Later(self.later))
    }

    fn take_along(&self) -> Result<()> {
        let mounts = table()?;
        let root = mounts.iter().rfind(|one| one.place == Path::new("/"));
        let root = root.context("/ is not mounted")?.number;
        let own = |one: &&Entry| {
            let apart = LATER.iter().chain(&["/", "/dev"]).map(Path::new);
            one.parent == root && !apart.into_iter().any(|place| place == one.place)
        };
        let mut socket_is_there = false;
        for one in mounts.iter().filter(own) {
            let at = Self::at(&one.place);
            if COPIED.iter().any(|file| Path::new(file) == one.place) {
                fs::read(&one.place)
                    .and_then(|text| fs::write(&at, text))
                    .with_context(|| format!("cannot copy {}", one.place.display()))?;
            } else {
                bind_whole(&one.place, &at)?;
                socket_is_there |= self.socket.starts_with(&one.place);
            }
        }
        if !socket_is_there && self.socket.is_dir() {
            bind(&self.socket, &Self::at(&self.socket))?;
        }
        Ok(())
    }

    fn devices(&self) -> Result<()> {
        let old = Path::new("/dev");
        let new = Self::at(old);
        make_mount_point(&new)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME;
        mount(
            Some("tmpfs"),
            &new,
            Some("tmpfs"),
            flags,
            Some("mode=0755,size=64m"),
        )
        .context("cannot mount a /dev for dockerd")?;
        let device = fs::metadata(old).context("/dev is not there")?.dev();
        copy_devices(old, &new, device)?;
        let terminals = new.join("pts");
        make_mount_point(&terminals)?;
        mount(
            Some("devpts"),
            &terminals,
            Some("devpts"),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
        )
        .context("cannot mount terminals for dockerd")?;
        for one in table()? {
            let below = one.place.parent() == Some(old);
            if below && !TERMINALS.iter().any(|place| Path::new(place) == one.place) {
                bind_whole(&one.place, &Self::at(&one.place))?;
            }
        }
        Ok(())
    }
}

/// What is mounted when the root is in force and cannot be lifted.
#[derive(Debug)]
pub(super) struct Later(Vec<(&'static str, OwnedFd)>);

impl Later {
    /// The container's processes, while they are mounted nowhere.
    pub(super) fn processes(&self) -> Option<&OwnedFd> {
        self.0
            .iter()
            .find(|(path, _)| *path == "/proc")
            .map(|(_, tree)| tree)
    }

    /// Mounts it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn mount(&self) -> Result<()> {
        for (path, tree) in &self.0 {
            move_mount(
                tree,
                "",
                CWD,
                *path,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )
            .with_context(|| format!("cannot mount {path} again"))?;
        }
        Ok(())
    }
}

/// All that is mounted at a path, mounted nowhere.
fn copy(path: &'static str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
        .with_context(|| format!("cannot copy the mount {path}; Linux 5.2 and Docker 20.10 can"))
}

fn overlay(changes: &Path) -> Result<()> {
    for (folder, mode) in [("upper", fs::metadata("/")?.mode()), ("work", 0o700)] {
        let path = changes.join(folder);
        DirBuilder::new()
            .recursive(true)
            .create(&path)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(mode & 0o7777)))
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    // Relative paths: no path can have a character that means something here.
    chdir(changes).with_context(|| format!("cannot enter {}", changes.display()))?;
    let mut mounted = try_overlay(",volatile");
    if mounted == Err(Errno::EINVAL) {
        // Kernels before 5.10, which write everything to the disk when it is unmounted.
        mounted = try_overlay("");
    }
    chdir("/").context("cannot enter /")?;
    mounted.context("cannot mount an overlay on the container's root filesystem")
}

fn try_overlay(more: &str) -> Result<(), Errno> {
    let options = format!("lowerdir=/,upperdir=upper,workdir=work{more}");
    let kind = Some("overlay");
    mount(kind, PLACE, kind, MsFlags::empty(), Some(options.as_str()))
}

/// Nothing is written to the old root by way of this namespace: `/proc/1/exe` is a file of it.
fn protect() -> Result<()> {
    remount(Path::new("/"), |flags| flags | MsFlags::MS_RDONLY)
        .context("cannot protect the container's root filesystem")
}

fn bind_whole(from: &Path, to: &Path) -> Result<()> {
    let nothing = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    if fs::metadata(from).is_ok_and(|found| found.is_dir()) {
        make_mount_point(to)?;
    } else if !to.exists() {
        fs::write(to, "").with_context(|| format!("cannot make {}", to.display()))?;
    }
    mount(Some(from), to, nothing, flags, nothing)
        .with_context(|| format!("cannot take {} along", from.display()))
}

/// Devices, links and folders; nothing that is mounted there.
fn copy_devices(from: &Path, to: &Path, device: u64) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        let context = || format!("cannot make {} for dockerd", entry.path().display());
        let found = entry.metadata().with_context(context)?;
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target).with_context(context)?;
        } else if kind.is_dir() {
            DirBuilder::new()
                .mode(found.mode() & 0o7777)
                .create(&target)
                .with_context(context)?;
            if found.dev() == device {
                copy_devices(&entry.path(), &target, device)?;
            }
        } else if (kind.is_char_device() || kind.is_block_device()) && found.dev() == device {
            let (kind, mode) = (
                SFlag::from_bits_truncate(found.mode()),
                found.mode() & 0o7777,
            );
            let kind = kind & SFlag::S_IFMT;
            mknod(&target, kind, Mode::from_bits_truncate(mode), found.rdev())
                .with_context(context)?;
            std::os::unix::fs::chown(&target, Some(found.uid()), Some(found.gid()))
                .and_then(|()| fs::set_permissions(&target, PermissionsExt::from_mode(mode)))
                .with_context(context)?;
        }
    }
    Ok(())
}
