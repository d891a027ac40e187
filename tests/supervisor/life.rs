//! A supervisor that a trial started: its signals, its output, and how it ended.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{LIMIT, wait_until};

/// A supervisor that runs.
pub(crate) struct Supervisor {
    child: Child,
    root: PathBuf,
    pub(crate) started: Instant,
}

/// A supervisor's whole life.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As a shell reports it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) log: Vec<Value>,
    pub(crate) elapsed: Duration,
}

impl Supervisor {
    /// One that was started just now; `root` has its output.
    pub(crate) fn of(child: Child, root: &Path) -> Self {
        Self {
            child,
            root: root.to_owned(),
            started: Instant::now(),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// As `docker stop` and ECS do it.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(self.root.join("stdout")).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.root.join("stderr")).unwrap()
    }

    pub(crate) fn wait_for_output(&self, text: &str) {
        wait_until(&format!("standard output says {text:?}"), || {
            self.stdout().contains(text)
        });
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log says {text:?}"), || {
            self.stderr().contains(text)
        });
    }

    /// Waits until a phase has begun.
    pub(crate) fn wait_for_phase(&self, phase: &str) {
        self.wait_for_log(&format!("\"phase begins\",\"phase\":\"{phase}\""));
    }

    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the supervisor did not end: {}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let log = self.stderr();
        let log = log.lines().map(|line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error} in the log line {line:?}"))
        });
        Ended {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap()),
            log: log.collect(),
            stdout: self.stdout(),
            elapsed: self.started.elapsed(),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

impl Ended {
    /// The phases that were done, in order.
    pub(crate) fn phases(&self) -> Vec<&str> {
        let done = self
            .log
            .iter()
            .filter(|line| line["message"] == "phase done");
        done.filter_map(|line| line["phase"].as_str()).collect()
    }

    pub(crate) fn detail(&self, phase: &str) -> &str {
        let mut done = self
            .log
            .iter()
            .filter(|line| line["message"] == "phase done");
        let line = done.find(|line| line["phase"] == phase);
        line.unwrap_or_else(|| panic!("no phase {phase}"))["detail"]
            .as_str()
            .unwrap()
    }

    /// The messages of the log from a level on, as one text.
    pub(crate) fn errors(&self) -> String {
        let lines = self.log.iter().filter(|line| line["level"] == "ERROR");
        lines.map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn log_text(&self) -> String {
        self.log.iter().map(|line| format!("{line}\n")).collect()
    }
}
