//! Owns the flag that SIGINT, SIGTERM and SIGHUP set in the driver.
//!
//! A driver that never calls [`watch_signals`] dies of the first signal, which is safe as well (the
//! host's processes and the janitor see the end of its pipe), but has no orderly end.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the first SIGINT, SIGTERM or SIGHUP makes [`interrupted`] true; a second one ends
/// the driver at once. Call it once, early.
///
/// # Errors
/// A handler cannot be registered.
pub fn watch_signals() -> io::Result<()> {
    let seen = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order counts: the second signal must find the flag already set.
        flag::register_conditional_default(signal, Arc::clone(seen))?;
        flag::register(signal, Arc::clone(seen))?;
    }
    Ok(())
}

/// Whether the driver was asked to end. [`crate::Host::run`], [`crate::prepare`] and everything
/// else here that waits returns an error soon after.
#[must_use]
pub fn interrupted() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

pub(crate) fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!interrupted(), "interrupted by a signal");
    Ok(())
}
