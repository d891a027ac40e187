//! The broker's half of a runner's life: sessions, the mailbox and who is told what.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::World;
use super::refusal::Refusal;
use super::runners::{Registration, Runner, Session};
use crate::events::{Event, Kind};

/// A broker message; `body` is JSON in a string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    #[serde(default)]
    pub message_id: u64,
    /// `RunnerJobRequest`, `JobCancellation`, `RunnerRefresh`, …
    pub message_type: String,
    pub body: String,
}

/// What a poll is answered with.
pub(crate) enum Answer {
    Message(Message),
    /// Nothing yet; ask again when something changed.
    Nothing,
}

impl World {
    fn connected(&mut self, id: u64) -> Option<&mut Runner> {
        self.runners.iter_mut().find(|runner| runner.id == id)
    }

    /// Opens a session; 409 while another one of the same runner is connected or holds a job.
    pub(crate) fn open_session(
        &mut self,
        id: u64,
        version: Option<String>,
    ) -> Result<Value, Refusal> {
        let runner = self
            .runners
            .iter()
            .find(|runner| runner.id == id && runner.registration == Registration::Present)
            .ok_or_else(|| gone("session"))?;
        let name = runner.name.clone();
        if runner.session.is_some() && (self.is_online(runner) || self.is_busy(runner)) {
            return Err(Refusal::broker(
                409,
                "SessionConflict",
                format!("A session for the runner {name} already exists."),
            ));
        }
        let session = super::random_guid();
        if let Some(runner) = self.connected(id) {
            runner.version = version;
            runner.session = Some(Session {
                id: session.clone(),
                polls: 0,
                last_contact: Instant::now(),
            });
        }
        self.events
            .append(Event::new(Kind::SessionCreated).runner(&name));
        Ok(json!({
            "sessionId": session,
            "ownerName": name,
            "agent": { "id": id, "name": name },
            "useFipsEncryption": false,
        }))
    }

    pub(crate) fn close_session(&mut self, id: u64) -> Result<(), Refusal> {
        let runner = self.connected(id).ok_or_else(|| gone("session"))?;
        if runner.session.take().is_none() {
            return Err(Refusal::broker(
                404,
                "RunnerSessionInvalid",
                "The runner has no session.",
            ));
        }
        let event = Event::new(Kind::SessionDeleted).runner(&runner.name);
        self.events.append(event);
        self.release_offer(id);
        Ok(())
    }

    /// Notes that a long poll begins or ends, which is how the service knows who is online.
    pub(crate) fn count_poll(&mut self, id: u64, change: PollChange) {
        if let Some(session) = self
            .connected(id)
            .and_then(|runner| runner.session.as_mut())
        {
            session.last_contact = Instant::now();
            session.polls = match change {
                PollChange::Begins => session.polls + 1,
                PollChange::Ends => session.polls.saturating_sub(1),
            };
        }
    }

    /// One look at what there is for a runner: a waiting message, else a job.
    pub(crate) fn next_message(
        &mut self,
        id: u64,
        session: &str,
        version: &str,
        base: &str,
    ) -> Result<Answer, Refusal> {
        let floor = self.versions.minimum_runtime.clone();
        let runner = self.connected(id).ok_or_else(|| gone("message"))?;
        match runner.registration {
            Registration::Deleted => return Err(gone("message")),
            Registration::Completed => return Ok(Answer::Nothing),
            Registration::Present => {}
        }
        if runner.session.as_ref().is_none_or(|own| own.id != session) {
            return Err(Refusal::broker(
                404,
                "RunnerSessionInvalid",
                "The session is not valid.",
            ));
        }
        if floor.is_some_and(|floor| super::versions::is_older(version, &floor)) {
            return Err(Refusal::broker(
                403,
                "RunnerVersionTooOld",
                format!("Runner version v{version} is deprecated and cannot receive messages."),
            ));
        }
        if let Some(message) = runner.mailbox.pop_front() {
            return Ok(Answer::Message(message));
        }
        Ok(self
            .offer_job(id, base)
            .map_or(Answer::Nothing, Answer::Message))
    }

    /// Puts a message into a runner's mailbox.
    pub(crate) fn post(&mut self, id: u64, kind: &str, body: &Value) {
        self.last_message += 1;
        let message = Message {
            message_id: self.last_message,
            message_type: kind.to_owned(),
            body: body.to_string(),
        };
        if let Some(runner) = self.connected(id) {
            runner.mailbox.push_back(message);
        }
    }
}

pub(crate) enum PollChange {
    Begins,
    Ends,
}

/// How long a poll may stay open before it is answered with nothing.
pub(crate) const LONG_POLL: Duration = Duration::from_secs(50);

fn gone(what: &str) -> Refusal {
    Refusal::broker(404, "RunnerNotFound", format!("Runner not found ({what})."))
}
