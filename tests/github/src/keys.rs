//! Keys for runners, made before they are asked for.
//!
//! GitHub answers a registration sooner than a key is made here, and whoever measures a start waits
//! for the answer.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context;

use crate::rsa_key::RsaKey;

const STOCK: usize = 4;

/// Dropping it ends the thread that makes them.
#[derive(Debug)]
pub(crate) struct Keys(Mutex<Receiver<anyhow::Result<RsaKey>>>);

impl Keys {
    pub(crate) fn stock() -> anyhow::Result<Self> {
        let (made, keys) = sync_channel(STOCK);
        thread::Builder::new()
            .name("keys".into())
            .spawn(move || make(&made))
            .context("cannot start a thread for keys")?;
        Ok(Self(Mutex::new(keys)))
    }

    /// One that nobody else has. Where none is left it is made at once: on a busy machine whoever
    /// makes the stock can take minutes.
    pub(crate) fn take(&self) -> anyhow::Result<RsaKey> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stocked = keys.try_recv();
        drop(keys);
        stocked.unwrap_or_else(|_| RsaKey::generate())
    }
}

fn make(keys: &SyncSender<anyhow::Result<RsaKey>>) {
    // On Linux that is the thread's: a stock does not compete with those that are measured.
    rustix::process::nice(19).ok();
    while keys.send(RsaKey::generate()).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_given_twice() {
        let keys = Keys::stock().unwrap();
        let moduli: Vec<_> = (0..3)
            .map(|_| keys.take().unwrap().public().to_xml())
            .collect();
        assert!(moduli[0] != moduli[1] && moduli[1] != moduli[2] && moduli[0] != moduli[2]);
    }
}
