//! Showing how far it is: a bar on a terminal, a line every few seconds in a log.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use ::caches::Amount;

/// In a log.
const EVERY: Duration = Duration::from_secs(5);
const WIDTH: u64 = 30;

/// The progress of one piece of work.
#[derive(Debug)]
pub(super) struct Bar {
    what: &'static str,
    began: Instant,
    told: Instant,
    amount: Amount,
    drawn: bool,
}

impl Bar {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            began: Instant::now(),
            told: Instant::now(),
            amount: Amount::default(),
            drawn: false,
        }
    }

    /// What was shown last.
    pub(super) fn amount(&self) -> Amount {
        self.amount
    }

    pub(super) fn show(&mut self, amount: Amount) {
        self.amount = amount;
        if stderr().is_terminal() {
            let text = self.text();
            write!(stderr().lock(), "\r\x1b[K{text}").ok();
            self.drawn = true;
        } else if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            tracing::info!("{}", self.text());
        }
    }

    fn text(&self) -> String {
        let Amount {
            files,
            bytes,
            all_bytes,
            ..
        } = self.amount;
        let seconds = self.began.elapsed().as_millis().max(1);
        let rate = u64::try_from(u128::from(bytes) * 1000 / seconds).unwrap_or(u64::MAX);
        let filled = (bytes.min(all_bytes) * WIDTH)
            .checked_div(all_bytes)
            .unwrap_or(0);
        let bar: String = (0..WIDTH)
            .map(|at| if at < filled { '#' } else { '.' })
            .collect();
        let rest = all_bytes
            .saturating_sub(bytes)
            .checked_div(rate)
            .map_or_else(String::new, |seconds| format!(", {seconds} s left"));
        let mega = |bytes: u64| bytes / 1_000_000;
        format!(
            "{} [{bar}] {}/{} MB, {files} files, {} MB/s{rest}",
            self.what,
            mega(bytes),
            mega(all_bytes),
            mega(rate)
        )
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn {
            write!(stderr().lock(), "\r\x1b[K").ok();
        }
    }
}
