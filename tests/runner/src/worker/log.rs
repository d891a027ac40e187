//! The job's log: every line of every step, sent to the service while it grows.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::broker::JobConnection;
use crate::diag::{Diag, Level};

/// Lines wait this long for others to go with them.
const PAUSE: Duration = Duration::from_millis(50);
const LARGEST_CHUNK: usize = 4 << 20;

pub(crate) struct JobLog {
    diag: Diag,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    sending: bool,
}

impl JobLog {
    pub(crate) fn start(diag: Diag, connection: JobConnection) -> Self {
        let waiting = Arc::new(Waiting::default());
        let upload = Arc::clone(&waiting);
        thread::spawn(move || {
            loop {
                let chunk = upload.take();
                // A piece that cannot be delivered is lost, as with the real service.
                drop(connection.append_log(chunk));
                upload.lock().sending = false;
                upload.changed.notify_all();
                thread::sleep(PAUSE);
            }
        });
        Self { diag, waiting }
    }

    /// A line without its end. Goes to no file, and to standard output only when all does.
    pub(crate) fn line(&self, line: &[u8]) {
        self.diag.echo_only(Level::Info, "ScriptHandler", line);
        let mut state = self.waiting.lock();
        state.bytes.extend_from_slice(line);
        state.bytes.push(b'\n');
        drop(state);
        self.waiting.changed.notify_all();
    }

    pub(crate) fn diag(&self) -> &Diag {
        &self.diag
    }

    /// Returns when everything was sent.
    pub(crate) fn flush(&self) {
        let mut state = self.waiting.lock();
        while state.sending || !state.bytes.is_empty() {
            state = self
                .waiting
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<u8> {
        let mut state = self.lock();
        while state.bytes.is_empty() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.sending = true;
        let size = state.bytes.len().min(LARGEST_CHUNK);
        state.bytes.drain(..size).collect()
    }
}
