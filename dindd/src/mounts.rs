//! What dockerd, and through it every job, sees of the filesystem.
//!
//! Owns the mount namespace of dockerd, from the inside:
//!
//! ```text
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
//! None of it is shared with the container's own mounts while it is made, or those would follow.
//! All of it is shared when it is done: then `-v …:shared` works, and dockerd does not bind its
//! data-root onto itself (moby `daemon/daemon_unix.go`, `setupDaemonRootPropagation`). Only `/`
//! itself is not where containers are started without `pivot_root`: runc then unmounts `/proc` and
//! `/sys` and moves the container's root over `/` (runc `libcontainer/rootfs_linux.go`,
//! `msMoveRoot`), and for a container with a shared volume both would happen to dockerd's own. There
//! `/` is a slave of dindd's own `/`, so that `-v /:/host:rslave` works. The task's volumes are
//! mounts of their own and can be shared everywhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};
use tracing::warn;

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

/// Makes our own `/` one that dockerd's can be a slave of. Call it before dockerd's namespace is
/// made.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn become_master() -> Result<()> {
    propagate(MsFlags::MS_SHARED)
}

/// Makes the namespace that this process is in the one described above.
///
/// # Errors
/// When the kernel refuses a step; the message names it.
pub(crate) fn arrange(view: &View) -> Result<()> {
    propagate(MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    bind(&view.data, Path::new(DATA_ROOT))?;
    bind(&view.exec, Path::new(EXEC_ROOT))?;
    for file in &view.golden {
        file.perform(Path::new(DATA_ROOT))?;
    }
    hide(&view.storage, "the storage volume")?;
    if let Some(store) = view.store.as_deref().filter(|store| store.exists()) {
        hide(store, "the golden store")?;
    }
    renew_proc()?;
    if view.remapped {
        show_sysfs()?;
    }
    empty(Path::new("/run/containerd"))?;
    propagate(MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    match view.root {
        RootMount::Shared => Ok(()),
        RootMount::Slave => propagate(MsFlags::MS_SLAVE),
    }
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

fn hide(folder: &Path, what: &str) -> Result<()> {
    let mut unmounted = 0;
    while unmount(folder)? {
        unmounted += 1;
    }
    if unmounted == 0 {
        // With DINDD_ALLOW_ANY_FS it may be any directory, which can only be covered.
        warn!(
            folder = %folder.display(),
            "{what} is no mount of its own: a job could uncover it"
        );
        let flags = NOTHING_SPECIAL | MsFlags::MS_RDONLY;
        mount(
            Some("dindd"),
            folder,
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
