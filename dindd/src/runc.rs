//! The OCI runtime wrapper: dindd is the `runc` that dockerd, containerd and BuildKit find first.
//!
//! Owns what the real runc needs here, and finding it behind ourselves in `PATH`: flags where
//! `pivot_root` and `keyctl` are filtered, and a changed configuration where `SYS_PTRACE` is
//! missing. Does not decide whether the wrapper is used; see [`crate::isolation`].
//!
//! `--no-pivot` and `--no-new-keyring` are options of runc's `create`, `run` and `restore`
//! (opencontainers/runc `create.go`, `run.go`, `restore.go`); `exec` follows what the container
//! was created with.

mod bundle;
mod dumpable;
mod namespaces;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use init::settings::Environment;

use crate::{privileges, probe};

/// The name under which the wrapper is called, and the subcommand that means the same.
pub(crate) const NAME: &str = "runc";

/// Where programs are looked for when `PATH` is not set.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The commands that set a container up.
const SETTING_UP: [&str; 3] = ["create", "run", "restore"];
const FLAGS: [&str; 2] = ["--no-pivot", "--no-new-keyring"];

/// runc's global options that take a value as the next word.
const GLOBAL_WITH_VALUE: [&str; 5] = ["--log", "--log-format", "--root", "--criu", "--rootless"];

/// Becomes the real runc when called as `runc` or with `runc` as the first argument, or is the hook
/// that it had added to a container. Returns `None` when dindd was meant, else the code to exit with.
pub(crate) fn become_runc_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let called = words.next()?;
    let mut words: Vec<OsString> = words.collect();
    if called == namespaces::NAME {
        tell("hook", namespaces::run());
        // Without it most containers work all the same, and runc would start none.
        return Some(ExitCode::SUCCESS);
    }
    if called == namespaces::KEEPER {
        let pid = words.first().and_then(|word| word.to_str());
        return Some(tell("keeper", namespaces::wait(pid.unwrap_or_default())));
    }
    if Path::new(&called).file_name() != Some(OsStr::new(NAME)) {
        if words.first().map(OsString::as_os_str) != Some(OsStr::new(NAME)) {
            return None;
        }
        words.remove(0);
    }
    Some(tell(NAME, Err(become_runc(words))))
}

fn tell(who: &str, done: anyhow::Result<()>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    // runc's callers show its standard error to the user; a closed one is no reason to go on.
    writeln!(std::io::stderr(), "dindd {who}: {error:#}").ok();
    ExitCode::from(init::exit_code::UNAVAILABLE)
}

fn become_runc(words: Vec<OsString>) -> anyhow::Error {
    let environment = Environment::of_process();
    let path = environment.get("PATH").unwrap_or(DEFAULT_PATH);
    let Some(real) = real_runc(path) else {
        return anyhow::anyhow!("there is no runc in PATH ({path}) besides dindd; install runc");
    };
    let words = match setting_up(&words) {
        Some(at) => prepared(words, at),
        None => words,
    };
    let error = Command::new(&real).arg0(NAME).args(words).exec();
    anyhow::Error::from(error).context(format!("cannot become {}", real.display()))
}

/// The first `runc` in `path` that is not this program.
fn real_runc(path: &str) -> Option<PathBuf> {
    let ourselves = std::fs::canonicalize("/proc/self/exe").ok();
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join(NAME))
        .find(|file| {
            let real = std::fs::canonicalize(file).ok();
            real.is_some() && real != ourselves
        })
}

/// The place of the subcommand when it sets a container up.
fn setting_up(words: &[OsString]) -> Option<usize> {
    subcommand(words).filter(|at| SETTING_UP.iter().any(|one| words[*at] == *one))
}

/// Prepares the bundle, and returns the command line with what a filtered kernel needs.
fn prepared(words: Vec<OsString>, at: usize) -> Vec<OsString> {
    if !privileges::may_trace()
        && let Err(cause) = bundle::prepare(&bundle::folder(&words))
    {
        // runc may find it in order, or says better what is wrong with it.
        writeln!(std::io::stderr(), "dindd runc: {cause:#}").ok();
    }
    if probe::allows_plain_runc() {
        return words;
    }
    with_flags(words, at)
}

/// The command line with the flags after the subcommand.
fn with_flags(mut words: Vec<OsString>, at: usize) -> Vec<OsString> {
    let missing = FLAGS
        .iter()
        .filter(|flag| !words.iter().any(|word| word == *flag))
        .map(OsString::from);
    let missing: Vec<OsString> = missing.collect();
    words.splice(at + 1..at + 1, missing);
    words
}

/// The place of the first word that is neither a global option nor the value of one.
fn subcommand(words: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if !word.as_bytes().starts_with(b"-") {
            return Some(at);
        }
        let takes_next = GLOBAL_WITH_VALUE.iter().any(|option| word == option);
        at += if takes_next { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_set_up_without_pivot_and_keyring_and_nothing_else_is_changed() {
        for (given, expected) in [
            (
                "--root /r --log /l --log-format json create --bundle /b id",
                "--root /r --log /l --log-format json create --no-pivot --no-new-keyring --bundle /b id",
            ),
            (
                "--systemd-cgroup run --no-pivot id",
                "--systemd-cgroup run --no-new-keyring --no-pivot id",
            ),
            (
                "--root=/r restore id",
                "--root=/r restore --no-pivot --no-new-keyring id",
            ),
            ("--root create start id", "--root create start id"),
            ("exec id create", "exec id create"),
            ("--version", "--version"),
            ("", ""),
        ] {
            let words: Vec<_> = given.split_whitespace().map(OsString::from).collect();
            let changed = match setting_up(&words) {
                Some(at) => with_flags(words, at),
                None => words,
            };
            let changed = changed.join(OsStr::new(" "));
            assert_eq!(changed, expected, "{given}");
        }
    }

    #[test]
    fn the_real_runc_is_the_first_in_path_that_is_not_ourselves() {
        let folder = tempfile::tempdir().unwrap();
        let wrapper = folder.path().join("private");
        let real = folder.path().join("usr");
        for folder in [&wrapper, &real] {
            std::fs::create_dir(folder).unwrap();
        }
        let ourselves = std::env::current_exe().unwrap();
        std::os::unix::fs::symlink(ourselves, wrapper.join(NAME)).unwrap();
        let path = format!(":{}:{}", wrapper.display(), real.display());
        assert_eq!(real_runc(&path), None);
        std::fs::write(real.join(NAME), "").unwrap();
        assert_eq!(real_runc(&path), Some(real.join(NAME)));
    }
}
