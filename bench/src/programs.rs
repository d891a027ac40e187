//! Where this workspace's programs are, and how a section runs one.

use std::path::{Path, PathBuf};

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A program of this workspace: beside this one, where cargo put it.
pub fn find(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let path = this.with_file_name(name);
    path.is_file().then_some(path).with_context(|| {
        format!(
            "{name} is not beside {}: cargo build --release --workspace",
            this.display()
        )
    })
}

/// The checkout that this program was built from.
pub fn checkout() -> &'static Path {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench)
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It cannot be started, or ends with anything but 0; the message has its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    output_with(command.stdin(Stdio::null()))
}

/// As [`output`], with the standard input that the command has.
///
/// # Errors
/// See there.
pub(crate) fn output_with(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    #[expect(
        clippy::disallowed_methods,
        reason = "a driver of measurements, not the PID 1 of a container: nobody else waits for children"
    )]
    let output = command.output().with_context(|| format!("start {name}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} ended with {}: {}",
        output.status,
        error.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A duration as comparisons take it.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
