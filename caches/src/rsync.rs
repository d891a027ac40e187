//! rsync: its command line, its exit codes, its numbers.
//!
//! Owns every argument that rsync gets, for one copy or for many at once. What is copied from
//! where to where is decided elsewhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use init::{Children, Deadline, Exit};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::progress::Progress;
use crate::stop::Stop;

/// Versions before this one can be led out of the tree by whoever changes it meanwhile: 33
/// advisories were closed with it (rsync NEWS.md).
pub const SAFE: (u32, u32, u32) = (3, 5, 0);
/// How long rsync waits for a storage that stands still.
const STALL: Duration = Duration::from_secs(60);
/// How long one that was asked to end may take to remove what it began.
const GRACE: Duration = Duration::from_secs(2);

/// What rsync copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Regular files.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
}

impl Copied {
    /// Adds another copy's numbers.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// How a copy ended. What rsync counts is there only when everything is: it counts a file before it
/// has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is there.
    Complete(Copied),
    /// Some files are missing, and rsync does not say which.
    Partial(String),
    /// The copy is worth nothing.
    Failed(String),
}

/// What many copied together, if nothing is missing.
pub(crate) fn all_copied(outcomes: &[Outcome]) -> Option<Copied> {
    let mut all = Copied::default();
    for outcome in outcomes {
        match outcome {
            Outcome::Complete(copied) => all.add(*copied),
            Outcome::Partial(_) | Outcome::Failed(_) => return None,
        }
    }
    Some(all)
}

/// A copy by one rsync.
#[derive(Clone, Debug)]
pub struct Copy<'a> {
    /// It is copied as rsync copies its argument: a slash at the end means the content.
    pub from: PathBuf,
    /// The destination.
    pub to: &'a Path,
    /// `uid:gid` of everything that is written; `None` leaves it to the kernel.
    pub owner: Option<String>,
}

impl Copy<'_> {
    /// Makes the copy.
    pub async fn run(&self, children: &Children, deadline: Deadline) -> Outcome {
        let mut command = command();
        command.arg("-H");
        if let Some(owner) = &self.owner {
            command.args(["--owner", "--group", &format!("--chown={owner}")]);
        }
        command.arg("--").arg(&self.from).arg(self.to);
        match children.run(&mut command, deadline).await {
            Ok(captured) => read(
                captured.exit,
                &String::from_utf8_lossy(&captured.stdout),
                &String::from_utf8_lossy(&captured.stderr),
            ),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }
}

/// What the arguments of one rsync may take: the kernel promises 128 KiB for them, their addresses
/// and the environment.
pub(crate) const ARGUMENTS: usize = 96 * 1024;

/// Files of one tree that one rsync copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shard {
    /// Paths below the source, each followed by a zero byte.
    pub(crate) list: Vec<u8>,
    /// What they take as arguments; at most [`ARGUMENTS`].
    pub(crate) arguments: usize,
    /// Hard links and holes are kept, which costs more.
    pub(crate) special: bool,
}

/// A copy by many rsyncs.
#[derive(Debug)]
pub(crate) struct Sharded<'a> {
    pub(crate) from: &'a Path,
    pub(crate) to: &'a Path,
    pub(crate) shards: Vec<Shard>,
    /// How many rsyncs run side by side.
    pub(crate) at_once: usize,
}

impl Sharded<'_> {
    /// Makes the copy; how each shard ended, in no order.
    pub(crate) fn run(
        &self,
        children: &Children,
        stop: &Stop,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Outcome>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let mut outcomes = Vec::with_capacity(self.shards.len());
            let mut running = tokio::task::JoinSet::new();
            for shard in &self.shards {
                if running.len() >= self.at_once {
                    outcomes.extend(running.join_next().await.map(ended));
                }
                let child = self.start(shard, children)?;
                running.spawn_local(follow(child, stop.clone(), progress.counter()));
            }
            while let Some(outcome) = running.join_next().await {
                outcomes.push(ended(outcome));
            }
            Ok(outcomes)
        })
    }

    fn start(&self, shard: &Shard, children: &Children) -> anyhow::Result<init::Child> {
        let mut command = command();
        command.args(["--no-recursive", "--relative", "--no-implied-dirs"]);
        command.args(["--no-dirs", "--omit-dir-times", "--whole-file"]);
        command.arg("--info=progress2,flist0,name0");
        // What differs is known already, and better: times count to the nanosecond.
        command.args(["--ignore-times", "--modify-window=-1"]);
        if shard.special {
            command.args(["-H", "--sparse"]);
        }
        // As arguments, because rsync reads a list byte by byte, with two system calls for each.
        // The dot keeps a colon in a name from naming another machine.
        command.arg("--");
        for path in shard.paths() {
            command.arg(Path::new(".").join(path));
        }
        command.arg(self.to.join("")).current_dir(self.from);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        children.spawn(&mut command).context("cannot start rsync")
    }
}

impl Shard {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &OsStr> {
        let paths = self.list.split_inclusive(|byte| *byte == 0);
        paths.map(|path| OsStr::from_bytes(&path[..path.len() - 1]))
    }
}

/// A task that panicked copied nothing.
fn ended(outcome: Result<Outcome, tokio::task::JoinError>) -> Outcome {
    outcome.unwrap_or_else(|error| Outcome::Failed(error.to_string()))
}

/// Reads what one rsync says until its end; asks it to end when it is time.
async fn follow(mut child: init::Child, stop: Stop, counts: crate::progress::Counter) -> Outcome {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Outcome::Failed("rsync was started without pipes".to_owned());
    };
    let (mut said, mut complained) = (String::new(), String::new());
    let reading = async {
        tokio::join!(
            lines(stdout, |line| {
                match progress_of(line) {
                    Some(copied) => counts.set(copied),
                    None => {
                        said.push_str(line);
                        said.push('\n');
                    }
                }
            }),
            lines(stderr, |line| {
                // The first one says what happened, the last one only that something did.
                if complained.is_empty() {
                    complained.push_str(line);
                }
            }),
        )
    };
    let mut asked = false;
    {
        let mut reading = std::pin::pin!(reading);
        loop {
            tokio::select! {
                _ = &mut reading => break,
                () = tokio::time::sleep(Duration::from_millis(50)), if !asked => {
                    if stop.is_over() {
                        // On this signal it removes what it has not finished.
                        child.signal(Signal::SIGTERM);
                        asked = true;
                    }
                }
                () = tokio::time::sleep(GRACE), if asked => {
                    child.signal_group(Signal::SIGKILL);
                    break;
                }
            }
        }
    }
    let exit = Deadline::within(GRACE).bound(child.exited()).await;
    let outcome = match exit {
        Some(exit) => read(exit, &said, &complained),
        None => Outcome::Failed("rsync does not end".to_owned()),
    };
    if let Outcome::Complete(copied) = &outcome {
        counts.set(*copied);
    }
    if asked && matches!(outcome, Outcome::Failed(_)) {
        return Outcome::Failed(crate::stop::TOO_LATE.to_owned());
    }
    outcome
}

async fn lines(from: std::os::fd::OwnedFd, mut each: impl FnMut(&str)) {
    let Ok(mut from) = pipe::Receiver::from_owned_fd(from) else {
        return;
    };
    let (mut buffer, mut kept) = ([0; 4096], Vec::new());
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        for byte in &buffer[..length] {
            if !matches!(byte, b'\n' | b'\r') {
                kept.push(*byte);
            } else if !kept.is_empty() {
                each(&String::from_utf8_lossy(&kept));
                kept.clear();
            }
        }
    }
    if !kept.is_empty() {
        each(&String::from_utf8_lossy(&kept));
    }
}

/// A line of `--info=progress2`: `  111156579  99%  650.16MB/s    0:00:00 (xfr#1945, to-chk=0/2422)`.
fn progress_of(line: &str) -> Option<Copied> {
    let mut words = line.split_ascii_whitespace();
    let bytes = words.next()?.parse().ok()?;
    words.next()?.strip_suffix('%')?;
    let files = line.split_once("(xfr#").and_then(|(_, rest)| {
        let digits = rest.split(',').next()?;
        digits.parse().ok()
    });
    Some(Copied {
        files: files.unwrap_or(0),
        bytes,
    })
}

fn command() -> Command {
    let mut command = Command::new("rsync");
    // Links, permissions and times, but neither devices nor, unless told, owners; numbers in C.
    command.args(["-rlpt", "--stats", "--no-human-readable", "--chmod=ug-s,-t"]);
    command.arg(format!("--timeout={}", STALL.as_secs()));
    command.env("LC_ALL", "C");
    // Its environment could redirect it.
    for name in [
        "RSYNC_RSH",
        "RSYNC_OLD_ARGS",
        "RSYNC_PROTECT_ARGS",
        "RSYNC_PARTIAL_DIR",
    ] {
        command.env_remove(name);
    }
    let parent = nix::unistd::getpid();
    #[expect(unsafe_code, reason = "std has no way to bind a child's life to ours")]
    // SAFETY: the closure makes system calls and nothing else.
    unsafe {
        command.pre_exec(move || {
            // Whoever kills us does not leave writers behind.
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            if nix::unistd::getppid() != parent {
                return Err(std::io::ErrorKind::NotFound.into());
            }
            Ok(())
        });
    }
    command
}

/// The exit codes of rsync(1), section EXIT VALUES.
fn read(exit: Exit, stdout: &str, stderr: &str) -> Outcome {
    let said = stderr
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let code = match exit {
        Exit::Code(0) => return Outcome::Complete(statistics(stdout)),
        Exit::Signal(signal) => return Outcome::Failed(format!("rsync was killed by {signal}")),
        Exit::Code(code) => code,
    };
    let meaning = match code {
        1 | 2 | 4 => "it does not understand its command line; rsync 3.2 or later is needed",
        11 => "a file could not be read or written; the disk may be full",
        12 | 14 => "its processes lost each other",
        20 => "it was interrupted",
        23 => "some files could not be copied",
        24 => "some files vanished while they were copied",
        30 => "the storage stood still",
        _ => "see rsync(1), EXIT VALUES",
    };
    let text = format!("rsync ended with {code}, {meaning}: {said}");
    match code {
        23 | 24 => Outcome::Partial(text),
        _ => Outcome::Failed(text),
    }
}

fn statistics(stdout: &str) -> Copied {
    let number = |name: &str| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name))?;
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Copied {
        files: number("Number of regular files transferred:").unwrap_or(0),
        bytes: number("Total transferred file size:").unwrap_or(0),
    }
}

/// The version in the first line of `rsync --version`.
#[must_use]
pub fn version(said: &str) -> Option<(u32, u32, u32)> {
    let word = said
        .strip_prefix("rsync  version ")?
        .split_ascii_whitespace()
        .next()?;
    let mut numbers = word.trim_start_matches('v').split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    let mut next = || numbers.next().flatten();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// Whether the installed rsync may work on trees that a job wrote; else why not.
///
/// # Errors
/// When there is none, or it is too old.
pub async fn check(children: &Children, deadline: Deadline) -> anyhow::Result<String> {
    let mut command = Command::new("rsync");
    let said = children
        .run(command.arg("--version"), deadline)
        .await?
        .checked()?;
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().next().unwrap_or_default();
    match version(first) {
        Some(version) if version >= SAFE => Ok(first.to_owned()),
        _ => anyhow::bail!(
            "\"{first}\": a hostile job can lead rsync before 3.5.0 out of the tree; install 3.5.0 or later in the image. Until then trees are not published"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_apart_by_what_they_leave() {
        let stats = "Number of files: 9\nNumber of regular files transferred: 1,234\nTotal transferred file size: 5678 bytes\n";
        let complete = Outcome::Complete(Copied {
            files: 1234,
            bytes: 5678,
        });
        assert_eq!(read(Exit::Code(0), stats, ""), complete);
        for (code, partial) in [
            (11, false),
            (20, false),
            (23, true),
            (24, true),
            (30, false),
        ] {
            let outcome = read(Exit::Code(code), "", "rsync: first\nrsync: why\n\n");
            let (is_partial, text) = match outcome {
                Outcome::Partial(text) => (true, text),
                Outcome::Failed(text) => (false, text),
                Outcome::Complete(_) => panic!("{code} is no success"),
            };
            assert_eq!(is_partial, partial, "{code}");
            assert!(text.ends_with(": rsync: why"), "{text}");
        }
    }

    #[test]
    fn progress_is_read_from_what_rsync_prints() {
        let line = "  111156579  99%  650.16MB/s    0:00:00 (xfr#1945, to-chk=0/2422)";
        let copied = Copied {
            files: 1945,
            bytes: 111_156_579,
        };
        assert_eq!(progress_of(line), Some(copied));
        assert_eq!(progress_of("Number of files: 9"), None);
    }

    #[test]
    fn a_version_is_read_and_an_old_one_is_older() {
        let of = |text| version(text);
        assert_eq!(
            of("rsync  version 3.5.0  protocol version 32"),
            Some((3, 5, 0))
        );
        assert_eq!(
            of("rsync  version v3.2.7-12  protocol version 31"),
            Some((3, 2, 7))
        );
        assert_eq!(of("rsync: not found"), None);
        assert!((3, 2, 7) < SAFE && (3, 10, 0) > SAFE);
    }
}
