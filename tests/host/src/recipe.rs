//! Owns what a host's root filesystem is made of, and its making.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use crate::namespaces::{self, Side};
use crate::process::{self, Stream, indent, tail};
use crate::reexec::{self, Part};

const SCRIPT: &str = include_str!("rootfs.sh");
const MIRROR: &str = "http://deb.debian.org/debian";
/// The suite of the host itself.
pub(crate) const SUITE: &str = "trixie";
const STAGE: &str = "/mnt";
/// The device of what is not made on a disk.
const IN_MEMORY: &str = "tmpfs";

/// The files of the base image of [`SUITE`], below the root.
pub(crate) const BASE_TAR: &str = "var/lib/testhost/base.tar";

/// Size of the (sparse) disk.
pub(crate) const DISK_SIZE: u64 = 40 << 30;

const PACKAGES: [&str; 19] = [
    "busybox-static",
    "ca-certificates",
    "containerd",
    "curl",
    "docker-buildx",
    "docker-cli",
    "docker-registry",
    "docker.io",
    "iproute2",
    "iptables",
    "jq",
    "mount",
    "procps",
    "rsync",
    "rsyslog",
    "runc",
    "util-linux",
    "xfsprogs",
    "zstd",
];

/// A number for everything above: another recipe makes another disk.
pub(crate) fn key() -> u64 {
    // Not stable between Rust releases, which costs a new disk then; it need not be secure.
    let mut hasher = DefaultHasher::new();
    (SCRIPT, MIRROR, SUITE, BASE_TAR, DISK_SIZE, PACKAGES).hash(&mut hasher);
    std::env::consts::ARCH.hash(&mut hasher);
    hasher.finish()
}

/// A number for what the base image of another suite is made of.
pub(crate) fn base_key() -> u64 {
    let mut hasher = DefaultHasher::new();
    (SCRIPT, MIRROR, std::env::consts::ARCH).hash(&mut hasher);
    hasher.finish()
}

/// Makes the root filesystem on `device`, which has an empty XFS filesystem.
pub(crate) fn build(device: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    let tar = Path::new(STAGE).join(BASE_TAR);
    let mut words = vec![device.as_os_str(), SUITE.as_ref(), tar.as_os_str()];
    words.extend(PACKAGES.map(OsStr::new));
    run_builder(&words, progress)
}

/// Makes the files of the base image of `suite` as the tar file `tar`, in memory until then.
pub(crate) fn build_base(suite: &str, tar: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    let words = [IN_MEMORY.as_ref(), suite.as_ref(), tar.as_os_str()];
    run_builder(&words, progress)
}

/// Starts the builder with what [`main`] expects.
fn run_builder(words: &[&OsStr], progress: &dyn Fn(&str)) -> Result<()> {
    // One pipe for both, so that the builder's own errors are told too.
    let (output, ours) = std::io::pipe().context("make a pipe")?;
    let mut child = reexec::command(Part::Builder)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(ours.try_clone().context("copy a pipe")?)
        .stderr(ours)
        .spawn()
        .context("start the builder of the root filesystem")?;
    let (send, lines) = channel();
    // Nobody listens any more once the driver was interrupted.
    let on_line = move |_, line: &str| drop(send.send(line.to_owned()));
    drop(process::read_lines(
        output,
        Stream::Stdout,
        Arc::new(on_line),
    ));
    let mut seen = String::new();
    let followed = process::each_line(&lines, |line| match line.strip_prefix("== ") {
        Some(step) => progress(step),
        None => seen.extend([line, "\n"]),
    });
    // Ends the builder and all below it, if it has not ended by itself.
    drop(child.stdin.take());
    let status = child.wait().context("wait for the builder")?;
    followed?;
    if !status.success() {
        bail!(
            "make the root filesystem: {status}{}{}",
            remedy(&seen),
            indent(tail(&seen, 20))
        );
    }
    Ok(())
}

fn remedy(output: &str) -> &'static str {
    if output.contains("unknown key") {
        "; this machine's debian-archive-keyring is too old for the suite: install a newer one"
    } else if output.contains("Failed getting release file") || output.contains("Failed to fetch") {
        "; is the package mirror reachable?"
    } else {
        ""
    }
}

/// The builder itself: a shell with the script, in mount and PID namespaces of its own.
pub(crate) fn main(arguments: &[OsString]) -> Result<u8> {
    let [device, suite, rest @ ..] = arguments else {
        bail!("arguments are missing");
    };
    let device = Path::new(device);
    let filesystem = if device == Path::new(IN_MEMORY) {
        "tmpfs"
    } else {
        "xfs"
    };
    if let Side::Outer(pid) = namespaces::become_pid_1(CloneFlags::empty())? {
        return namespaces::wait(pid);
    }
    namespaces::end_with_the_driver();
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mount /proc")?;
    mount(
        Some(device),
        STAGE,
        Some(filesystem),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mount {}", device.display()))?;
    let status = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{SCRIPT}"), "rootfs.sh"])
        .args([STAGE, MIRROR])
        .arg(suite)
        .args(rest)
        .env("PATH", crate::enter::ENVIRONMENT[0].1)
        .stdin(Stdio::null())
        .status()
        .context("start sh")?;
    nix::unistd::sync();
    Ok(if status.success() { 0 } else { 1 })
}
