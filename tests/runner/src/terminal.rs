//! What the listener says, on which stream (actions/runner `Terminal.cs`).

use std::io::Write;

use crate::diag::{Diag, universal_time};

pub(crate) struct Terminal {
    diag: Diag,
}

impl Terminal {
    pub(crate) fn new(diag: Diag) -> Self {
        Self { diag }
    }

    pub(crate) fn diag(&self) -> &Diag {
        &self.diag
    }

    pub(crate) fn line(&self, text: &str) {
        self.diag.info("Terminal", &format!("WRITE LINE: {text}"));
        print(text);
    }

    /// A line with the time in front.
    pub(crate) fn timed(&self, text: &str) {
        self.line(&format!("{}: {text}", universal_time()));
    }

    pub(crate) fn error(&self, text: &str) {
        self.diag.error("Terminal", &format!("WRITE ERROR: {text}"));
        print_error(text);
    }

    pub(crate) fn timed_error(&self, text: &str) {
        self.error(&format!("{}: {text}", universal_time()));
    }

    /// Success lines and sections are not traced.
    pub(crate) fn success(&self, text: &str) {
        print(&format!("√ {text}"));
    }

    pub(crate) fn section(&self, text: &str) {
        print(&format!("\n# {text}\n"));
    }
}

/// One write per line, so that lines of several processes do not mix. A reader that has gone
/// away does not stop the runner.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(format!("{text}\n").as_bytes()));
    drop(out.flush());
}

pub(crate) fn print_error(text: &str) {
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// A line that may not be text.
pub(crate) fn print_bytes(mut line: Vec<u8>) {
    line.push(b'\n');
    drop(std::io::stdout().write_all(&line));
}
