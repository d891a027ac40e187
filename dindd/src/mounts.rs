//! What dockerd, and through it every job, sees of the filesystem.
//!
//! Owns the mount namespace of dockerd, from the inside:
//!
//! ```text
//! /                    a root of its own, so that nothing changes what is started from outside; see
//!                      [`root`]
//! /var/lib/docker      <storage>/<ours>/data, Docker's standard data-root
//! /run/docker          <storage>/<ours>/exec: a short path, because sockets are below it
//! /var/lib/docker/golden/…  the files of the golden store's version, if there is one
//! <storage>, the store  not there: unmounted, so that nothing can uncover them
//! /proc                a new one of our own PID namespace, without the container's masks: user
//!                      namespaces need one that is fully visible, and sysctls are writable
//! /run/containerd      an empty tmpfs: a socket of a host's containerd there would be used by
//!                      dockerd silently, and a restarted container has stale ones
//! /run/docker/sysfs    a whole /sys, when containers have user namespaces of their own
//! everything else      as in the container: work, externals and tool cache keep their paths
//! ```
//!
//! All of it but `/proc` and `/sys`, which runc unmounts in containers, is locked; see [`lock`].
//!
//! None of it is shared with the container's own mounts while it is made, or those would follow.
//! All of it is shared when it is done: then `-v …:shared` works, and dockerd does not bind its
//! data-root onto itself (moby `daemon/daemon_unix.go`, `setupDaemonRootPropagation`). Only `/`
//! itself is not where containers are started without `pivot_root`: runc then unmounts `/proc` and
//! `/sys` and moves the container's root over `/` (runc `libcontainer/rootfs_linux.go`,
//! `msMoveRoot`), and for a container with a shared volume both would happen to dockerd's own. There
//! `/` is a slave of the same in the namespace that this one is a copy of, which nobody lives in, so
//! that `-v /:/host:rslave` works. The task's volumes are mounts of their own and can be shared
//! everywhere.

mod lock;
mod root;
mod table;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use tracing::warn;

use root::Root;

/// dockerd's data-root in its namespace.
pub(crate) const DATA_ROOT: &str = "/var/lib/docker";
/// dockerd's exec-root in its namespace.
pub(crate) const EXEC_ROOT: &str = "/run/docker";

const NOTHING_SPECIAL: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// Whose data-root is shown and what is hidden.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct View {
    pub(crate) storage: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) exec: PathBuf,
    /// Where on the volume is kept what is changed elsewhere; without it, dockerd's root is the
    /// container's.
    pub(crate) changes: Option<PathBuf>,
    /// The folder of dockerd's socket.
    pub(crate) socket: PathBuf,
    pub(crate) root: RootMount,
    /// Whether containers have user namespaces of their own.
    pub(crate) remapped: bool,
    /// What the golden store has for the data-root.
    pub(crate) golden: Vec<golden::Mount>,
    /// Its directory, which is hidden: its files are on a filesystem that could become writable.
    pub(crate) store: Option<PathBuf>,
}

/// Whether mounts directly below `/` are shared with containers that ask for it, or only seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum RootMount {
    Shared,
    Slave,
}

/// The namespace that is described above.
#[derive(Debug)]
pub(crate) struct Arranged {
    /// The one that it is a copy of: it lives as long as it is open.
    _original: OwnedFd,
}

/// Makes the namespace that this process is in the one described above. The process must have one
/// thread: another one would stay where the volume is to be seen.
///
/// # Errors
/// When the kernel refuses a step; the message names it.
pub(crate) fn arrange(view: &View) -> Result<Arranged> {
    propagate(MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    renew_proc()?;
    let own = own_root(view);
    let at = |path: &Path| match &own {
        Some(_) => Root::at(path),
        None => path.to_owned(),
    };
    bind(&view.data, &at(Path::new(DATA_ROOT)))?;
    allow_devices(&at(Path::new(DATA_ROOT)))?;
    bind(&view.exec, &at(Path::new(EXEC_ROOT)))?;
    for file in &view.golden {
        file.perform(&at(Path::new(DATA_ROOT)))?;
    }
    let store = view.store.as_deref().filter(|store| store.exists());
    let hidden: Vec<&Path> = [&*view.storage].into_iter().chain(store).collect();
    for folder in &hidden {
        hide(&at(folder), folder)?;
    }
    empty(&at(Path::new("/run/containerd")))?;
    let original = match own {
        Some(own) => settle(own, &hidden)?,
        None => {
            let original = lock::open(processes()?, "self")?;
            step_into_a_copy()?;
            original
        }
    };
    if view.remapped {
        show_sysfs()?;
    }
    propagate(MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    if view.root == RootMount::Slave {
        propagate(MsFlags::MS_SLAVE)?;
    }
    Ok(Arranged {
        _original: original,
    })
}

/// A root of dockerd's own, where there can be one.
fn own_root(view: &View) -> Option<Root> {
    let changes = view.changes.as_deref()?;
    match Root::begin(changes, &view.socket) {
        Ok(root) => Some(root),
        Err(cause) => {
            warn!(
                "a job could change what is started in this container from outside, such as the \
                 health check: {cause:#}"
            );
            None
        }
    }
}

/// Puts the root in force and locks it.
fn settle(own: Root, hidden: &[&Path]) -> Result<OwnedFd> {
    let later = own.enter(hidden)?;
    let processes = later.processes().context("nothing shows processes")?;
    if let Err(cause) = lock::lock(processes) {
        warn!(
            "a privileged job could change what is started in this container from outside, such as \
             the health check; allow user namespaces on the host (sysctl \
             user.max_user_namespaces): {cause:#}"
        );
    }
    let original = lock::open(processes, "self")?;
    step_into_a_copy()?;
    later.mount()?;
    Ok(original)
}

fn processes() -> Result<File> {
    File::open("/proc").context("cannot open /proc")
}

/// Goes on in a copy of the namespace, whose `/` can be a slave of the original's.
fn step_into_a_copy() -> Result<()> {
    propagate(MsFlags::MS_SHARED)?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot copy a mount namespace")
}

fn propagate(kind: MsFlags) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, kind, None::<&str>)
        .with_context(|| format!("cannot change the propagation of / ({kind:?})"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    make_mount_point(to)?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {} at {}", from.display(), to.display()))
}

/// Takes `nodev` away, which the host may have given the volume: it would be locked with the rest, and
/// BuildKit's read-only mounts, which leave it out, would be refused.
fn allow_devices(path: &Path) -> Result<()> {
    remount(path, |flags| flags - MsFlags::MS_NODEV)
        .with_context(|| format!("cannot take nodev from {}", path.display()))
}

/// Changes the flags of a mount, as far as they are of [`NOTHING_SPECIAL`] or are added.
fn remount(path: &Path, change: impl Fn(MsFlags) -> MsFlags) -> Result<()> {
    let nothing = None::<&str>;
    // The first flags of statvfs and of mount are the same (sys/statvfs.h, linux/mount.h).
    let flags = statvfs(path).context("cannot ask for its flags")?.flags();
    let flags = change(MsFlags::from_bits_truncate(flags.bits()) & NOTHING_SPECIAL);
    let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    Ok(mount(nothing, path, nothing, flags | again, nothing)?)
}

/// Undoes all mounts at a path; whether there were some.
fn hide_mounts(folder: &Path) -> Result<bool> {
    let mut unmounted = false;
    while unmount(folder)? {
        unmounted = true;
    }
    Ok(unmounted)
}

/// Makes `place`, where `folder` of the container is to be seen, empty.
fn hide(place: &Path, folder: &Path) -> Result<()> {
    if !hide_mounts(place)? {
        // With DINDD_ALLOW_ANY_FS it may be any directory, which can only be covered.
        let flags = NOTHING_SPECIAL | MsFlags::MS_RDONLY;
        mount(
            Some("dindd"),
            place,
            Some("tmpfs"),
            flags,
            Some("size=0,mode=0555"),
        )
        .with_context(|| format!("cannot cover {}", folder.display()))?;
    }
    Ok(())
}

fn renew_proc() -> Result<()> {
    let proc = Path::new("/proc");
    while unmount(proc)? {}
    mount(
        Some("proc"),
        proc,
        Some("proc"),
        NOTHING_SPECIAL,
        None::<&str>,
    )
    .context("cannot mount a new /proc; SYS_ADMIN in the host's user namespace is needed")
}

/// In a user namespace of its own a container can mount /sys only where a whole one is to be seen
/// already (fs/namespace.c, `mount_too_revealing`), and the container's own is masked. Any place
/// will do.
fn show_sysfs() -> Result<()> {
    let place = Path::new(EXEC_ROOT).join("sysfs");
    make_mount_point(&place)?;
    mount(
        Some("sysfs"),
        &place,
        Some("sysfs"),
        NOTHING_SPECIAL,
        None::<&str>,
    )
    .context("cannot mount a whole /sys for user namespaces (DINDD_USERNS)")
}

fn empty(folder: &Path) -> Result<()> {
    make_mount_point(folder)?;
    mount(
        Some("dindd"),
        folder,
        Some("tmpfs"),
        NOTHING_SPECIAL,
        Some("mode=0711"),
    )
    .with_context(|| format!("cannot mount a tmpfs at {}", folder.display()))
}

/// Whether something was mounted there and is not any more.
fn unmount(path: &Path) -> Result<bool> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // Not a mount; or one that a user namespace may not undo, which is covered then.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(cause) => Err(cause).with_context(|| format!("cannot unmount {}", path.display())),
    }
}

fn make_mount_point(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| {
        format!(
            "cannot make {}; a read-only image must have it",
            path.display()
        )
    })
}
