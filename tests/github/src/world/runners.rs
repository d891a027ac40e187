//! Registrations: making, finding and removing runners, and the configuration they are given.
//!
//! Does not own sessions, messages and jobs; a runner only says which it has.

use std::collections::VecDeque;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::World;
use super::refusal::Refusal;
use super::scope::Scope;
use super::sessions::Message;
use crate::events::{Event, Kind};
use crate::rsa_key::{PublicKey, RsaKey};

/// The only group of a repository, and the default one elsewhere.
pub(crate) const DEFAULT_GROUP: u64 = 1;
/// By common report; the limit is not documented.
const LONGEST_NAME: usize = 64;
const LONGEST_LABEL: usize = 256;

#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) scope: Scope,
    pub(crate) group: u64,
    pub(crate) labels: Vec<String>,
    pub(crate) ephemeral: bool,
    /// Reported by the runner itself.
    pub(crate) version: Option<String>,
    pub(crate) client_id: String,
    pub(crate) public_key: PublicKey,
    pub(crate) registration: Registration,
    pub(crate) session: Option<Session>,
    pub(crate) mailbox: VecDeque<Message>,
    /// The id of the job that it was offered or runs.
    pub(crate) job: Option<String>,
    /// An ephemeral runner that has taken its job takes no other, and its configuration is
    /// spent.
    pub(crate) consumed: bool,
}

/// The service forgets a registration in two ways, and a connected runner can tell which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    Present,
    /// Its one job is done; polls just stay unanswered.
    Completed,
    /// By REST or by the runner itself; the next poll is told so.
    Deleted,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) polls: u32,
    pub(crate) last_contact: Instant,
}

/// What the control plane tells about a runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunnerView {
    pub id: u64,
    pub name: String,
    pub scope: Scope,
    pub group: u64,
    pub labels: Vec<String>,
    pub ephemeral: bool,
    pub online: bool,
    pub busy: bool,
}

/// What a new runner is to be.
pub(crate) struct Application {
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) group: u64,
    pub(crate) labels: Vec<String>,
    pub(crate) ephemeral: bool,
    pub(crate) version: Option<String>,
}

impl World {
    pub(crate) fn present(&self) -> impl Iterator<Item = &Runner> {
        self.runners
            .iter()
            .filter(|runner| runner.registration == Registration::Present)
    }

    pub(crate) fn runner(&self, scope: &Scope, id: u64) -> Result<&Runner, Refusal> {
        self.present()
            .find(|runner| runner.id == id && runner.scope == *scope)
            .ok_or_else(Refusal::not_found)
    }

    /// Registers a runner. `Err` carries 404 for an unknown group, 409 for a taken name and 422
    /// for everything that does not validate.
    pub(crate) fn register(
        &mut self,
        wanted: Application,
        public_key: PublicKey,
    ) -> Result<&Runner, Refusal> {
        if wanted.name.is_empty() || wanted.name.chars().count() > LONGEST_NAME {
            return Err(Refusal::invalid_field(
                "name",
                "must have 1 to 64 characters",
            ));
        }
        if let Some(label) = wanted
            .labels
            .iter()
            .find(|label| label.is_empty() || label.len() > LONGEST_LABEL)
        {
            let problem = format!("has a label of {} bytes; 1 to 256 are allowed", label.len());
            return Err(Refusal::invalid_field("labels", &problem));
        }
        let groups = self
            .scopes
            .get(&wanted.scope)
            .ok_or_else(Refusal::not_found)?;
        if !groups.iter().any(|group| group.id == wanted.group) {
            return Err(Refusal::not_found());
        }
        if self
            .present()
            .any(|runner| runner.scope == wanted.scope && runner.name == wanted.name)
        {
            return Err(Refusal::rest(
                409,
                format!(
                    "Already exists - A runner with the name {} already exists.",
                    wanted.name
                ),
            ));
        }
        self.last_runner += 1;
        self.events
            .append(Event::new(Kind::RunnerRegistered).runner(&wanted.name));
        self.runners.push(Runner {
            id: self.last_runner,
            name: wanted.name,
            scope: wanted.scope,
            group: wanted.group,
            labels: wanted.labels,
            ephemeral: wanted.ephemeral,
            version: wanted.version,
            client_id: super::random_guid(),
            public_key,
            registration: Registration::Present,
            session: None,
            mailbox: VecDeque::new(),
            job: None,
            consumed: false,
        });
        self.runners.last().ok_or_else(Refusal::not_found)
    }

    /// `config.sh --replace`: a new registration under the id of the one whose name it takes.
    pub(crate) fn replace(
        &mut self,
        id: u64,
        wanted: Application,
        public_key: PublicKey,
    ) -> Result<&Runner, Refusal> {
        let old = self.runner(&wanted.scope, id)?;
        if old.name != wanted.name {
            return Err(Refusal::invalid_field("runner_id", "has another name"));
        }
        self.forget(id, Registration::Deleted, "replaced");
        self.runners.retain(|runner| runner.id != id);
        let fresh = self.register(wanted, public_key)?.id;
        let runner = self.runner_mut(fresh).ok_or_else(Refusal::not_found)?;
        runner.id = id;
        Ok(runner)
    }

    /// A runner by its id alone, registered or not.
    pub(crate) fn any_runner(&self, id: u64) -> Result<&Runner, Refusal> {
        self.runners
            .iter()
            .find(|runner| runner.id == id)
            .ok_or_else(Refusal::not_found)
    }

    /// Takes a registration away. A busy runner's stays: 422.
    pub(crate) fn delete_runner(&mut self, scope: &Scope, id: u64) -> Result<String, Refusal> {
        let runner = self.runner(scope, id)?;
        let name = runner.name.clone();
        if self.is_busy(runner) {
            return Err(Refusal::rest(
                422,
                format!("Runner \"{name}\" is currently running a job and cannot be deleted."),
            ));
        }
        self.forget(id, Registration::Deleted, "deleted");
        Ok(name)
    }

    pub(crate) fn forget(&mut self, id: u64, how: Registration, why: &str) {
        let Some(runner) = self.runners.iter_mut().find(|runner| runner.id == id) else {
            return;
        };
        runner.registration = how;
        let event = Event::new(Kind::RunnerRemoved).runner(&runner.name);
        self.events.append(event.detail(why));
        self.release_offer(id);
    }

    pub(crate) fn is_busy(&self, runner: &Runner) -> bool {
        runner.job.as_ref().is_some_and(|job| self.is_running(job))
    }

    pub(crate) fn is_online(&self, runner: &Runner) -> bool {
        runner.session.as_ref().is_some_and(|session| {
            session.polls > 0 || session.last_contact.elapsed() < self.offline_after
        })
    }

    pub(crate) fn view(&self, runner: &Runner) -> RunnerView {
        RunnerView {
            id: runner.id,
            name: runner.name.clone(),
            scope: runner.scope.clone(),
            group: runner.group,
            labels: runner.labels.clone(),
            ephemeral: runner.ephemeral,
            online: self.is_online(runner),
            busy: self.is_busy(runner),
        }
    }

    /// The runner object of the REST API.
    pub(crate) fn describe(&self, runner: &Runner) -> Value {
        let labels: Vec<Value> = runner
            .labels
            .iter()
            .enumerate()
            .map(|(index, label)| {
                let own = ["self-hosted", "linux", "x64", "arm64"];
                let fixed = own.contains(&label.to_ascii_lowercase().as_str());
                let kind = if fixed { "read-only" } else { "custom" };
                json!({ "id": index + 1, "name": label, "type": kind })
            })
            .collect();
        json!({
            "id": runner.id,
            "runner_group_id": runner.group,
            "name": runner.name,
            "os": "linux",
            "status": if self.is_online(runner) { "online" } else { "offline" },
            "busy": self.is_busy(runner),
            "ephemeral": runner.ephemeral,
            "version": runner.version,
            "labels": labels,
        })
    }
}

/// The blob that starts a runner without `config.sh`: base64 of a JSON map from file name to
/// base64 of the file. Unlike the files that `config.sh` writes, the real ones have keys in
/// PascalCase and strings for everything, booleans and numbers included.
pub(crate) fn jit_configuration(
    runner: &Runner,
    key: &RsaKey,
    base: &str,
    work_folder: &str,
) -> String {
    let settings = json!({
        "AgentId": runner.id.to_string(),
        "AgentName": runner.name,
        "DisableUpdate": "True",
        "Ephemeral": "True",
        "PoolId": runner.group.to_string(),
        "PoolName": "Default",
        "ServerUrl": format!("{base}/_pipelines/"),
        "ServerUrlV2": format!("{base}/"),
        "UseV2Flow": "True",
        "WorkFolder": work_folder,
    });
    let credentials = json!({
        "Scheme": "OAuth",
        "Data": {
            "ClientId": runner.client_id,
            "AuthorizationUrl": format!("{base}/_apis/oauth2/token"),
            "RequireFipsCryptography": "True",
        },
    });
    let mut files = Map::new();
    let mut add = |name: &str, content: String| {
        files.insert(name.to_owned(), Value::String(STANDARD.encode(content)));
    };
    add(".runner", format!("\u{feff}{settings}"));
    add(".credentials", format!("\u{feff}{credentials}"));
    add(
        ".credentials_rsaparams",
        serde_json::to_string(key).unwrap_or_default(),
    );
    STANDARD.encode(Value::Object(files).to_string())
}
