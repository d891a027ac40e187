//! The listener's half of the talk with the broker: a session, then one long poll after another
//! (actions/runner `BrokerMessageListener.cs`).
//!
//! Runs in a thread of its own, so that a signal never waits for a poll. Owns every retry and
//! the lines that go with it; what a message or an end means is the listener's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;

use github_double::Message;
use rand::RngExt;

use crate::Runner;
use crate::broker::{Broker, Refused};
use crate::configure::machine_name;
use crate::failure::Failure;
use crate::listener::Event;
use crate::script::Performance;

/// What the listener hears of it.
#[derive(Debug)]
pub(crate) enum Said {
    /// The first session exists; its id.
    Connected(String),
    Message(Message),
    Ended(End),
}

/// Why there will be no more messages. What the operator has to read was printed.
#[derive(Debug)]
pub(crate) enum End {
    /// No session, and no sense in trying again.
    NoSession,
    Conflict,
    /// The registration went away while connected.
    RunnerNotFound,
    Deprovisioned,
    Failed(Failure),
}

pub(crate) struct Conversation {
    pub(crate) runner: Arc<Runner>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) performance: Arc<Performance>,
    pub(crate) skip_session_recover: bool,
    pub(crate) presence: Arc<Presence>,
    pub(crate) listener: Sender<Event>,
}

/// What the listener tells the conversation.
#[derive(Default)]
pub(crate) struct Presence {
    /// A job runs.
    pub(crate) busy: AtomicBool,
    /// The listener is ending; whatever a poll says now is not answered any more.
    pub(crate) over: AtomicBool,
}

/// Seconds between two attempts at a session.
const SESSION_PAUSE: f64 = 30.0;
/// Seconds after which a conflict is given up.
const CONFLICT_LIMIT: f64 = 240.0;
/// Seconds after which a skewed clock is given up.
const SKEW_LIMIT: f64 = 1800.0;
const POLL_ERRORS: u32 = 10;

/// How often a reason to fail came up, in pauses.
#[derive(Default)]
struct Troubles {
    conflicts: u32,
    skews: u32,
}

impl Conversation {
    pub(crate) fn start(self) {
        thread::spawn(move || {
            let end = self.converse();
            self.say(Said::Ended(end));
        });
    }

    /// A real listener cancels its polls; here the thread stops at the next opportunity, and the
    /// end of the process takes it along.
    fn stop_when_over(&self) {
        while self.presence.over.load(Ordering::Relaxed) {
            thread::park();
        }
    }

    fn say(&self, said: Said) {
        // A listener that has stopped listening is about to end the process.
        drop(self.listener.send(Event::Said(said)));
    }

    fn converse(&self) -> End {
        let mut session = match self.create_session() {
            Ok(session) => session,
            Err(end) => return end,
        };
        self.say(Said::Connected(session.clone()));
        loop {
            match self.next_message(&mut session) {
                Ok(message) => self.say(Said::Message(message)),
                Err(end) => return end,
            }
        }
    }

    fn create_session(&self) -> Result<String, End> {
        let terminal = &self.runner.terminal;
        let owner = format!("{} (PID: {})", machine_name(), std::process::id());
        let mut troubles = Troubles::default();
        let mut failing = false;
        loop {
            self.stop_when_over();
            terminal.line("");
            terminal.success("Connected to GitHub");
            terminal.line("");
            let refused = match self.broker.create_session(&owner) {
                Ok(session) => {
                    if failing {
                        terminal.timed("Runner reconnected.");
                    }
                    return Ok(session);
                }
                Err(refused) => refused,
            };
            terminal
                .diag()
                .error("BrokerMessageListener", &refused.to_string());
            self.judge(&refused, &mut troubles)?;
            if !failing {
                terminal.timed_error(&format!(
                    "Runner connect error: {refused}. Retrying until reconnected."
                ));
                failing = true;
            }
            thread::sleep(self.performance.wait(SESSION_PAUSE));
        }
    }

    /// Whether another attempt at a session makes sense.
    fn judge(&self, refused: &Refused, troubles: &mut Troubles) -> Result<(), End> {
        let terminal = &self.runner.terminal;
        let give_up = |end: End| {
            terminal.error(&format!("Failed to create session. {refused}"));
            Err(end)
        };
        match refused {
            Refused::RegistrationDeleted(_) => {
                terminal.error(
                    "Failed to create a session. The runner registration has been deleted from \
                     the server, please re-configure. Runner registrations are automatically \
                     deleted for runners that have not connected to the service recently.",
                );
                Err(End::NoSession)
            }
            Refused::RunnerNotFound(_) => {
                terminal.error(
                    "The runner no longer exists on the server. Please reconfigure the runner.",
                );
                give_up(End::NoSession)
            }
            Refused::SessionConflict(_) => {
                terminal.error("A session for this runner already exists.");
                troubles.conflicts += 1;
                if f64::from(troubles.conflicts) * SESSION_PAUSE >= CONFLICT_LIMIT {
                    terminal.error(&format!(
                        "Stop retry on SessionConflictException after retried for {CONFLICT_LIMIT} seconds."
                    ));
                    return give_up(End::Conflict);
                }
                Ok(())
            }
            Refused::ClockSkewed(_) => {
                terminal.error(
                    "The local machine's clock may be out of sync with the server time by more \
                     than five minutes. Please sync your clock with your domain or internet time \
                     and try again.",
                );
                troubles.skews += 1;
                if f64::from(troubles.skews) * SESSION_PAUSE >= SKEW_LIMIT {
                    return give_up(End::NoSession);
                }
                Ok(())
            }
            Refused::SessionInvalid(_)
            | Refused::VersionTooOld(_)
            | Refused::Deprovisioned(_)
            | Refused::JobNotFound(_)
            | Refused::JobNotAcquired(_)
            | Refused::Other(_) => Ok(()),
        }
    }

    fn next_message(&self, session: &mut String) -> Result<Message, End> {
        let terminal = &self.runner.terminal;
        let mut errors = 0;
        loop {
            let busy = self.presence.busy.load(Ordering::Relaxed);
            let refused = match self.broker.message(session, busy) {
                Ok(Some(message)) => {
                    if errors > 0 {
                        terminal.timed("Runner reconnected.");
                    }
                    return Ok(message);
                }
                Ok(None) => continue,
                Err(refused) => refused,
            };
            self.stop_when_over();
            terminal
                .diag()
                .error("BrokerMessageListener", &refused.to_string());
            let words = match refused {
                Refused::RunnerNotFound(_) => return Err(End::RunnerNotFound),
                Refused::Deprovisioned(_) => return Err(End::Deprovisioned),
                Refused::VersionTooOld(words) => {
                    return Err(End::Failed(Failure::VersionTooOld(words)));
                }
                Refused::SessionInvalid(_) if self.skip_session_recover => {
                    let text = "Get next message failed with non-retryable error.";
                    return Err(End::Failed(Failure::Terminated(text.to_owned())));
                }
                Refused::SessionInvalid(_) => {
                    *session = self.create_session()?;
                    continue;
                }
                retriable @ (Refused::RegistrationDeleted(_)
                | Refused::ClockSkewed(_)
                | Refused::SessionConflict(_)
                | Refused::JobNotFound(_)
                | Refused::JobNotAcquired(_)
                | Refused::Other(_)) => retriable,
            };
            errors += 1;
            if errors >= POLL_ERRORS {
                return Err(End::Failed(Failure::Retryable(anyhow::anyhow!("{words}"))));
            }
            if errors == 1 {
                terminal.timed_error(&format!(
                    "Runner connect error: {words}. Retrying until reconnected."
                ));
            }
            let longest = if errors <= 5 { 30.0 } else { 60.0 };
            let pause = rand::rng().random_range(longest / 2.0..longest);
            thread::sleep(self.performance.wait(pause));
        }
    }
}
