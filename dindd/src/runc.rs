//! The OCI runtime wrapper: dindd is the `runc` that dockerd, containerd and BuildKit find first.
//!
//! Owns the flags that the real runc needs where `pivot_root` and `keyctl` are filtered, and
//! finding the real runc behind ourselves in `PATH`. Does not decide whether the wrapper is used;
//! see [`crate::isolation`].
//!
//! `--no-pivot` and `--no-new-keyring` are options of runc's `create`, `run` and `restore`
//! (opencontainers/runc `create.go`, `run.go`, `restore.go`); `exec` follows what the container
//! was created with.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use init::settings::Environment;

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

/// Becomes the real runc when called as `runc` or with `runc` as the first argument. Returns only
/// when there is nothing to become: `None` when dindd was meant, else the code to exit with.
pub(crate) fn become_runc_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let called = words.next()?;
    let mut words: Vec<OsString> = words.collect();
    if Path::new(&called).file_name() != Some(OsStr::new(NAME)) {
        if words.first().map(OsString::as_os_str) != Some(OsStr::new(NAME)) {
            return None;
        }
        words.remove(0);
    }
    let error = become_runc(words);
    // runc's callers show its standard error to the user; a closed one is no reason to go on.
    writeln!(std::io::stderr(), "dindd runc: {error:#}").ok();
    Some(ExitCode::from(init::exit_code::UNAVAILABLE))
}

fn become_runc(words: Vec<OsString>) -> anyhow::Error {
    let environment = Environment::of_process();
    let path = environment.get("PATH").unwrap_or(DEFAULT_PATH);
    let Some(real) = real_runc(path) else {
        return anyhow::anyhow!("there is no runc in PATH ({path}) besides dindd; install runc");
    };
    let error = Command::new(&real)
        .arg0(NAME)
        .args(with_flags(words))
        .exec();
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

/// The command line with what a filtered kernel needs, after the subcommand.
fn with_flags(words: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = subcommand(&words) else {
        return words;
    };
    if !SETTING_UP.iter().any(|one| words[at] == *one) {
        return words;
    }
    let missing = FLAGS
        .iter()
        .filter(|flag| !words.iter().any(|word| word == *flag))
        .map(OsString::from);
    let missing: Vec<OsString> = missing.collect();
    let mut words = words;
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
            let words = given.split_whitespace().map(OsString::from).collect();
            let changed = with_flags(words).join(OsStr::new(" "));
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
