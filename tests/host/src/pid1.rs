//! Owns the inside of a host: its root filesystem, devices, PID 1 and dockerd.
//!
//! PID 1 talks to the driver over two pipes. Standard output, a line each: `pid N` (its number on
//! the machine), `up` (dockerd was started), `dockerd …` (it ended), `error …`. Standard input: a
//! byte means stop dockerd and end; the pipe's end means end at once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pivot_root, sethostname};
use signal_hook::consts::SIGCHLD;

use crate::cgroup::HostCgroup;
use crate::docker;
use crate::namespaces::{self, Side};
use crate::reexec::text;
use crate::slirp;

/// Where the root filesystem is mounted until it becomes `/`. The folder exists on every Debian.
const STAGE: &str = "/mnt";

/// What is mounted before the root is changed, in this order: folder, type, flags, options.
const MOUNTS: [(&str, &str, MsFlags, &str); 9] = [
    ("proc", "proc", NO_EXEC, ""),
    ("sys", "sysfs", NO_EXEC, ""),
    ("sys/fs/cgroup", "cgroup2", NO_EXEC, ""),
    ("dev", "tmpfs", MsFlags::MS_NOSUID, "mode=755"),
    (
        "dev/pts",
        "devpts",
        NO_EXEC,
        "newinstance,ptmxmode=0666,mode=620,gid=5",
    ),
    ("dev/shm", "tmpfs", NO_DEV, "mode=1777"),
    ("dev/mqueue", "mqueue", NO_EXEC, ""),
    ("run", "tmpfs", NO_DEV, "mode=755"),
    ("tmp", "tmpfs", NO_DEV, "mode=1777"),
];
const NO_DEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NO_EXEC: MsFlags = NO_DEV.union(MsFlags::MS_NOEXEC);

/// The machine's devices that a Docker host has use for; what the machine lacks is left out.
const DEVICES: [&str; 8] = [
    "null", "zero", "full", "random", "urandom", "tty", "fuse", "kmsg",
];

/// What the driver says to [`main`].
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) cgroup: PathBuf,
    /// Loop device with the root filesystem.
    pub(crate) device: PathBuf,
    pub(crate) hostname: String,
    pub(crate) network: bool,
    pub(crate) dockerd_arguments: Vec<String>,
}

impl Inside {
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let network = if self.network { "network" } else { "offline" };
        let mut arguments = vec![
            self.cgroup.clone().into(),
            self.device.clone().into(),
            self.hostname.clone().into(),
            network.into(),
        ];
        arguments.extend(self.dockerd_arguments.iter().map(OsString::from));
        arguments
    }

    fn from_arguments(arguments: &[OsString]) -> Result<Self> {
        let [cgroup, device, _, _, dockerd @ ..] = arguments else {
            bail!("arguments are missing");
        };
        Ok(Self {
            cgroup: cgroup.into(),
            device: device.into(),
            hostname: text(arguments, 2)?.to_owned(),
            network: text(arguments, 3)? == "network",
            dockerd_arguments: dockerd
                .iter()
                .map(|word| word.display().to_string())
                .collect(),
        })
    }
}

/// The process outside and, after the fork, PID 1.
pub(crate) fn main(arguments: &[OsString]) -> Result<u8> {
    let ended = host(arguments);
    if let Err(error) = &ended {
        tell(&format!("error {error:#}"));
    }
    ended
}

fn host(arguments: &[OsString]) -> Result<u8> {
    let inside = Inside::from_arguments(arguments)?;
    HostCgroup {
        path: inside.cgroup.clone(),
    }
    .become_root()?;
    let others = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    match namespaces::become_pid_1(others)? {
        Side::Outer(pid) => {
            tell(&format!("pid {pid}"));
            namespaces::wait(pid)
        }
        Side::Pid1 => {
            build_root(&inside.device)?;
            enter_root()?;
            configure(&inside)?;
            let (wake, children) = UnixStream::pair().context("make a pipe for SIGCHLD")?;
            signal_hook::low_level::pipe::register(SIGCHLD, wake).context("watch SIGCHLD")?;
            let dockerd = start_dockerd(&inside.dockerd_arguments)?;
            tell("up");
            serve(dockerd, children)
        }
    }
}

fn build_root(device: &Path) -> Result<()> {
    let stage = Path::new(STAGE);
    mount(
        Some(device),
        stage,
        Some("xfs"),
        MsFlags::empty(),
        Some("nouuid"),
    )
    .with_context(|| format!("mount the root filesystem on {}", device.display()))?;
    for (folder, kind, flags, options) in MOUNTS {
        let point = stage.join(folder);
        fs::create_dir_all(&point).with_context(|| format!("make /{folder}"))?;
        mount(Some(kind), &point, Some(kind), flags, Some(options))
            .with_context(|| format!("mount {kind} at /{folder}"))?;
    }
    make_devices(&stage.join("dev"))
}

/// A `/dev` of the host's own: devtmpfs has one instance, so a node made or removed in it would be
/// made or removed on the machine.
fn make_devices(dev: &Path) -> Result<()> {
    for name in DEVICES {
        let Ok(original) = fs::metadata(Path::new("/dev").join(name)) else {
            continue;
        };
        let mode = Mode::from_bits_truncate(original.mode());
        let node = dev.join(name);
        mknod(&node, SFlag::S_IFCHR, mode, original.rdev())
            .with_context(|| format!("make the device /dev/{name}"))?;
        // mknod's mode is cut by the umask.
        fs::set_permissions(&node, original.permissions())?;
    }
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        symlink(target, dev.join(name)).with_context(|| format!("make the link /dev/{name}"))?;
    }
    Ok(())
}

fn enter_root() -> Result<()> {
    std::env::set_current_dir(STAGE).context("go to the root filesystem")?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one.
    pivot_root(".", ".").context("change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the machine's root")?;
    std::env::set_current_dir("/").context("go to /")?;
    // As systemd does; a container may then ask for a shared bind mount.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).context("share mounts")
}

fn configure(inside: &Inside) -> Result<()> {
    sethostname(&inside.hostname).context("set the host name")?;
    fs::write("/etc/hostname", format!("{}\n", inside.hostname))?;
    fs::write(
        "/etc/hosts",
        format!("127.0.0.1 localhost\n127.0.1.1 {}\n", inside.hostname),
    )?;
    let dns = if inside.network {
        format!("nameserver {}\n", slirp::DNS)
    } else {
        String::new()
    };
    fs::write("/etc/resolv.conf", dns)?;
    let status = Command::new("/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("start ip to bring up the loopback device")?;
    if !status.success() {
        bail!("bring up the loopback device: {status}");
    }
    Ok(())
}

fn start_dockerd(arguments: &[String]) -> Result<Pid> {
    let log = File::create(docker::LOG).context("make dockerd's log file")?;
    let child = Command::new("/usr/sbin/dockerd")
        .args(docker::ARGUMENTS)
        .args(arguments)
        .env_clear()
        .envs(crate::enter::ENVIRONMENT)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start dockerd")?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// Reaps, and waits for the driver's word or its end.
fn serve(dockerd: Pid, mut children: UnixStream) -> Result<u8> {
    let mut input = std::io::stdin().lock();
    let mut dockerd = Some(dockerd);
    let mut stopping = false;
    loop {
        let (from_driver, from_children) = {
            let mut sources = [
                PollFd::new(input.as_fd(), PollFlags::POLLIN),
                PollFd::new(children.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.context("wait for events")?,
            };
            (
                sources[0].any().unwrap_or(true),
                sources[1].any().unwrap_or(true),
            )
        };
        if from_driver {
            if input.read(&mut [0; 1]).context("listen to the driver")? == 0 {
                return Ok(1);
            }
            stopping = true;
            if let Some(pid) = dockerd {
                kill(pid, Signal::SIGTERM).context("stop dockerd")?;
            }
        }
        if from_children {
            children
                .read(&mut [0; 64])
                .map(drop)
                .context("read SIGCHLD's pipe")?;
            reap(&mut dockerd);
        }
        if stopping && dockerd.is_none() {
            return Ok(0);
        }
    }
}

fn reap(dockerd: &mut Option<Pid>) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(status) if status.pid() == *dockerd => {
                *dockerd = None;
                tell(&format!("dockerd ended: {status:?}"));
            }
            Ok(_) => {}
        }
    }
}

/// Tells the driver; one that has gone is noticed elsewhere.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_arrives_inside() {
        let sent = Inside {
            cgroup: "/sys/fs/cgroup/testhost-1-2-3".into(),
            device: "/dev/loop7".into(),
            hostname: "alpha".into(),
            network: true,
            dockerd_arguments: vec!["--debug".into(), "--mtu=1400".into()],
        };
        let arrived = Inside::from_arguments(&sent.to_arguments()).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{sent:?}"));
    }
}
