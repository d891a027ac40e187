//! Owns how the driver runs programs: to their end with their output, or alongside with their
//! output followed line by line.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt;

/// Pause between two looks at a condition that nothing announces.
const PAUSE: Duration = Duration::from_millis(10);

/// Which of a program's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A program that runs alongside the driver. Dropping it kills the program.
pub struct Running {
    name: String,
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("name", &self.name)
            .field("pid", &self.child.id())
            .finish()
    }
}

impl Running {
    /// Starts `command` with its outputs piped to `on_line`, which is called for each line from a
    /// thread of its own per stream.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start<F>(command: Command, on_line: F) -> Result<Self>
    where
        F: Fn(Stream, &str) + Send + Sync + 'static,
    {
        let name = describe(&command);
        let mut child = spawn(command, &name)?;
        let on_line = Arc::new(on_line);
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(read_lines(stdout, Stream::Stdout, Arc::clone(&on_line)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(read_lines(stderr, Stream::Stderr, on_line));
        }
        Ok(Self {
            name,
            child,
            readers,
        })
    }

    /// Process number on the machine.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` to the program.
    ///
    /// # Errors
    /// The program has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let signal = Signal::try_from(signal).context("signal number")?;
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)
            .with_context(|| format!("send {signal} to {}", self.name))
    }

    /// How it ended, if it has ended.
    ///
    /// # Errors
    /// The kernel does not know the child; somebody else waited for it.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It still runs after `limit`, or the driver was interrupted.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait(&mut self.child, &self.name, limit)?;
        self.readers
            .drain(..)
            .for_each(|reader| drop(reader.join()));
        Ok(status)
    }

    /// Asks it to end with SIGTERM and waits; kills it after `limit`.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(mut self, limit: Duration) -> Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.signal(Signal::SIGTERM as i32)?;
        }
        if !until(limit, || !matches!(self.child.try_wait(), Ok(None))) {
            self.child
                .kill()
                .with_context(|| format!("kill {}", self.name))?;
        }
        self.child
            .wait()
            .with_context(|| format!("wait for {}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already, and then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// It cannot be started, ends with anything but 0 (the error carries its standard error), or the
/// driver is interrupted.
pub(crate) fn output(command: Command) -> Result<Vec<u8>> {
    let name = describe(&command);
    let output = collect(command)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}{}", output.status, indent(tail(&text, 40)));
    }
    Ok(output.stdout)
}

/// Starts `command` with nothing to read and both outputs piped.
fn spawn(mut command: Command, name: &str) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))
}

/// Runs `command` to its end, whatever that is, and returns its outputs.
pub(crate) fn collect(command: Command) -> Result<Output> {
    let name = describe(&command);
    let mut child = spawn(command, &name)?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let ended = wait(&mut child, &name, Duration::MAX);
    if ended.is_err() {
        drop(child.kill());
        drop(child.wait());
    }
    let status = ended?;
    let bytes = |reader: Option<JoinHandle<Vec<u8>>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: bytes(stdout),
        stderr: bytes(stderr),
    })
}

/// Hands each line to `on_line`, on the caller's thread, until the senders are gone.
///
/// # Errors
/// The driver is interrupted.
pub(crate) fn each_line(lines: &Receiver<String>, mut on_line: impl FnMut(&str)) -> Result<()> {
    loop {
        interrupt::check()?;
        match lines.recv_timeout(PAUSE * 10) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Looks at `condition` until it holds; false when it still does not after `limit`.
pub(crate) fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begin.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The last `count` lines of `text`.
pub(crate) fn tail(text: &str, count: usize) -> &str {
    let text = text.trim_end();
    let cut = text
        .rmatch_indices('\n')
        .nth(count.saturating_sub(1))
        .map_or(0, |(at, _)| at + 1);
    &text[cut..]
}

/// Each line of `text` on a line of its own below an error message.
pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}

fn wait(child: &mut Child, name: &str, limit: Duration) -> Result<ExitStatus> {
    let mut ended = None;
    let done = until(limit, || {
        ended = child.try_wait().transpose();
        ended.is_some() || interrupt::interrupted()
    });
    match ended {
        Some(status) => status.with_context(|| format!("wait for {name}")),
        None => {
            interrupt::check().with_context(|| format!("while {name} ran"))?;
            debug_assert!(
                !done,
                "a condition that holds has a result or an interruption"
            );
            bail!("{name} still runs after {} s", limit.as_secs())
        }
    }
}

pub(crate) fn read_lines<R, F>(source: R, stream: Stream, on_line: Arc<F>) -> JoinHandle<()>
where
    R: Read + Send + 'static,
    F: Fn(Stream, &str) + Send + Sync + 'static,
{
    std::thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            on_line(
                stream,
                String::from_utf8_lossy(&line).trim_end_matches('\r'),
            );
        }
    })
}

fn read_all<R: Read + Send + 'static>(mut source: R) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still the program's output.
        drop(source.read_to_end(&mut bytes));
        bytes
    })
}

/// The command line, without the words that lead into a host.
fn describe(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let start = words
        .iter()
        .position(|word| word == "--")
        .map_or(0, |at| at + 1);
    let start = if words[0] == "/proc/self/exe" {
        start
    } else {
        0
    };
    words[start..].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines_whole() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_failing_program_is_an_error_with_its_name_status_and_standard_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 3"]);
        let error = output(command).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("\n    no such luck"), "{error}");
    }

    #[test]
    fn a_running_program_is_followed_line_by_line_and_stopped_by_sigterm() {
        let (send, lines) = std::sync::mpsc::channel();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exec sleep 60"]);
        let running = Running::start(command, move |stream, line| {
            drop(send.send((stream, line.to_owned())));
        })
        .unwrap();
        let mut seen = [lines.recv().unwrap(), lines.recv().unwrap()];
        seen.sort_by_key(|(stream, _)| *stream == Stream::Stderr);
        assert_eq!(
            seen,
            [
                (Stream::Stdout, "out".into()),
                (Stream::Stderr, "err".into())
            ]
        );
        let status = running.stop(Duration::from_secs(10)).unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(15)
        );
    }
}
