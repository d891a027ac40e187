//! Owns a running host as the driver sees it: boot, commands, files, volumes, end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cgroup::{self, HostCgroup};
use crate::disk::PreparedDisk;
use crate::first::First;
use crate::janitor::Janitor;
use crate::leftovers::{Baseline, Leftovers, Volume};
use crate::loopdev::{Kept, LoopDevice, LoopTrace, clone_into, make_xfs, nameless};
use crate::mounts::{Access, DetachedMount};
use crate::namespaces::PidNamespace;
use crate::pid1::Inside;
use crate::process::{self, Running, Stream, indent, tail, until};
use crate::slirp::Slirp;
use crate::{docker, enter, interrupt, reexec};

/// How long a host may take from its first process to a dockerd that answers.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long the kernel may take to undo what an ended namespace had.
const UNDO_LIMIT: Duration = Duration::from_secs(30);

/// How a host is booted.
#[derive(Debug, Clone)]
pub struct Options {
    pub hostname: String,
    /// Whether it reaches the machine's networks (through slirp4netns).
    pub network: bool,
    /// Further arguments for dockerd.
    pub dockerd_arguments: Vec<String>,
}

impl Default for Options {
    /// `testhost`, without network.
    fn default() -> Self {
        Self {
            hostname: "testhost".into(),
            network: false,
            dockerd_arguments: Vec::new(),
        }
    }
}

/// A booted host. Dropping it ends it in order, but tells nobody what was left: see
/// [`Host::shutdown`].
#[derive(Debug)]
pub struct Host {
    pub(crate) pid: i32,
    pub(crate) cgroup: HostCgroup,
    baseline: Mutex<Baseline>,
    pub(crate) volumes: Vec<Volume>,
    /// From when PID 1 is known.
    pid_namespace: Option<PidNamespace>,
    loops: Vec<LoopTrace>,
    cache: PathBuf,
    /// In the order in which they must end.
    slirp: Option<Slirp>,
    first: Option<First>,
    janitor: Option<Janitor>,
}

impl Host {
    /// Clones the disk, starts a host on it and waits until its dockerd answers.
    ///
    /// # Errors
    /// The machine lacks something (the message says what), or dockerd does not come up (the
    /// message has the end of its log).
    pub fn boot(disk: &PreparedDisk, options: &Options) -> Result<Self> {
        interrupt::check()?;
        let clone = nameless(&disk.cache, 0)?;
        clone_into(&disk.file, &clone).context("clone the disk image")?;
        Self::boot_on(&clone, &disk.cache, options)
    }

    /// Starts a host on the disk image itself.
    pub(crate) fn boot_on(disk: &File, cache: &Path, options: &Options) -> Result<Self> {
        reexec::require()?;
        let device = LoopDevice::attach(disk)?;
        let cgroup = HostCgroup::create()?;
        let janitor = Janitor::start(&cgroup.path)?;
        let inside = Inside {
            cgroup: cgroup.path.clone(),
            device: device.path.clone(),
            hostname: options.hostname.clone(),
            network: options.network,
            dockerd_arguments: options.dockerd_arguments.clone(),
        };
        let first = First::start(&inside)?;
        let mut host = Self {
            pid: 0, // until it has told
            cgroup,
            baseline: Mutex::default(),
            volumes: Vec::new(),
            pid_namespace: None,
            loops: vec![device.trace()],
            cache: cache.to_owned(),
            slirp: None,
            first: None,
            janitor: Some(janitor),
        };
        let came_up = host.come_up(&first, options);
        host.first = Some(first);
        // Now it is mounted, or need not be: before the host ends, which waits for its release.
        drop(device);
        came_up?;
        Ok(host)
    }

    fn come_up(&mut self, first: &First, options: &Options) -> Result<()> {
        let begin = Instant::now();
        let rest = || BOOT_LIMIT.saturating_sub(begin.elapsed());
        let pid = first.expect("pid", rest())?;
        self.pid = pid.parse().context("number of the host's PID 1")?;
        self.pid_namespace = Some(PidNamespace::of(self.pid).context("the host's PID 1")?);
        first.expect("up", rest())?;
        if options.network {
            self.slirp = Some(Slirp::start(self.pid)?);
        }
        let socket = self.path(docker::SOCKET);
        let mut ended = None;
        let answered = until(rest(), || {
            ended = first.heard();
            ended.is_some() || interrupt::interrupted() || docker::answers(&socket)
        });
        interrupt::check()?;
        if !answered || ended.is_some() {
            let what = ended.unwrap_or_else(|| "dockerd does not answer".into());
            let log = std::fs::read_to_string(self.path(docker::LOG)).unwrap_or_default();
            bail!("{what}; the end of its log:{}", indent(tail(&log, 20)));
        }
        *self.baseline() = Baseline::of(self)?;
        Ok(())
    }

    /// A command that runs inside: in all of the host's namespaces and its cgroup, in folder `/`,
    /// with an environment of its own, and dies when the driver's child is killed. Signals sent to
    /// the driver's child are passed on. Exit code: the program's; 128 + n when signal n ended it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in("/", program)
    }

    /// Like [`Host::command`], in `folder` of the host. (`Command::current_dir` would name a folder
    /// of the machine.)
    pub fn command_in(&self, folder: impl AsRef<Path>, program: impl AsRef<OsStr>) -> Command {
        let leaf = self.cgroup.leaf_processes();
        enter::command(self.pid, &leaf, folder.as_ref(), program.as_ref())
    }

    /// Runs a command line inside to its end and returns its standard output.
    ///
    /// # Errors
    /// It ends with anything but 0 (the message has its standard error), or the driver is
    /// interrupted.
    pub fn run<I, S>(&self, words: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        interrupt::check()?;
        let output = process::output(self.command_line(words)?)?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Starts a command line inside that runs alongside; `on_line` gets its output live.
    ///
    /// # Errors
    /// It cannot be started. (That there is no such program shows in its exit code, 127.)
    pub fn follow<I, S, F>(&self, words: I, on_line: F) -> Result<Running>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
        F: Fn(Stream, &str) + Send + Sync + 'static,
    {
        Running::start(self.command_line(words)?, on_line)
    }

    fn command_line<I, S>(&self, words: I) -> Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut words = words.into_iter();
        let mut command = self.command(words.next().context("an empty command line")?);
        command.args(words);
        Ok(command)
    }

    /// Where the driver finds the host's file `inside`. Valid while the host lives; absolute
    /// symbolic links on the way lead to the machine's files.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(relative)
    }

    /// The host's Docker socket, for a client in the driver.
    pub fn docker_socket(&self) -> PathBuf {
        self.path(docker::SOCKET)
    }

    /// Address under which containers reach processes of the host (docker0's).
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        docker::GATEWAY
    }

    /// Makes an XFS filesystem of `size` bytes (300 MiB at least, sparse) and mounts it in the
    /// host at `/ebs/<name>`, which is returned.
    ///
    /// # Errors
    /// No loop device, no space, or mkfs.xfs refuses the size.
    pub fn volume(&mut self, name: &str, size: u64) -> Result<PathBuf> {
        let device = LoopDevice::attach(&nameless(&self.cache, size)?)?;
        make_xfs(&device.path)?;
        let path = Path::new("/ebs").join(name);
        DetachedMount::xfs(&device.path)?.attach(self.pid, &path, Access::ReadWrite)?;
        self.loops.push(device.trace());
        self.volumes.push(Volume { path: path.clone() });
        self.baseline().own_mount(self.pid, &path)?;
        Ok(path)
    }

    /// As [`Host::volume`], in a file of the machine that is made when it is missing, and kept: the
    /// next host that asks for it finds what is on it. What is on it is no leftover.
    ///
    /// # Errors
    /// As with a volume; or another host has it.
    pub fn kept_volume(&mut self, name: &str, file: &Path, size: u64) -> Result<PathBuf> {
        let backing = Kept::open(file, size)?;
        let device = LoopDevice::attach(&backing.file)?;
        if backing.new {
            make_xfs(&device.path)?;
        }
        let path = Path::new("/ebs").join(name);
        DetachedMount::xfs(&device.path)?.attach(self.pid, &path, Access::ReadWrite)?;
        self.loops.push(device.trace());
        self.baseline().own_mount(self.pid, &path)?;
        Ok(path)
    }

    /// Shows a file or folder of the machine inside, with everything mounted below it.
    ///
    /// # Errors
    /// Either path does not work; the message names it.
    pub fn bind(&self, machine: &Path, inside: impl AsRef<Path>, read_only: bool) -> Result<()> {
        let access = if read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        DetachedMount::bind(machine)?.attach(self.pid, inside.as_ref(), access)?;
        self.baseline().own_mount(self.pid, inside.as_ref())
    }

    /// What belongs to the host itself.
    pub(crate) fn baseline(&self) -> MutexGuard<'_, Baseline> {
        // It is one assignment or extension at a time, so a panic leaves it whole.
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in the host now that a job or a test must not leave behind.
    ///
    /// # Errors
    /// The host has ended, or its Docker does not answer.
    pub fn leftovers(&self) -> Result<Leftovers> {
        Leftovers::inside(self)
    }

    /// Ends the host: notes what was left in it, stops dockerd, ends everything, and looks at the
    /// machine afterwards.
    ///
    /// # Errors
    /// What is left cannot be told. The host is ended all the same.
    pub fn shutdown(mut self) -> Result<Leftovers> {
        let inside = self.leftovers();
        let machine = self.end();
        let mut leftovers = inside?;
        leftovers.machine = machine;
        Ok(leftovers)
    }

    /// Ends everything; returns what is then still on the machine.
    fn end(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note = |result: Result<()>| {
            problems.extend(result.err().map(|error| format!("{error:#}")));
        };
        if let Some(slirp) = self.slirp.take() {
            note(slirp.end());
        }
        if let Some(first) = self.first.take() {
            note(first.end());
            note(cgroup::remove(&self.cgroup.path, UNDO_LIMIT));
            drop(self.janitor.take());
            let mut left = Vec::new();
            until(UNDO_LIMIT, || {
                left = self.on_machine();
                left.is_empty()
            });
            problems.extend(left);
        }
        problems
    }

    /// What of this host the machine still has.
    fn on_machine(&self) -> Vec<String> {
        let attached = self.loops.iter().filter_map(LoopTrace::still_attached);
        let mut left: Vec<String> = attached
            .map(|path| format!("loop device {}", path.display()))
            .collect();
        if self.cgroup.path.exists() {
            left.push(format!("cgroup {}", self.cgroup.path.display()));
        }
        left.extend(self.pid_namespace.iter().flat_map(processes_in));
        left
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for problem in self.end() {
            drop(writeln!(
                std::io::stderr(),
                "testhost: left on the machine: {problem}"
            ));
        }
    }
}

/// The machine's processes in a PID namespace.
fn processes_in(namespace: &PidNamespace) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| namespace.has(*pid))
        .map(|pid| format!("process {pid}"))
        .collect()
}
