//! Owns the parts that the driver's own executable plays when it is started anew: PID 1 of a host,
//! the builder of a root filesystem, the way into a host, the janitor.
//!
//! A process that changes its namespaces must have one thread. A fork of a driver that may already
//! have threads cannot promise that, a fresh start can.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::{enter, janitor, pid1, recipe};

/// First argument by which the executable knows that it plays a part.
const MARK: &str = "__testhost";

/// Set by [`reexec`]: without it a started part would run the driver's main again, and so on.
static CALLED: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Host,
    Builder,
    Enter,
    Janitor,
}

impl Part {
    const ALL: [Part; 4] = [Part::Host, Part::Builder, Part::Enter, Part::Janitor];

    const fn word(self) -> &'static str {
        match self {
            Part::Host => "host",
            Part::Builder => "builder",
            Part::Enter => "enter",
            Part::Janitor => "janitor",
        }
    }
}

/// Plays the part that the arguments ask for and ends the process; returns when they ask for none.
///
/// Must be the first statement of every driver's `main`, before a thread exists and before
/// arguments are parsed. [`crate::prepare`] and [`crate::Host::boot`] refuse to work without it.
#[expect(
    clippy::exit,
    reason = "a part is a whole program: its end is the end of the process"
)]
pub fn reexec() {
    CALLED.store(true, Ordering::SeqCst);
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(MARK)) {
        return;
    }
    let word = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    let code = play(&word, &rest).unwrap_or_else(|error| {
        // Standard error of a part is the driver's or /dev/null; it has nobody else to tell.
        drop(writeln!(
            std::io::stderr(),
            "testhost {}: {error:#}",
            word.display()
        ));
        125
    });
    std::process::exit(code.into());
}

fn play(word: &OsStr, arguments: &[OsString]) -> Result<u8> {
    match Part::ALL.into_iter().find(|part| word == part.word()) {
        Some(Part::Host) => pid1::main(arguments),
        Some(Part::Builder) => recipe::main(arguments),
        Some(Part::Enter) => enter::main(arguments),
        Some(Part::Janitor) => janitor::main(arguments),
        None => bail!("unknown part; this argument is for testhost's own use"),
    }
}

/// Refuses to go on in a driver whose main did not call [`reexec`]. Whoever starts a part first
/// asks this.
pub(crate) fn require() -> Result<()> {
    if !CALLED.load(Ordering::SeqCst) {
        bail!("testhost::reexec() was not called: make it the first statement of main");
    }
    Ok(())
}

/// A command that plays `part`.
///
/// `/proc/self/exe` is resolved in the child before it is replaced, so it is this very executable
/// even when a build has put a new one in its place.
pub(crate) fn command(part: Part) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(MARK).arg(part.word());
    command
}

/// The `index`th argument of a part as text.
pub(crate) fn text(arguments: &[OsString], index: usize) -> Result<&str> {
    arguments
        .get(index)
        .and_then(|argument| argument.to_str())
        .with_context(|| format!("argument {index} is missing or not UTF-8"))
}
