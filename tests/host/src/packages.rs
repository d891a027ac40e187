//! Owns what the machine must have installed. Interface to `apt-get`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::enter::ENVIRONMENT;
use crate::process;

/// What the package manager is asked for, and how its presence is seen.
type Needs = &'static [(Need, &'static str)];

/// Needed by every boot.
pub(crate) const FOR_BOOT: Needs = &[(Need::Program("mkfs.xfs"), "xfsprogs")];

/// Needed to make a disk.
pub(crate) const FOR_DISK: Needs = &[
    (Need::Program("mkfs.xfs"), "xfsprogs"),
    (Need::Program("debootstrap"), "debootstrap"),
    (
        Need::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        "debian-archive-keyring",
    ),
    (Need::Program("slirp4netns"), "slirp4netns"),
    (Need::Program("mount"), "mount"),
    (Need::Program("zstd"), "zstd"), // an Ubuntu debootstrap unpacks with it
];

#[derive(Debug)]
pub(crate) enum Need {
    Program(&'static str),
    File(&'static str),
}

impl Need {
    fn is_met(&self) -> bool {
        match self {
            Need::Program(name) => which::which_in(name, Some(ENVIRONMENT[0].1), "/").is_ok(),
            Need::File(path) => Path::new(path).exists(),
        }
    }
}

/// Installs what of `needs` is missing.
///
/// # Errors
/// No apt-get, or it fails. Each says what to do.
pub(crate) fn install_missing(needs: Needs, progress: &dyn Fn(&str)) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if which::which("apt-get").is_err() {
        bail!("these are missing and there is no apt-get to install them: {names}; install them");
    }
    progress(&format!("install {names}"));
    // A repository of the machine's that does not answer need not matter: the installation tells.
    if let Err(error) = process::output(apt_get(&["update"])) {
        progress(&format!("{error:#}"));
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    process::output(apt_get(&arguments))
        .with_context(|| format!("install {names}; try: apt-get install {names}"))?;
    Ok(())
}

pub(crate) fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a test host needs root for its namespaces and mounts; run this with sudo");
    }
    Ok(())
}

fn missing(needs: Needs) -> Vec<&'static str> {
    needs
        .iter()
        .filter(|(need, _)| !need.is_met())
        .map(|(_, package)| *package)
        .collect()
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}
