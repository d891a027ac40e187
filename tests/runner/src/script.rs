//! Doing what a [`Script`] says: the faults that a test orders from the double.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use github_double::script::{Act, Deafness, Phase, Script};
use nix::sys::signal::Signal;
use ureq::http::Method;

use crate::http::{Call, Content, call};
use crate::process_tree;
use crate::signals::Asked;
use crate::terminal;

pub(crate) struct Performance(Script);

impl Performance {
    /// Asks the service for a script. A service that has none, or does not answer, is a real one
    /// or a dead one; both mean that there is nothing to perform.
    pub(crate) fn fetch(server_url: &str, runner: &str) -> Self {
        let url = format!("{server_url}_double/listener?runner={runner}");
        let answer = call(Call {
            method: Method::GET,
            url: &url,
            authorization: None,
            content: Content::Nothing,
            limit: Duration::from_secs(2),
        });
        let script = answer
            .ok()
            .filter(|answer| answer.status == 200)
            .and_then(|answer| serde_json::from_str(&answer.body).ok());
        Self(script.unwrap_or_default())
    }

    pub(crate) fn wait(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.0.wait_scale.unwrap_or(1.0))
    }

    pub(crate) fn version(&self) -> &str {
        self.0.version.as_deref().unwrap_or(crate::VERSION)
    }

    pub(crate) fn hears(&self, asked: Asked) -> bool {
        let deafness = match asked {
            Asked::Interrupt => Deafness::Interrupt,
            Asked::Terminate => Deafness::Terminate,
        };
        !self.0.deaf_to.contains(&deafness)
    }

    /// Plays the acts of a phase. `Some`: the listener ends with that code, at once.
    pub(crate) fn at(&self, phase: Phase) -> Option<u8> {
        for act in self.0.at.get(&phase).into_iter().flatten() {
            match act {
                Act::Print { lines } => lines.iter().for_each(|line| terminal::print(line)),
                Act::PrintError { lines } => {
                    lines.iter().for_each(|line| terminal::print_error(line));
                }
                Act::Flood { bytes } => flood(*bytes),
                Act::Exit { code } => return Some(*code),
                Act::Die { signal } => die(*signal),
                Act::Hang => loop {
                    std::thread::park();
                },
                Act::Grandchild { seconds } => leave_grandchild(*seconds),
            }
        }
        None
    }
}

/// Numbered lines of 64 bytes, so that a lost one is seen.
fn flood(bytes: u64) {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for number in 0..bytes.div_ceil(64) {
        let line = format!("flood {number:<57}\n");
        if out.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
    drop(out.flush());
}

fn die(signal: i32) {
    if let Ok(signal) = Signal::try_from(signal) {
        // Our own handlers must not turn the end into an orderly one.
        drop(signal_hook::low_level::emulate_default_handler(
            signal as i32,
        ));
        process_tree::send(std::process::id(), signal);
    }
}

/// A daemon's way to hold a pipe: a session of its own, standard output inherited.
#[expect(
    clippy::disallowed_methods,
    reason = "the process is meant to be nobody's child"
)]
fn leave_grandchild(seconds: u32) {
    let mut daemon = Command::new("setsid");
    daemon
        .args(["sleep", &seconds.to_string()])
        .stdin(Stdio::null());
    match daemon.spawn() {
        Ok(child) => drop(child),
        Err(error) => terminal::print_error(&format!("cannot start setsid: {error}")),
    }
}
