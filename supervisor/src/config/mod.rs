//! From flags and environment to plain data: everything is checked here, before anything starts.
//!
//! Owns the rules by which settings fit together. No string from the environment is looked at
//! after this module. Does not look at the machine: that a directory or a user exists is found
//! out by whoever needs it, and by `supervisor check`.

mod caches;
mod identity;
mod runner;
mod scope;
mod table;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use init::settings::{Environment, Given};

pub(crate) use caches::{Caches, Roots, root, roots, words};
pub(crate) use identity::{Credentials, GitHub, Identity, github_access};
pub(crate) use runner::{LONGEST_NAME, Name, Runner};
pub(crate) use scope::Scope;
pub(crate) use table::{FAMILIES, FOREIGN, SETTINGS};
use values::Seconds;
pub(crate) use values::{CacheMode, CachePublish, OnStop};

const DOCKER_WAIT: Duration = Duration::from_secs(120);

/// Everything that `supervisor run` needs to know.
pub(crate) struct Settings {
    pub(crate) identity: Identity,
    pub(crate) runner: Runner,
    pub(crate) docker: Option<Docker>,
    pub(crate) stop: Stop,
    pub(crate) caches: Option<Caches>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) state_file: PathBuf,
    pub(crate) ecs: Ecs,
}

/// Where ECS tells and is told about the task. It sets these variables itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ecs {
    /// `ECS_CONTAINER_METADATA_URI_V4`.
    pub(crate) metadata: Option<String>,
    /// `ECS_AGENT_URI`.
    pub(crate) agent: Option<String>,
    /// The metadata does not tell it.
    pub(crate) capacity_provider: Option<String>,
}

/// The Docker sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Docker {
    pub(crate) address: DockerAddress,
    /// Zero: it is not waited for.
    pub(crate) wait: Duration,
}

/// Where the Docker sidecar listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DockerAddress {
    Socket(PathBuf),
    Tcp(String),
}

impl fmt::Display for DockerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// What happens on a request to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) timeout: Duration,
    pub(crate) policy: OnStop,
}

impl Settings {
    /// Reads all settings of `run`; `None` when mistakes were recorded.
    pub(crate) fn read(given: &mut Given<'_>, environment: &Environment) -> Option<Self> {
        let identity = identity::read(given);
        let docker = docker(given);
        let stop = stop(given);
        let roots = caches::roots(given);
        let caches = caches::read(given, roots.clone());
        let http = given.parsed::<SocketAddr>("SUPERVISOR_HTTP_ADDR");
        let state_file = state_file(given);
        let runner = runner::read(given, environment, roots);
        let capacity_provider = given.text("RUNNER_CAPACITY_PROVIDER");
        check_group(given, identity.as_ref(), runner.as_ref());
        let variable = |name: &str| environment.get(name).map(str::to_owned);
        Some(Self {
            identity: identity?,
            runner: runner?,
            docker: docker?,
            stop: stop?,
            caches: caches?,
            http,
            state_file: state_file?,
            ecs: Ecs {
                metadata: variable("ECS_CONTAINER_METADATA_URI_V4"),
                agent: variable("ECS_AGENT_URI"),
                capacity_provider,
            },
        })
    }
}

fn check_group(given: &mut Given<'_>, identity: Option<&Identity>, runner: Option<&Runner>) {
    let (Some(github), Some(runner)) = (identity.and_then(Identity::github), runner) else {
        return;
    };
    let special = |group: &String| !group.eq_ignore_ascii_case("default");
    if matches!(github.scope, Scope::Repository { .. })
        && runner.group.as_ref().is_some_and(special)
    {
        given.mistake(
            "RUNNER_GROUP",
            "a repository has no runner groups; leave it out, or register with the organization",
        );
    }
}

/// Where the state is written.
pub(crate) fn state_file(given: &mut Given<'_>) -> Option<PathBuf> {
    absolute(given, "SUPERVISOR_STATE_FILE")
}

/// The prefix of our runners' names.
pub(crate) fn name_prefix(given: &mut Given<'_>) -> Option<String> {
    given.text("RUNNER_NAME_PREFIX")
}

fn docker(given: &mut Given<'_>) -> Option<Option<Docker>> {
    let wait = given.parsed::<Seconds>("WAIT_FOR_DOCKER");
    if wait.is_none() && given.is_given("WAIT_FOR_DOCKER") {
        return None;
    }
    let Some(text) = given.text("DOCKER_HOST") else {
        if wait.is_some_and(|wait| !wait.0.is_zero()) {
            given.mistake(
                "WAIT_FOR_DOCKER",
                "is given without DOCKER_HOST; there is nothing to wait for",
            );
            return None;
        }
        return Some(None);
    };
    let address = if let Some(path) = text
        .strip_prefix("unix://")
        .filter(|path| path.starts_with('/'))
    {
        DockerAddress::Socket(PathBuf::from(path))
    } else if text
        .strip_prefix("tcp://")
        .is_some_and(|host| host.contains(':'))
    {
        DockerAddress::Tcp(text)
    } else {
        given.mistake(
            "DOCKER_HOST",
            &format!("\"{text}\" is not valid; it must be unix:///path or tcp://host:port"),
        );
        return None;
    };
    let wait = wait.map_or(DOCKER_WAIT, |wait| wait.0);
    Some(Some(Docker { address, wait }))
}

fn stop(given: &mut Given<'_>) -> Option<Stop> {
    let timeout = given.parsed::<Seconds>("STOP_TIMEOUT");
    let policy = given.parsed::<OnStop>("ON_STOP");
    if timeout.is_some_and(|timeout| timeout.0 < Duration::from_secs(2)) {
        given.mistake(
            "STOP_TIMEOUT",
            "must be at least 2; nothing can be cleaned up in less",
        );
        return None;
    }
    Some(Stop {
        timeout: timeout?.0,
        policy: policy?,
    })
}

fn absolute(given: &mut Given<'_>, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(given.text(name)?);
    if path.is_absolute() {
        return Some(path);
    }
    given.mistake(
        name,
        &format!(
            "\"{}\" is not valid; it must be an absolute path",
            path.display()
        ),
    );
    None
}
