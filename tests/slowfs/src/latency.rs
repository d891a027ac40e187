//! When a request is answered: its latency after it has a slot. Counts what it lets through.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::faults::{Fault, Faults};
use crate::hold;
use crate::operations::{Counts, Operation};

type Reply = Box<dyn FnOnce() + Send>;
type Outcome<T> = Result<T, rustix::io::Errno>;

/// How long a store takes for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) read: Duration,
    pub(crate) write: Duration,
}

/// The line between the kernel and the store.
#[derive(Debug)]
pub(crate) struct Line {
    latency: Latency,
    faults: Faults,
    never: Never,
    slots: Mutex<Slots>,
    held_back: Sender<(Instant, Reply)>,
    counts: Counts,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Line {
    /// # Errors
    /// The thread that answers cannot be started.
    pub(crate) fn open(latency: Latency, slots: usize, faults: Faults) -> io::Result<Self> {
        let (held_back, replies) = channel();
        thread::Builder::new()
            .name("replies".to_owned())
            .spawn(move || answer_when_due(&replies))?;
        Ok(Self {
            latency,
            faults,
            never: Never::default(),
            slots: Mutex::new(Slots::new(slots)),
            held_back,
            counts: Counts::default(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        })
    }

    /// Carries a request out, unless it is to fail.
    pub(crate) fn carry_out<T>(
        &self,
        operation: Operation,
        act: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<T> {
        match self.faults.of(operation) {
            Some(Fault::Fails(errno)) => Err(errno),
            Some(Fault::Lost) => act().and(Err(rustix::io::Errno::IO)),
            Some(Fault::Hangs) | None => act(),
        }
    }

    /// Gives the answer to a request that was carried out already, when its time has come.
    pub(crate) fn answer(&self, operation: Operation, reply: impl FnOnce() + Send + 'static) {
        self.counts.add(operation);
        if self.faults.of(operation) == Some(Fault::Hangs) {
            // Who dropped it would answer it.
            return hold(&self.never.0).push(Box::new(reply));
        }
        let latency = if operation.changes() {
            self.latency.write
        } else {
            self.latency.read
        };
        let due = hold(&self.slots).take(Instant::now(), latency);
        if latency.is_zero() {
            return reply();
        }
        // Without the thread that answers, the session has ended.
        drop(self.held_back.send((due, Box::new(reply))));
    }

    pub(crate) fn read(&self, bytes: usize) {
        add(&self.bytes_read, bytes);
    }

    pub(crate) fn written(&self, bytes: usize) {
        add(&self.bytes_written, bytes);
    }

    /// What went through, as a line of JSON.
    pub(crate) fn statistics(&self) -> String {
        let mut all: Map<String, Value> = self
            .counts
            .by_name()
            .map(|(name, count)| (name, count.into()))
            .collect();
        let total: u64 = self.counts.by_name().map(|(_, count)| count).sum();
        all.insert("rpc_total".to_owned(), total.into());
        let bytes = [
            ("bytes_r", &self.bytes_read),
            ("bytes_w", &self.bytes_written),
        ];
        for (name, bytes) in bytes {
            all.insert(name.to_owned(), bytes.load(Ordering::Relaxed).into());
        }
        let most = hold(&self.slots).most;
        all.insert("max_inflight".to_owned(), most.into());
        format!("{}\n", Value::Object(all))
    }
}

/// Answers that nobody gets.
#[derive(Default)]
struct Never(Mutex<Vec<Reply>>);

impl std::fmt::Debug for Never {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answers that nobody gets", hold(&self.0).len())
    }
}

fn add(sum: &AtomicU64, bytes: usize) {
    sum.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The session slots of NFS: when the requests that have one end.
#[derive(Debug)]
struct Slots {
    limit: usize,
    ends: BinaryHeap<Reverse<Instant>>,
    most: usize,
}

impl Slots {
    fn new(limit: usize) -> Self {
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            ends: BinaryHeap::new(),
            most: 0,
        }
    }

    /// Takes the first slot that is free, now or later, and returns when it will be free again.
    fn take(&mut self, now: Instant, latency: Duration) -> Instant {
        while self.ends.peek().is_some_and(|Reverse(end)| *end <= now) {
            self.ends.pop();
        }
        let mut start = now;
        if self.ends.len() >= self.limit
            && let Some(Reverse(end)) = self.ends.pop()
        {
            start = end;
        }
        let end = start + latency;
        self.ends.push(Reverse(end));
        self.most = self.most.max(self.ends.len());
        end
    }
}

/// Answers each request when it is due, until the line is dropped.
fn answer_when_due(replies: &Receiver<(Instant, Reply)>) {
    // The kernel would otherwise add up to 50 µs to each.
    nix::sys::prctl::set_timerslack(1).ok();
    let mut waiting: BTreeMap<(Instant, u64), Reply> = BTreeMap::new();
    let mut number = 0;
    loop {
        let next = match waiting.first_key_value() {
            None => replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(((due, _), _)) => {
                replies.recv_timeout(due.saturating_duration_since(Instant::now()))
            }
        };
        match next {
            Ok((due, reply)) => {
                number += 1;
                waiting.insert((due, number), reply);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(first) = waiting.first_entry()
            && first.key().0 <= Instant::now()
        {
            first.remove()();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_secs(1);

    #[test]
    fn requests_with_a_slot_each_end_together() {
        let mut slots = Slots::new(2);
        let now = Instant::now();
        assert_eq!(slots.take(now, LATENCY), now + LATENCY);
        assert_eq!(slots.take(now, LATENCY), now + LATENCY);
    }

    #[test]
    fn a_request_without_a_slot_waits_for_the_first_that_ends() {
        let mut slots = Slots::new(2);
        let now = Instant::now();
        slots.take(now, LATENCY);
        slots.take(now, 3 * LATENCY);
        assert_eq!(slots.take(now, LATENCY), now + 2 * LATENCY);
        assert_eq!(slots.take(now, LATENCY), now + 3 * LATENCY);
        assert_eq!(slots.most, 2);
    }

    #[test]
    fn a_slot_whose_request_has_ended_is_free() {
        let mut slots = Slots::new(1);
        let now = Instant::now();
        slots.take(now, LATENCY);
        let later = now + 2 * LATENCY;
        assert_eq!(slots.take(later, LATENCY), later + LATENCY);
    }

    #[test]
    fn no_limit_means_that_nobody_waits() {
        let mut slots = Slots::new(0);
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(slots.take(now, LATENCY), now + LATENCY);
        }
        assert_eq!(slots.most, 100);
    }
}
