//! The control plane, typed: what a test may ask of the service and do to it.
//!
//! The same acts exist over HTTP below `/_double/` (see `http::control`), which calls these.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::Options;
use crate::clock::Clock;
use crate::events::{Event, EventLog};
use crate::faults::{Armed, Faults, Rule};
use crate::keys::Keys;
use crate::script::Script;
use crate::world::apps::App;
use crate::world::credentials::{Grant, Holder};
use crate::world::job_spec::JobSpec;
use crate::world::jobs::JobView;
use crate::world::runners::RunnerView;
use crate::world::scope::Scope;
use crate::world::versions::Versions;
use crate::world::{Group, World};

/// The service's inside. Shared between the server's thread and the test.
pub struct Double {
    clock: Arc<Clock>,
    events: Arc<EventLog>,
    faults: Mutex<Faults>,
    world: Mutex<World>,
    scripts: Mutex<Scripts>,
    changed: watch::Sender<u64>,
    rest_calls: AtomicI64,
    /// For the runners that register with one call.
    pub(crate) keys: Keys,
    pub(crate) long_poll: Duration,
}

#[derive(Default)]
struct Scripts {
    general: Script,
    of_runner: HashMap<String, Script>,
}

impl std::fmt::Debug for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Double").finish_non_exhaustive()
    }
}

/// A token to be made by the control plane.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TokenKind {
    /// A personal access token.
    Pat {
        #[serde(default)]
        grant: Grant,
    },
    /// An App's installation token for an account.
    Installation {
        account: String,
        #[serde(default)]
        grant: Grant,
    },
    Registration {
        scope: Scope,
    },
    Remove {
        scope: Scope,
    },
}

impl Double {
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let clock = Arc::new(Clock::default());
        let events = Arc::new(EventLog::create(options.event_log.as_deref())?);
        let mut world = World::new(Arc::clone(&clock), Arc::clone(&events));
        world.offline_after = options.offline_after;
        world.job_lock = options.job_lock.try_into()?;
        for scope in &options.scopes {
            world.add_scope(scope.clone(), Vec::new());
        }
        if let Some(pat) = &options.pat {
            let holder = Holder::Person(Grant::default());
            world.credentials.add(pat.clone(), holder, None);
        }
        world.apps.extend(options.app.clone());
        Ok(Self {
            clock,
            events,
            faults: Mutex::default(),
            world: Mutex::new(world),
            scripts: Mutex::default(),
            changed: watch::Sender::new(0),
            rest_calls: AtomicI64::new(0),
            keys: Keys::stock()?,
            long_poll: options.long_poll,
        })
    }

    /// Reads, or changes what no poll waits for.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        let mut world = lock(&self.world);
        world.expire_jobs();
        look(&mut world)
    }

    /// Changes, and wakes the long polls.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let result = self.look(change);
        self.changed.send_modify(|count| *count += 1);
        result
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How many REST calls there were, this one included.
    pub(crate) fn count_rest_call(&self) -> i64 {
        self.rest_calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn record(&self, event: Event) {
        self.events.append(event);
    }

    pub(crate) fn decide_fault(&self, method: &str, path: &str) -> Option<Rule> {
        lock(&self.faults).decide(method, path)
    }

    /// Queues a job; the answer is its id and its run's.
    pub fn queue_job(&self, spec: JobSpec) -> (String, u64) {
        self.change(|world| world.queue_job(spec))
    }

    /// Cancels on the server's side, as the web page does. `false`: nothing left to cancel.
    pub fn cancel_job(&self, id: &str) -> bool {
        self.change(|world| world.cancel_job(id))
    }

    pub fn jobs(&self) -> Vec<JobView> {
        self.look(|world| world.job_views())
    }

    pub fn job(&self, id: &str) -> Option<JobView> {
        self.look(|world| world.job(id).map(|job| job.view()))
    }

    /// What the steps of a job have printed so far, from byte `from` on.
    pub fn job_log(&self, id: &str, from: usize) -> Option<Vec<u8>> {
        self.look(|world| {
            let log = &world.job(id)?.log;
            Some(log.get(from..).unwrap_or_default().to_vec())
        })
    }

    /// The registered runners.
    pub fn runners(&self) -> Vec<RunnerView> {
        self.look(|world| world.present().map(|runner| world.view(runner)).collect())
    }

    /// Puts a broker message into the mailbox of a runner, such as `RunnerRefresh` with a
    /// `target_version`. `false`: there is no such runner.
    pub fn send_message(&self, runner: &str, kind: &str, body: &Value) -> bool {
        self.change(|world| {
            let id = world
                .present()
                .find(|known| known.name == runner)
                .map(|known| known.id);
            id.map(|id| world.post(id, kind, body)).is_some()
        })
    }

    /// Arms a fault; the answer is its id.
    pub fn fail(&self, rule: Rule) -> u64 {
        lock(&self.faults).add(rule)
    }

    pub fn clear_faults(&self) {
        lock(&self.faults).clear();
    }

    pub fn faults(&self) -> Vec<Armed> {
        lock(&self.faults).armed()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.since(0)
    }

    /// Events with a sequence number above `after`.
    pub fn events_since(&self, after: u64) -> Vec<Event> {
        self.events.since(after)
    }

    /// The first event, past or to come, for which `matches` says yes; an error that shows the
    /// last events when there is none within `limit`.
    pub fn wait_for(
        &self,
        matches: impl Fn(&Event) -> bool,
        limit: Duration,
    ) -> anyhow::Result<Event> {
        self.events.wait_for(matches, limit)
    }

    /// Moves the service's clock away from the machine's.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.clock.set_offset(seconds);
        self.change(|_| ());
    }

    /// Makes a scope known, with groups beside the default one.
    pub fn add_scope(&self, scope: Scope, groups: Vec<Group>) {
        self.change(|world| world.add_scope(scope, groups));
    }

    /// Makes an App known, or replaces it.
    pub fn add_app(&self, app: App) {
        self.change(|world| {
            world.apps.retain(|known| known.id != app.id);
            world.apps.push(app);
        });
    }

    /// Makes a token that is valid for so many seconds; a negative number makes an expired one.
    pub fn mint_token(&self, kind: TokenKind, seconds: i64) -> String {
        let (prefix, holder) = match kind {
            TokenKind::Pat { grant } => ("ghp_", Holder::Person(grant)),
            TokenKind::Installation { account, grant } => {
                ("ghs_", Holder::Installation { account, grant })
            }
            TokenKind::Registration { scope } => ("A", Holder::Registration(scope)),
            TokenKind::Remove { scope } => ("A", Holder::Removal(scope)),
        };
        self.change(|world| world.issue(prefix, holder, seconds).token)
    }

    pub fn set_versions(&self, versions: Versions) {
        self.change(|world| world.versions = versions);
    }

    /// Tells the stand-ins how to misbehave: all of them, or those of one runner name.
    pub fn script(&self, runner: Option<&str>, script: Script) {
        let mut scripts = lock(&self.scripts);
        match runner {
            Some(name) => {
                scripts.of_runner.insert(name.to_owned(), script);
            }
            None => scripts.general = script,
        }
    }

    pub(crate) fn script_of(&self, runner: &str) -> Script {
        let scripts = lock(&self.scripts);
        scripts
            .of_runner
            .get(runner)
            .unwrap_or(&scripts.general)
            .clone()
    }
}

/// A panic elsewhere must not hide what the test is about to ask.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
