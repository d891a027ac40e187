//! The only signal handlers of the process, and the thread that answers them.
//!
//! Owns SIGCHLD (answered by reaping) and the signals that ask the process to stop (handed on as
//! values). A plain thread does it, so that zombies are reaped while the runtime is busy.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::sync::mpsc;

use crate::children::Children;

static STARTED: AtomicBool = AtomicBool::new(false);

/// The signals that ask this process to stop, in the order in which they came.
#[derive(Debug)]
pub struct Signals {
    asked: mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// Waits for the next request to stop. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        match self.asked.recv().await {
            Some(signal) => signal,
            // The thread that holds the sender ends with the process only.
            None => std::future::pending().await,
        }
    }
}

/// Takes over signals and children. Call it once, before anything else: a PID 1 loses a signal
/// that arrives before its handler is registered.
///
/// # Errors
/// When the kernel refuses a handler or the thread.
///
/// # Panics
/// When called twice: two owners of `waitpid(-1)` lose exit statuses to each other.
pub fn start() -> io::Result<(Children, Signals)> {
    assert!(
        !STARTED.swap(true, Ordering::SeqCst),
        "init::start may be called once per process"
    );
    let mut incoming =
        signal_hook::iterator::Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    // Under `docker run --init` we are not PID 1; orphans of our children must still be ours.
    nix::sys::prctl::set_child_subreaper(true)?;
    let children = Children::new();
    let reaper = children.clone();
    let (ask, asked) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            for number in incoming.forever() {
                if number == SIGCHLD {
                    reaper.reap();
                } else if let Ok(signal) = Signal::try_from(number) {
                    // The receiver is gone only when the process is about to exit.
                    ask.send(signal).ok();
                }
            }
        })?;
    Ok((children, Signals { asked }))
}
