//! SIGINT and SIGTERM, as the listener takes them.

use std::sync::mpsc::Sender;
use std::thread;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::TERMINATED;
use crate::terminal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// Sends every signal on, from a thread of its own.
pub(crate) fn forward<E: Send + 'static>(
    events: Sender<E>,
    wrap: fn(Asked) -> E,
) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot take signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let asked = if signal == SIGINT {
                Asked::Interrupt
            } else {
                Asked::Terminate
            };
            if events.send(wrap(asked)).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// While configuring, an interrupt ends the program on the spot.
#[expect(
    clippy::exit,
    reason = "the real listener does just that, with nothing to clean up"
)]
pub(crate) fn end_on_interrupt() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT]).context("cannot take signals")?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            terminal::print("Exiting...");
            std::process::exit(i32::from(TERMINATED));
        }
    });
    Ok(())
}
