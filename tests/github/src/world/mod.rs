//! Everything the service knows, and the rules by which it changes.
//!
//! Owns state and rules only: no request, no header and no thread is known here, and every
//! method is synchronous. One file per noun adds its methods to [`World`]; a method that refuses
//! says so with a [`Refusal`](refusal::Refusal), which is already what the caller will read.

pub(crate) mod apps;
pub(crate) mod credentials;
pub(crate) mod job_spec;
pub(crate) mod jobs;
pub(crate) mod refusal;
pub(crate) mod runners;
pub(crate) mod scope;
pub(crate) mod sessions;
pub(crate) mod versions;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::events::EventLog;
use apps::{App, Installation};
use credentials::Credentials;
use jobs::Job;
use runners::{DEFAULT_GROUP, Runner};
use scope::Scope;
use versions::Versions;

/// A runner group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: u64,
    pub name: String,
}

pub(crate) struct World {
    clock: Arc<Clock>,
    events: Arc<EventLog>,
    scopes: HashMap<Scope, Vec<Group>>,
    pub(crate) credentials: Credentials,
    pub(crate) apps: Vec<App>,
    pub(crate) installations: Vec<Installation>,
    runners: Vec<Runner>,
    jobs: Vec<Job>,
    pub(crate) versions: Versions,
    pub(crate) offline_after: Duration,
    pub(crate) job_lock: SignedDuration,
    last_runner: u64,
    last_message: u64,
    last_run: u64,
}

impl World {
    pub(crate) fn new(clock: Arc<Clock>, events: Arc<EventLog>) -> Self {
        Self {
            clock,
            events,
            scopes: HashMap::new(),
            credentials: Credentials::default(),
            apps: Vec::new(),
            installations: Vec::new(),
            runners: Vec::new(),
            jobs: Vec::new(),
            versions: Versions::default(),
            offline_after: Duration::from_secs(2),
            job_lock: SignedDuration::from_mins(10),
            // Numbers that cannot be taken for each other in a log.
            last_runner: 15,
            last_message: 0,
            last_run: 7_000,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn lock_end(&self) -> Timestamp {
        self.now()
            .saturating_add(self.job_lock)
            .unwrap_or(Timestamp::MAX)
    }

    /// Makes a scope known. It always has the default group; a repository has no other.
    pub(crate) fn add_scope(&mut self, scope: Scope, more: Vec<Group>) {
        self.install_on(&scope);
        let groups = self.scopes.entry(scope).or_insert_with(|| {
            vec![Group {
                id: DEFAULT_GROUP,
                name: "Default".to_owned(),
            }]
        });
        groups.extend(more);
    }

    pub(crate) fn groups(&self, scope: &Scope) -> &[Group] {
        self.scopes.get(scope).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn runner_mut(&mut self, id: u64) -> Option<&mut Runner> {
        self.runners.iter_mut().find(|runner| runner.id == id)
    }

    pub(crate) fn runner_by_client(&self, client_id: &str) -> Option<&Runner> {
        self.runners
            .iter()
            .find(|runner| runner.client_id == client_id)
    }

    pub(crate) fn runner_name(&self, id: u64) -> Option<String> {
        self.runners
            .iter()
            .find(|runner| runner.id == id)
            .map(|runner| runner.name.clone())
    }
}

pub(crate) fn random_letters(count: usize) -> String {
    rand::rng()
        .sample_iter(rand::distr::Alphanumeric)
        .take(count)
        .map(char::from)
        .collect()
}

/// A version 4 UUID.
pub(crate) fn random_guid() -> String {
    let number = rand::rng().random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{number:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}
