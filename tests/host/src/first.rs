//! Owns the driver's end of a host's first process: its start, its words, its end. What the process
//! does is in `pid1`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::interrupt;
use crate::pid1::Inside;
use crate::process::until;
use crate::reexec::{self, Part};

/// How long dockerd may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The process outside the host's namespaces that waits for PID 1.
#[derive(Debug)]
pub(crate) struct First {
    child: Child,
    /// While it is open, the host lives.
    lifeline: ChildStdin,
    /// Locked, so that threads may share a host.
    words: Mutex<Receiver<String>>,
}

impl First {
    pub(crate) fn start(inside: &Inside) -> Result<Self> {
        let mut child = reexec::command(Part::Host)
            .args(inside.to_arguments())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()) // errors come as a line of standard output
            .spawn()
            .context("start the host's first process")?;
        let lifeline = child.stdin.take().context("no standard input")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let (send, words) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lifeline,
            words: Mutex::new(words),
        })
    }

    /// Waits for a line that begins with `word`; the rest of it.
    pub(crate) fn expect(&self, word: &str, limit: Duration) -> Result<String> {
        let mut line = None;
        let mut ended = false;
        until(limit, || {
            match self.next_word() {
                Ok(text) => line = Some(text),
                Err(TryRecvError::Disconnected) => ended = true,
                Err(TryRecvError::Empty) => {}
            }
            line.is_some() || ended || interrupt::interrupted()
        });
        interrupt::check()?;
        let line =
            line.with_context(|| format!("the host ended or hung before it said {word:?}"))?;
        let Some(rest) = line.strip_prefix(word) else {
            bail!("boot the host: {}", line.trim_start_matches("error "));
        };
        Ok(rest.trim().to_owned())
    }

    /// What it has said unasked, for example that dockerd has ended.
    pub(crate) fn heard(&self) -> Option<String> {
        self.next_word().ok()
    }

    fn next_word(&self) -> Result<String, TryRecvError> {
        let words = self.words.lock();
        words.unwrap_or_else(PoisonError::into_inner).try_recv()
    }

    /// Stops dockerd, and with PID 1 everything in the host.
    pub(crate) fn end(mut self) -> Result<()> {
        // It may have ended by itself; then the wait below returns at once.
        drop(self.lifeline.write_all(b"s"));
        let child = &mut self.child;
        if !until(STOP_LIMIT, || !matches!(child.try_wait(), Ok(None))) {
            child.kill().context("kill the host's first process")?;
        }
        let ended = self.child.wait();
        ended.context("wait for the host's first process").map(drop)
    }
}
