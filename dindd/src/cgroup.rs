//! The container's cgroup: made ready for containers below it, and cleared of them.
//!
//! Owns the layout that cgroup v2 demands ("no internal processes", cgroup-v2.rst): every process
//! of the container moves into the leaf `init`, then the controllers are enabled for the cgroups
//! that dockerd makes beside it. Does not know dockerd.

use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use init::Deadline;
use nix::mount::MsFlags;
use tracing::{debug, warn};

/// The leaf for dindd, dockerd and whatever enters the container from outside.
const LEAF: &str = "init";
/// dockerd's own name for the cgroup in which it makes those of containers and builds
/// (moby `daemon/daemon_unix.go`, `getCgroupParent`).
const CONTAINERS: &str = "docker";
/// How long processes that enter in between may keep the controllers from being enabled.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// Makes the cgroup at `root` ready for containers.
///
/// # Errors
/// When it is no cgroup v2 of our own or cannot be made writable; each with its remedy.
pub(crate) async fn nest(root: &Path) -> Result<()> {
    require_our_own(root)?;
    let leaf = root.join(LEAF);
    if let Err(cause) = make(&leaf) {
        // Docker mounts it read-only unless the container is privileged.
        debug!("{} cannot be made yet: {cause}", leaf.display());
        make_writable(root)?;
        make(&leaf).with_context(|| format!("cannot make the cgroup {}", leaf.display()))?;
    }
    let controllers = read(&root.join("cgroup.controllers"))?;
    let deadline = Deadline::within(PATIENCE);
    loop {
        move_processes(root, &leaf)?;
        let Some(cause) = enable(root, &controllers) else {
            return Ok(());
        };
        // An exec from outside puts its process into the root again.
        if cause.raw_os_error() != Some(nix::libc::EBUSY) || deadline.is_over() {
            return enable_those_that_can(root, &controllers);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Limits the containers to `wanted` processes, or to three quarters of the container's own limit:
/// where a job's fork bomb had them all, neither the health check nor dockerd's `docker kill` could
/// be started. A limit of a cgroup above, as the one of an ECS task, is not to be seen here.
pub(crate) fn limit_processes(root: &Path, wanted: Option<NonZero<u32>>) {
    let own = fs::read_to_string(root.join("pids.max")).unwrap_or_default();
    let own: Option<u32> = own.trim().parse().ok();
    let Some(limit) = wanted.map(NonZero::get).or(own.map(|own| own - own / 4)) else {
        return;
    };
    let containers = root.join(CONTAINERS);
    let limited = make(&containers)
        .and_then(|()| write_existing(&containers.join("pids.max"), &limit.to_string()));
    if let Err(cause) = limited {
        warn!(
            limit,
            "a job that forks without end can block this sidecar: its containers' processes cannot be limited: {cause}"
        );
    }
}

/// Whether the cgroup is v2 and a container's own.
///
/// # Errors
/// When it is not, with the remedy.
pub(crate) fn require_our_own(root: &Path) -> Result<()> {
    let path = root.display();
    if !root.join("cgroup.controllers").exists() {
        bail!(
            "{path} is not cgroup v2; boot the host with cgroup v2 (Amazon Linux 2023 has it, \
             elsewhere systemd.unified_cgroup_hierarchy=1)"
        );
    }
    // Every cgroup but the machine's own root has a type (cgroup-v2.rst, "cgroup.type").
    if !root.join("cgroup.type").exists() {
        bail!(
            "{path} shows the machine's whole cgroup tree; give the container a cgroup namespace \
             of its own (docker run --cgroupns=private, Docker's default on cgroup v2)"
        );
    }
    Ok(())
}

/// Whether what is mounted is the container's own cgroup: a process that is told another path than
/// the root or our leaf sees the cgroups of somebody else there.
///
/// # Errors
/// When it is not, with the remedy.
pub(crate) fn require_own_namespace() -> Result<()> {
    let told = read(Path::new("/proc/self/cgroup"))?;
    let path = own_path(&told).context("this process is in no cgroup v2; boot the host with it")?;
    if path != "/" && path != format!("/{LEAF}") {
        bail!(
            "this container is told its place in the host's cgroups ({path}); give it a cgroup \
             namespace of its own (docker run --cgroupns=private, Docker's default on cgroup v2)"
        );
    }
    Ok(())
}

/// The path in the hierarchy of version 2 (cgroups(7), `/proc/[pid]/cgroup`).
fn own_path(told: &str) -> Option<&str> {
    told.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Whether any process is in a container.
pub(crate) fn is_populated(root: &Path) -> bool {
    let populated = |cgroup: &PathBuf| {
        let events = fs::read_to_string(cgroup.join("cgroup.events"));
        events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    };
    let containers = cgroups_in(root).unwrap_or_default();
    containers
        .iter()
        .filter(|path| !path.ends_with(LEAF))
        .any(populated)
}

/// Kills what is left in the cgroups beside the leaf and removes them, until the deadline.
pub(crate) async fn clear(root: &Path, deadline: Deadline) {
    let cgroups = match cgroups_in(root) {
        Ok(all) => all.into_iter().filter(|path| !path.ends_with(LEAF)),
        Err(cause) => {
            debug!("no cgroups to clear: {cause}");
            return;
        }
    };
    for cgroup in cgroups {
        // Kernels before 5.14 have no such file; there the end of the PID namespace must do.
        if let Err(cause) = write_existing(&cgroup.join("cgroup.kill"), "1") {
            debug!("cannot kill by {}: {cause}", cgroup.display());
        }
        loop {
            match remove_deepest_first(&cgroup) {
                Ok(()) => break,
                Err(cause) if deadline.is_over() => {
                    warn!("the cgroup {} is left: {cause}", cgroup.display());
                    break;
                }
                // The kernel takes a moment after the last process has ended.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

fn make(leaf: &Path) -> io::Result<()> {
    match fs::create_dir(leaf) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn make_writable(root: &Path) -> Result<()> {
    // The flags that Docker mounts it with, but for read-only; of this mount, not the filesystem.
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    nix::mount::mount(None::<&str>, root, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot make {} writable", root.display()))
}

fn move_processes(root: &Path, leaf: &Path) -> Result<()> {
    let destination = leaf.join("cgroup.procs");
    for pid in read(&root.join("cgroup.procs"))?.split_whitespace() {
        // 0 is a process of another PID namespace; who ended in between has nothing to move.
        if pid != "0"
            && let Err(cause) = fs::write(&destination, pid)
            && cause.raw_os_error() != Some(nix::libc::ESRCH)
        {
            return Err(cause)
                .with_context(|| format!("cannot move process {pid} to {}", leaf.display()));
        }
    }
    Ok(())
}

fn enable(root: &Path, controllers: &str) -> Option<io::Error> {
    let all: Vec<String> = controllers
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    fs::write(root.join("cgroup.subtree_control"), all.join(" ")).err()
}

/// One that cannot be enabled must not keep the others from it: limits of that kind are missing
/// then, and containers run.
fn enable_those_that_can(root: &Path, controllers: &str) -> Result<()> {
    for name in controllers.split_whitespace() {
        match enable(root, name) {
            Some(cause) if cause.raw_os_error() == Some(nix::libc::EBUSY) => {
                return Err(cause).with_context(|| {
                    format!(
                        "processes keep entering {}; nothing can be enabled",
                        root.display()
                    )
                });
            }
            Some(cause) => warn!("the cgroup controller {name} cannot be enabled: {cause}"),
            None => {}
        }
    }
    Ok(())
}

/// Never makes the file: a kernel that has it not means it.
fn write_existing(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}

fn cgroups_in(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

fn remove_deepest_first(cgroup: &Path) -> io::Result<()> {
    for child in cgroups_in(cgroup)? {
        remove_deepest_first(&child)?;
    }
    match fs::remove_dir(cgroup) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(controllers: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cgroup.controllers", controllers),
            ("cgroup.type", "domain\n"),
            ("cgroup.procs", "0\n17\n"),
            ("cgroup.subtree_control", ""),
        ] {
            fs::write(root.path().join(file), text).unwrap();
        }
        root
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn processes_move_to_the_leaf_before_every_controller_is_enabled() {
        let root = cgroup("cpu io memory\n");
        block_on(nest(root.path())).unwrap();
        let file = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(file("init/cgroup.procs"), "17");
        assert_eq!(file("cgroup.subtree_control"), "+cpu +io +memory");
    }

    #[test]
    fn containers_leave_a_quarter_of_the_processes_unless_told_otherwise() {
        for (own, wanted, expected) in [
            ("400\n", None, "300"),
            ("max\n", None, "max"),
            ("max\n", Some(640), "640"),
            ("400\n", Some(350), "350"),
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("pids.max"), own).unwrap();
            // The kernel makes it with the cgroup.
            fs::create_dir(root.path().join(CONTAINERS)).unwrap();
            let limit = root.path().join(CONTAINERS).join("pids.max");
            fs::write(&limit, "max").unwrap();
            limit_processes(root.path(), wanted.and_then(NonZero::new));
            assert_eq!(
                fs::read_to_string(limit).unwrap(),
                expected,
                "{own} {wanted:?}"
            );
        }
    }

    #[test]
    fn a_cgroup_that_is_not_our_own_is_refused_with_the_remedy() {
        let root = cgroup("cpu");
        for (file, remedy) in [
            ("cgroup.type", "--cgroupns=private"),
            ("cgroup.controllers", "cgroup v2"),
        ] {
            fs::remove_file(root.path().join(file)).unwrap();
            let error = block_on(nest(root.path())).unwrap_err();
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn the_path_of_version_2_is_found_beside_others() {
        assert_eq!(
            own_path("9:name=systemd:/x\n0::/docker/1\n"),
            Some("/docker/1")
        );
        assert_eq!(own_path("9:name=systemd:/x\n"), None);
    }

    #[test]
    fn processes_beside_the_leaf_are_those_of_containers() {
        let root = tempfile::tempdir().unwrap();
        for (cgroup, events, populated) in [
            ("init", "populated 1\nfrozen 0\n", false),
            ("docker", "populated 0\nfrozen 0\n", false),
            ("docker", "populated 1\nfrozen 0\n", true),
        ] {
            fs::create_dir_all(root.path().join(cgroup)).unwrap();
            fs::write(root.path().join(cgroup).join("cgroup.events"), events).unwrap();
            assert_eq!(is_populated(root.path()), populated, "{cgroup}: {events}");
        }
    }

    #[test]
    fn cgroups_of_containers_are_removed_deepest_first_and_the_leaf_stays() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["init", "docker/one/two", "docker/three"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        block_on(clear(root.path(), Deadline::within(Duration::ZERO)));
        assert!(root.path().join("init").exists());
        assert!(!root.path().join("docker").exists());
    }
}
