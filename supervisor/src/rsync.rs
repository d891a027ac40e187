//! Interface to `rsync`: command lines, exit codes, statistics.
//!
//! Owns what its numbers mean. Does not know what is copied; markers and the store are
//! [`crate::caches`]'s. Never deletes, never updates what it was not told to.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use init::{Children, Deadline, Exit};

/// rsync's own limit for a peer that stands still; the deadline is the limit for everything.
const STALL: Duration = Duration::from_secs(60);

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Copied {
    pub(crate) fn add(&mut self, more: Self) {
        self.files += more.files;
        self.bytes += more.bytes;
    }
}

/// How a copy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete(Copied),
    /// Some files are missing; which ones is not known.
    Partial(String),
    /// Nothing can be said about what was copied.
    Failed(String),
}

/// A copy that is to be made.
#[derive(Debug)]
pub(crate) struct Copy<'a> {
    /// Each is copied as rsync copies its arguments: a slash at the end means the content.
    pub(crate) from: Vec<std::ffi::OsString>,
    pub(crate) to: &'a Path,
    /// `uid:gid` of everything that is written; `None` leaves it to the kernel.
    pub(crate) owner: Option<String>,
    /// Names that are left out, wherever they are.
    pub(crate) without: &'a [&'a str],
    /// Keeps the part of a source's path after `/./`.
    pub(crate) relative: bool,
}

impl Copy<'_> {
    /// Makes the copy.
    pub(crate) async fn run(&self, children: &Children, deadline: Deadline) -> Outcome {
        let mut command = self.command();
        match children.run(&mut command, deadline).await {
            Ok(captured) => read(
                captured.exit,
                &String::from_utf8_lossy(&captured.stdout),
                &String::from_utf8_lossy(&captured.stderr),
            ),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("rsync");
        // Links, permissions and times, but neither devices nor, unless told, owners; numbers in C.
        command.args(["-rlptH", "--stats", "--no-human-readable", "--chmod=ug-s"]);
        command.arg(format!("--timeout={}", STALL.as_secs()));
        if let Some(owner) = &self.owner {
            command.args(["--owner", "--group", &format!("--chown={owner}")]);
        }
        if self.relative {
            command.arg("--relative");
        }
        command.args(self.without.iter().map(|name| format!("--exclude={name}")));
        command.arg("--").args(&self.from).arg(self.to);
        command.env("LC_ALL", "C");
        // Its environment could redirect it: RSYNC_RSH and the like.
        for name in [
            "RSYNC_RSH",
            "RSYNC_OLD_ARGS",
            "RSYNC_PROTECT_ARGS",
            "RSYNC_PARTIAL_DIR",
        ] {
            command.env_remove(name);
        }
        command
    }
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
    fn the_command_line_sets_owners_only_when_told_and_never_deletes() {
        let mut copy = Copy {
            from: vec!["/store/./a".into()],
            to: Path::new("/root"),
            owner: None,
            without: &[".cache-unit"],
            relative: true,
        };
        let words = |copy: &Copy<'_>| -> Vec<String> {
            let command = copy.command();
            command
                .get_args()
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let plain = words(&copy);
        assert!(
            plain.contains(&"--exclude=.cache-unit".to_owned()),
            "{plain:?}"
        );
        assert!(
            !plain
                .iter()
                .any(|word| word.contains("own") || word.contains("delete")),
            "{plain:?}"
        );
        assert_eq!(plain[plain.len() - 3..], ["--", "/store/./a", "/root"]);
        copy.owner = Some("1001:1001".to_owned());
        assert!(words(&copy).contains(&"--chown=1001:1001".to_owned()));
    }
}
