//! The trace in `_diag/` (actions/runner `HostTraceListener.cs`, `StdoutTraceListener.cs`).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use jiff::Timestamp;

use crate::environment::Environment;

#[derive(Clone, Copy)]
pub(crate) enum Level {
    Info,
    Error,
}

pub(crate) struct Diag {
    file: Mutex<File>,
    /// `RUNNER` or `WORKER` when every line goes to standard output too.
    echo: Option<String>,
}

impl Diag {
    /// Opens `_diag/<host>_<time>-utc.log`; `host` is `Runner` or `Worker`.
    pub(crate) fn create(
        root: &Path,
        host: &str,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        let directory = root.join("_diag");
        let time = Timestamp::now().strftime("%Y%m%d-%H%M%S");
        let path = directory.join(format!("{host}_{time}-utc.log"));
        let file = fs::create_dir_all(&directory)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let echo = environment
            .is_true("ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT")
            .then(|| host.to_ascii_uppercase());
        Ok(Self {
            file: Mutex::new(file),
            echo,
        })
    }

    pub(crate) fn info(&self, source: &str, text: &str) {
        self.trace(Level::Info, source, text.as_bytes());
    }

    pub(crate) fn error(&self, source: &str, text: &str) {
        self.trace(Level::Error, source, text.as_bytes());
    }

    fn trace(&self, level: Level, source: &str, text: &[u8]) {
        let mut line = header(None, level, source);
        line.extend_from_slice(text);
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The real runner goes on with a full disk as well.
        drop(file.write_all(&line));
        drop(file);
        self.echo_only(level, source, text);
    }

    /// A line that goes to standard output if all do, and to no file.
    pub(crate) fn echo_only(&self, level: Level, source: &str, text: &[u8]) {
        if let Some(host) = &self.echo {
            let mut line = header(Some(host), level, source);
            line.extend_from_slice(text);
            line.push(b'\n');
            drop(std::io::stdout().write_all(&line));
        }
    }
}

/// `[2026-11-21 09:00:00Z INFO Source] `, with the host in front on standard output.
fn header(host: Option<&str>, level: Level, source: &str) -> Vec<u8> {
    let level = match level {
        Level::Info => "INFO",
        Level::Error => "ERR ",
    };
    let time = universal_time();
    match host {
        Some(host) => format!("[{host} {time} {level} {source}] ").into_bytes(),
        None => format!("[{time} {level} {source}] ").into_bytes(),
    }
}

/// .NET's format `u`.
pub(crate) fn universal_time() -> String {
    Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
