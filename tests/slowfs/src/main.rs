//! A pass-through FUSE file system that makes a local folder as slow as a network file store.
//!
//! What is asked is done at once on the backing folder, and the answer is held back as long as a
//! server would need for it. No thread sleeps for a request, so only `--slots` limits how many are
//! under way. This file owns the options, the mount and its end; the requests are in `passthrough`.

mod attributes;
mod backing;
mod faults;
mod inodes;
mod latency;
mod operations;
mod passthrough;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::backing::Backing;
use crate::faults::{Faults, Rule};
use crate::latency::{Latency, Line};
use crate::passthrough::Passthrough;

/// Shows BACKING at MOUNTPOINT with the latency of a network file store.
///
/// Runs until the file system is unmounted, by `umount` or by SIGTERM or SIGINT to this program.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The latency of every request, in microseconds
    #[arg(long, value_name = "N", default_value_t = 0)]
    lat_us: u64,
    /// The latency of requests that change nothing, where it is another
    #[arg(long, value_name = "N")]
    lat_r_us: Option<u64>,
    /// The latency of requests that change something, where it is another
    #[arg(long, value_name = "N")]
    lat_w_us: Option<u64>,
    /// How many requests can be under way at once, as the session slots of NFS; 0: any number
    #[arg(long, value_name = "N", default_value_t = 0)]
    slots: usize,
    /// What goes wrong with requests, as read=EIO, changes=ENOSPC, all=hang; may be repeated
    #[arg(long, value_name = "REQUEST=FAULT")]
    fault: Vec<Rule>,
    /// How long the kernel may remember names and attributes, in seconds
    #[arg(long, value_name = "N", default_value_t = 30)]
    ttl_s: u64,
    /// Where to write the numbers of requests, as JSON, at the end
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// The folder that is shown
    backing: PathBuf,
    /// The folder where it is shown
    mountpoint: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    raise_open_files();
    // The kernel has applied the umask of whoever makes a file.
    rustix::process::umask(rustix::fs::Mode::empty());
    let latency = Latency {
        read: Duration::from_micros(options.lat_r_us.unwrap_or(options.lat_us)),
        write: Duration::from_micros(options.lat_w_us.unwrap_or(options.lat_us)),
    };
    let line = Arc::new(Line::open(
        latency,
        options.slots,
        Faults::new(options.fault),
    )?);
    let backing = Backing::open(&options.backing)
        .with_context(|| format!("open the folder {}", options.backing.display()))?;
    let ttl = Duration::from_secs(options.ttl_s);
    let filesystem = Passthrough::new(backing, line.clone(), ttl);
    serve(filesystem, &options.mountpoint)?;
    let Some(file) = options.stats else {
        return Ok(());
    };
    std::fs::write(&file, line.statistics())
        .with_context(|| format!("write the statistics to {}", file.display()))
}

/// Mounts and answers until the file system is unmounted.
fn serve(filesystem: Passthrough, mountpoint: &Path) -> Result<()> {
    let shown = mountpoint.display();
    let remedy = || {
        format!("find the mount point {shown}; if a killed slowfs left it there: umount {shown}")
    };
    let found = mountpoint.metadata().with_context(remedy)?;
    ensure!(found.is_dir(), "{shown} is not a folder to mount on");
    let mountpoint = mountpoint.canonicalize().with_context(remedy)?;
    // Before the mount, so that no signal leaves it behind.
    let signals = Signals::new([SIGINT, SIGTERM]).context("wait for signals")?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.mount_options = vec![
        MountOption::FSName("slowfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        MountOption::Dev,
        MountOption::Suid,
    ];
    let session = Session::new(filesystem, &mountpoint, &config)
        .with_context(|| format!("mount on {shown}, which needs root and /dev/fuse"))?;
    std::thread::spawn(move || unmount_at_signal(signals, &mountpoint));
    session.run().context("answer the kernel")
}

/// Unmounts at a signal. What still uses the file system keeps it, out of sight, until it is done;
/// a second signal ends the program, and with it what they have open.
fn unmount_at_signal(mut signals: Signals, mountpoint: &Path) {
    let mut asked = false;
    for signal in signals.forever() {
        if asked {
            drop(signal_hook::low_level::emulate_default_handler(signal));
        }
        asked = true;
        if unmount(mountpoint, UnmountFlags::empty()).is_err() {
            // The session ends when the last user leaves; who unmounted already has said so.
            unmount(mountpoint, UnmountFlags::DETACH).ok();
        }
    }
}

/// Each folder that the kernel knows is held open, and each open file.
fn raise_open_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, most, most).ok();
    }
}

/// A lock whose holder panicked has still its value: the panic is what is reported.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
