//! Our registration at GitHub: making it without leaving a ghost, and removing it.
//!
//! Owns the names and the id under which GitHub may know us. A request that was cut off may have
//! taken effect, so every name is claimed before it is sent and given up only when GitHub has
//! said that it is not ours. A request under way belongs to the duty, not to the one who waits
//! for it: a signal does not cut it off.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use init::Deadline;

use crate::config::LONGEST_NAME;
use crate::github::{Client, Error, NewRunner, Registered, Runner, retry};

/// How many names are tried when they are taken.
const NAMES: u32 = 5;
/// Longer than a runner needs from its registration to its first connection.
const DEAD_AFTER: Duration = Duration::from_secs(10);
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks whether a busy runner is idle.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_BUSY_PAUSE: Duration = Duration::from_secs(15);
/// The end of a job takes GitHub a moment; a wait that is longer is told.
const TELL_AT: Duration = Duration::from_secs(2);
/// How often a removal that was refused is tried again: what is refused now may be a token that
/// ran out or a failure on the other side, and giving up leaves a registration.
const REFUSALS: u32 = 3;
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

/// What may be ours at GitHub, or was a former life's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// Names under which GitHub may know us while we do not know the id.
    names: Rc<RefCell<BTreeSet<String>>>,
    /// Ids of runners that had our name: a killed supervisor's, or another's that is at work.
    namesakes: Rc<RefCell<BTreeSet<u64>>>,
}

impl Claims {
    pub(crate) fn add(&self, name: &str) {
        self.names.borrow_mut().insert(name.to_owned());
    }

    pub(crate) fn give_up(&self, name: &str) {
        self.names.borrow_mut().remove(name);
    }

    fn any(&self) -> Option<String> {
        self.names.borrow().first().cloned()
    }

    fn remember(&self, id: u64) {
        self.namesakes.borrow_mut().insert(id);
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<Registered, Error>>>>;

/// What is known about our registration.
enum Known {
    /// Nothing, or a name that is claimed.
    Name,
    /// A request is under way.
    Asking(Asking),
    /// It is there.
    Id(u64),
}

/// A registration that must be gone in the end.
pub(crate) struct Registration {
    client: Rc<Client>,
    claims: Claims,
    known: Known,
}

/// What became of an attempt to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Gone,
    /// It has a job and cannot be removed.
    Busy,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Registration");
        match &self.known {
            Known::Id(id) => debug.field("id", id),
            Known::Name | Known::Asking(_) => debug.field("names", &*self.claims.names.borrow()),
        };
        debug.finish()
    }
}

impl Registration {
    /// A registration that somebody is about to make under a claimed name.
    pub(crate) fn claimed(client: Rc<Client>, claims: Claims) -> Self {
        Self {
            client,
            claims,
            known: Known::Name,
        }
    }

    /// A registration by just-in-time configuration; [`Self::finish`] makes it.
    pub(crate) fn jit(
        client: Rc<Client>,
        runner: NewRunner,
        group: Option<String>,
        deadline: Deadline,
    ) -> Self {
        let claims = Claims::default();
        let asking = Box::pin(ask(
            Rc::clone(&client),
            claims.clone(),
            (runner, group),
            deadline,
        ));
        Self {
            client,
            claims,
            known: Known::Asking(asking),
        }
    }

    /// The connection by which it was made.
    pub(crate) fn client(&self) -> Rc<Client> {
        Rc::clone(&self.client)
    }

    /// Waits for the request that is under way. Cancel-safe.
    pub(crate) async fn finish(&mut self) -> Result<Registered, Error> {
        let Known::Asking(asking) = &mut self.known else {
            return Err(Error::Unexpected(
                "no registration was asked for".to_owned(),
            ));
        };
        let result = asking.await;
        self.known = match &result {
            Ok(registered) => Known::Id(registered.id),
            Err(_) => Known::Name,
        };
        result
    }

    /// The registration was found to have this id.
    pub(crate) fn found(&mut self, id: u64, name: &str) {
        self.claims.give_up(name);
        self.known = Known::Id(id);
    }

    /// Removes it; a runner with a job is left alone.
    pub(crate) async fn remove_if_idle(&mut self, deadline: Deadline) -> Result<Removal, Error> {
        if matches!(self.known, Known::Asking(_)) {
            // Half of the time is for the look by name, should no answer come.
            let half = deadline.reserving(deadline.remaining());
            if let Some(Err(error)) = half.bound(self.finish()).await {
                tracing::debug!(%error, "the registration under way failed");
            }
        }
        if let Known::Id(id) = self.known {
            match self.delete(id, deadline).await? {
                Removal::Gone => self.known = Known::Name,
                Removal::Busy => return Ok(Removal::Busy),
            }
        }
        while let Some(name) = self.claims.any() {
            let client = &self.client;
            let found = retry::until(deadline, "look for our name", async || {
                client.find(&name).await
            })
            .await?;
            // No listener of ours was ever started under it: one that is online is somebody else's.
            if let Some(runner) = found.filter(Runner::is_offline) {
                self.delete(runner.id, deadline).await?;
            }
            self.claims.give_up(&name);
        }
        Ok(Removal::Gone)
    }

    /// Removes it, for as long as `answer` as far as GitHub does not answer well. A job that it has
    /// is waited for until `lock`: GitHub takes a job that nobody reports any more for running
    /// until its lock ends, some ten minutes after the last sign of life.
    pub(crate) async fn remove(
        &mut self,
        answer: Deadline,
        lock: Deadline,
    ) -> Result<Removal, Error> {
        let (mut answer, mut pause, mut busy) = (answer, BUSY_PAUSE, false);
        loop {
            let removal = self.remove_if_idle(answer).await;
            self.remove_dead_namesakes(answer).await;
            match removal {
                Ok(Removal::Gone) => return Ok(Removal::Gone),
                Ok(Removal::Busy) => busy = true,
                // A failure during the wait is not the end of it.
                Err(error) if !busy || lock.remaining() <= pause => return Err(error),
                Err(_) => {}
            }
            if lock.remaining() <= pause {
                return Ok(Removal::Busy);
            }
            if pause == TELL_AT {
                tracing::info!(
                    "GitHub keeps the registration until its job's lock ends, some ten minutes after the job's last sign of life; waiting for it"
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_BUSY_PAUSE);
            answer = lock.at_most(LONGEST_BUSY_PAUSE);
        }
    }

    /// Removes those that had our name when we came and that nobody uses now.
    async fn remove_dead_namesakes(&self, deadline: Deadline) {
        let ids = std::mem::take(&mut *self.claims.namesakes.borrow_mut());
        for id in ids {
            let removal = async {
                if self
                    .client
                    .runner(id)
                    .await?
                    .is_some_and(|runner| runner.is_offline())
                {
                    tracing::info!(id, "removing a registration that nobody uses");
                    self.client.delete(id).await?;
                }
                Ok(())
            };
            if let Err(error) = retry::within(deadline, removal).await {
                tracing::debug!(%error, id, "cannot look for a registration that nobody uses");
            }
        }
    }

    async fn delete(&self, id: u64, deadline: Deadline) -> Result<Removal, Error> {
        let client = &self.client;
        let mut refusals = 0;
        loop {
            let deleted = retry::until(deadline, "remove the registration", async || {
                client.delete(id).await
            });
            let error = match deleted.await {
                Ok(()) => return Ok(Removal::Gone),
                Err(Error::Unprocessable(_)) => return Ok(Removal::Busy),
                Err(error) => error,
            };
            let pause = REFUSAL_PAUSE.saturating_mul(1 << refusals);
            if refusals == REFUSALS || deadline.remaining() <= pause || error.may_pass() {
                return Err(error);
            }
            refusals += 1;
            tracing::warn!(%error, "the registration's removal was refused; trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

/// One registration: another name when one is taken, another try when GitHub fails.
async fn ask(
    client: Rc<Client>,
    claims: Claims,
    (mut runner, group): (NewRunner, Option<String>),
    deadline: Deadline,
) -> Result<Registered, Error> {
    runner.group = retry::until(deadline, "find the runner group", async || {
        client.group_id(group.as_deref()).await
    })
    .await?;
    let wanted = runner.name.clone();
    let mut taken = 0;
    let mut pauses = retry::Pauses::default();
    // Whether an earlier request for this name may have taken effect.
    let mut doubt = false;
    loop {
        claims.add(&runner.name);
        let error = match retry::within(deadline, client.generate_jitconfig(&runner)).await {
            Ok(registered) => {
                claims.give_up(&runner.name);
                return Ok(registered);
            }
            Err(error) => error,
        };
        let conflict = matches!(error, Error::Conflict(_));
        doubt = doubt || error.may_have_happened();
        if !doubt {
            claims.give_up(&runner.name);
        }
        if !conflict {
            let pause = pauses.after(error, deadline, "register the runner")?;
            tokio::time::sleep(pause).await;
            if doubt {
                remove_lost(&client, &runner.name, deadline).await;
            }
            continue;
        }
        taken += 1;
        if taken == NAMES || deadline.is_over() {
            return Err(error);
        }
        if free_name(&client, &claims, &runner.name, deadline).await == Name::Taken {
            tracing::warn!(name = runner.name, "the name is taken; trying another");
            runner.name = with_suffix(&wanted);
            doubt = false;
        }
    }
}

/// A registration whose answer was lost cannot be used: its configuration was in the answer.
async fn remove_lost(client: &Client, name: &str, deadline: Deadline) {
    let removal = async {
        if let Some(runner) = client.find(name).await?.filter(Runner::is_offline) {
            let id = runner.id;
            tracing::info!(name, id, "removing a registration whose answer was lost");
            client.delete(id).await?;
        }
        Ok(())
    };
    if let Err(error) = retry::within(deadline, removal).await {
        tracing::debug!(%error, "cannot look for a registration whose answer was lost");
    }
}

/// Whether a name that was taken still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Free,
    Taken,
}

/// Frees a name that a killed supervisor left: nobody has been using it for longer than a runner
/// needs from its registration to its first connection. One that is in use is remembered, for a
/// killed one is online for a while too.
async fn free_name(client: &Client, claims: &Claims, name: &str, deadline: Deadline) -> Name {
    let watch = deadline.at_most(DEAD_AFTER);
    let mut first = None;
    loop {
        let found = match retry::within(deadline, client.find(name)).await {
            Ok(Some(found)) => found,
            Ok(None) => return Name::Free,
            Err(error) => {
                tracing::debug!(%error, "GitHub does not tell who has the name");
                return Name::Taken;
            }
        };
        let id = *first.get_or_insert(found.id);
        if found.ephemeral == Some(false) {
            return Name::Taken;
        }
        if found.id != id || !found.is_offline() {
            claims.remember(found.id);
            return Name::Taken;
        }
        if watch.is_over() {
            tracing::info!(name, id, "removing a registration that nobody uses");
            return match retry::within(deadline, client.delete(id)).await {
                Ok(()) => Name::Free,
                Err(_) => Name::Taken,
            };
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

/// The name with random digits, no longer than GitHub allows.
pub(crate) fn with_suffix(name: &str) -> String {
    let suffix = format!("-{:012x}", rand::random::<u64>() >> 16);
    let kept: String = name.chars().take(LONGEST_NAME - suffix.len()).collect();
    kept + &suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_suffix_is_another_name_and_not_too_long() {
        for name in ["runner".to_owned(), "x".repeat(64)] {
            let other = with_suffix(&name);
            assert_ne!(other, name);
            assert!(other.len() <= LONGEST_NAME, "{other}");
            assert!(other.starts_with(&name[..6]), "{other}");
        }
    }
}
