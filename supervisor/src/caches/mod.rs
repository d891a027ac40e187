//! The runtime caches: restored before the runner starts, published after its job.
//!
//! Owns when and as whom the engine (the crate `caches`) works: always in a child process, as the
//! runner's user, because a storage can block whoever touches it for as long as it likes. A cache
//! never fails a job: what cannot be restored is missing, what cannot be published is made again.

mod bar;
mod early;
mod kept;
mod listing;
mod parent;
mod worker;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use ::caches::request::{Act, Request};
use ::caches::{Event, Found, Order, Pruned, Rules, Verified};
use anyhow::Context;
use init::{Children, Deadline};
use serde::Deserialize;

use crate::config;
use crate::user::User;
pub(crate) use ::caches::{Condition, Published, Restored, Unit};
use bar::Bar;
pub(crate) use kept::Kept;
pub(crate) use listing::table;
use parent::{Running, Told};
pub(crate) use worker::work;

/// What a worker gets less than we do, to tell what it did not finish.
const LAST_WORDS: Duration = Duration::from_millis(700);

/// The cached directories and the store.
#[derive(Debug)]
pub(crate) struct Caches {
    place: ::caches::Caches,
    first: Vec<String>,
    read_only: bool,
    /// As whom the work is done; `None` is us.
    user: Option<User>,
    /// Begins the names of our drafts in the store. Who publishes early may be killed with the job;
    /// the publication at the end removes what that one leaves.
    drafts: String,
    before: RefCell<Before>,
}

/// What was there before the job, and what became of it since.
#[derive(Debug, Default)]
struct Before {
    known: BTreeSet<Unit>,
    /// What was published while the job went on.
    early: Published,
    /// What the store is known to have; see the engine's `memory`.
    memory: Option<File>,
    /// A restore that goes on while the runner listens.
    rest: Option<tokio::task::JoinHandle<Option<File>>>,
}

impl Caches {
    pub(crate) fn new(settings: &config::Caches, user: Option<User>) -> Self {
        Self {
            place: settings.place.clone(),
            first: settings.first.clone(),
            read_only: settings.mode == config::CacheMode::ReadOnly,
            user,
            drafts: format!("{:016x}-", rand::random::<u64>()),
            before: RefCell::default(),
        }
    }

    fn writing(&self, condition: Condition) -> Condition {
        Condition {
            drafts: self.drafts.clone(),
            ..condition
        }
    }

    /// The units that were there before the job, as far as it was found out.
    pub(crate) fn known(&self) -> BTreeSet<Unit> {
        self.before.borrow().known.clone()
    }

    /// Brings the local directories up to the store, as far as the time allows.
    pub(crate) async fn restore(&self, children: &Children, deadline: Deadline) -> Restored {
        let order = Order {
            first: self.first.clone(),
            read_only: self.read_only,
        };
        let started = self.start(children, Act::Restore(order), None, deadline);
        let mut running = match started {
            Ok(running) => running,
            Err(error) => return failed(&error),
        };
        let (mut units, mut bar) = (0, Bar::new("restoring"));
        let end = loop {
            match running.next(deadline).await {
                Told::Progress(amount) => bar.show(amount),
                Told::Event(Event::Known(known)) => self.before.borrow_mut().known.extend(known),
                Told::Event(Event::Restored(unit)) => {
                    tracing::debug!(%unit, "restored");
                    units += 1;
                }
                Told::Event(Event::Ready { files, bytes }) => {
                    let first = Restored {
                        units,
                        files,
                        bytes,
                        ..Restored::default()
                    };
                    let rest = finish(running, first.clone(), deadline);
                    self.before.borrow_mut().rest = Some(tokio::spawn(rest));
                    return first;
                }
                Told::Event(Event::Published { .. }) => {}
                Told::End(end) => break end,
            }
        };
        match end.and_then(|end| read(&end)) {
            Ok(restored) => {
                self.before.borrow_mut().memory = running.memory().ok();
                restored
            }
            Err(error) => Restored {
                units,
                files: bar.amount().files,
                bytes: bar.amount().bytes,
                ..failed(&error)
            },
        }
    }

    /// Keeps what the restore found out for the process that publishes.
    pub(crate) fn keep(&self, kept: &Kept) -> anyhow::Result<()> {
        match &self.before.borrow().memory {
            Some(memory) => kept.keep(&self.place, memory),
            None => Ok(()),
        }
    }

    /// Takes what the process that restored found out.
    pub(crate) fn recall(&self, kept: &Kept) -> anyhow::Result<()> {
        self.before.borrow_mut().memory = kept.recall(&self.place)?;
        Ok(())
    }

    /// The store is not any more what the restore found.
    pub(crate) fn forget(&self, kept: &Kept) -> anyhow::Result<()> {
        kept.forget(&self.place)
    }

    /// Puts what is new into the store, as far as the time allows; all that came into it since the
    /// restore.
    pub(crate) async fn publish(
        &self,
        children: &Children,
        condition: &Condition,
        deadline: Deadline,
    ) -> Published {
        let early = std::mem::take(&mut self.before.borrow_mut().early);
        let mut published = self.publish_rest(children, condition, deadline).await;
        published.units.splice(..0, early.units);
        published.files += early.files;
        published.bytes += early.bytes;
        published
    }

    async fn publish_rest(
        &self,
        children: &Children,
        condition: &Condition,
        deadline: Deadline,
    ) -> Published {
        let mut memory = self.before.borrow_mut().memory.take();
        let rest = self.before.borrow_mut().rest.take();
        if let Some(rest) = rest.filter(tokio::task::JoinHandle::is_finished) {
            memory = rest.await.ok().flatten();
        }
        let published = self
            .try_to_publish(children, (condition, memory.as_ref()), deadline)
            .await;
        if !published.denied {
            return published;
        }
        // A new store belongs to root: only root can change that, once.
        match self.hand_over(children, deadline).await {
            Ok(true) => {
                self.try_to_publish(children, (condition, memory.as_ref()), deadline)
                    .await
            }
            Ok(false) => published,
            Err(error) => {
                tracing::debug!("the store cannot be handed over: {error:#}");
                published
            }
        }
    }

    /// Gives the store to the user who publishes; whether we can.
    async fn hand_over(&self, children: &Children, deadline: Deadline) -> anyhow::Result<bool> {
        let Some(user) = self.user.as_ref().filter(|user| user.owner().is_some()) else {
            return Ok(false);
        };
        let act = Act::HandOver {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        };
        let request = self.request(act, deadline);
        let mut running = Running::start(children, (&request, None), None)?;
        loop {
            if let Told::End(end) = running.next(deadline).await {
                return end.map(|_| true);
            }
        }
    }

    async fn try_to_publish(
        &self,
        children: &Children,
        (condition, memory): (&Condition, Option<&File>),
        deadline: Deadline,
    ) -> Published {
        let act = Act::Publish(self.writing(condition.clone()));
        let mut published = Published::default();
        let mut running = match self.start(children, act, memory, deadline) {
            Ok(running) => running,
            Err(error) => {
                published.problems.push(format!("{error:#}"));
                return published;
            }
        };
        let mut bar = Bar::new("publishing");
        let end = loop {
            match running.next(deadline).await {
                Told::Progress(amount) => bar.show(amount),
                Told::Event(Event::Published { unit, files, bytes }) => {
                    published.count(&unit, files, bytes);
                }
                Told::Event(_) => {}
                Told::End(end) => break end,
            }
        };
        match end.and_then(|end| read(&end)) {
            Ok(published) => published,
            Err(error) => {
                published.problems.push(format!("{error:#}"));
                published
            }
        }
    }

    /// The complete units in the store.
    pub(crate) async fn list(
        &self,
        children: &Children,
        deadline: Deadline,
    ) -> anyhow::Result<Vec<Found>> {
        self.ask(children, (Act::List, "listing"), deadline).await
    }

    /// Compares all packs with their checksums.
    pub(crate) async fn verify(
        &self,
        children: &Children,
        only_look: bool,
        deadline: Deadline,
    ) -> anyhow::Result<Verified> {
        self.ask(children, (Act::Verify { only_look }, "verifying"), deadline)
            .await
    }

    /// Removes what the rules name and what nobody needs.
    pub(crate) async fn prune(
        &self,
        children: &Children,
        rules: Rules,
        deadline: Deadline,
    ) -> anyhow::Result<Pruned> {
        self.ask(children, (Act::Prune(rules), "pruning"), deadline)
            .await
    }

    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        children: &Children,
        (act, what): (Act, &'static str),
        deadline: Deadline,
    ) -> anyhow::Result<T> {
        let mut running = self.start(children, act, None, deadline)?;
        let mut bar = Bar::new(what);
        loop {
            match running.next(deadline).await {
                Told::Progress(amount) => bar.show(amount),
                Told::Event(_) => {}
                Told::End(end) => return read(&end?),
            }
        }
    }

    fn start(
        &self,
        children: &Children,
        act: Act,
        memory: Option<&File>,
        deadline: Deadline,
    ) -> anyhow::Result<Running> {
        let request = self.request(act, deadline);
        Running::start(children, (&request, memory), self.user.as_ref())
    }

    fn request(&self, act: Act, deadline: Deadline) -> Request {
        let budget = deadline.reserving(LAST_WORDS).remaining();
        Request {
            caches: self.place.clone(),
            milliseconds: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
            act,
        }
    }
}

/// Follows a restore that goes on while the runner listens; what it remembers. What came `first` was
/// told.
async fn finish(mut running: Running, first: Restored, deadline: Deadline) -> Option<File> {
    loop {
        match running.next(deadline).await {
            Told::Progress(_) | Told::Event(_) => {}
            Told::End(end) => match end.and_then(|end| read::<Restored>(&end)) {
                Ok(restored) => {
                    let units = restored.units.saturating_sub(first.units);
                    let files = restored.files.saturating_sub(first.files);
                    tracing::info!(units, files, problems = ?restored.problems, left_out = ?restored.left_out, "the rest of the caches is restored");
                    return running.memory().ok();
                }
                Err(error) => {
                    tracing::warn!("the rest of the caches could not be restored: {error:#}");
                    return None;
                }
            },
        }
    }
}

fn failed(error: &anyhow::Error) -> Restored {
    Restored {
        problems: vec![format!("{error:#}")],
        ..Restored::default()
    }
}

fn read<T: for<'a> Deserialize<'a>>(end: &str) -> anyhow::Result<T> {
    serde_json::from_str(end).context("the cache's worker said something unexpected")
}
