//! The runner's program, its name and labels, and what its jobs may see of our environment.

use std::ffi::OsString;
use std::path::PathBuf;

use init::settings::{Environment, Given};

use super::table::SETTINGS;
use super::values::{Names, Switch};
use super::{Roots, absolute};

/// By common report; GitHub does not document the limit.
pub(crate) const LONGEST_NAME: usize = 64;

/// The runner's program and its user.
pub(crate) struct Runner {
    pub(crate) name: Name,
    pub(crate) prefix: String,
    /// All labels, the default ones included unless they are not wanted.
    pub(crate) labels: Vec<String>,
    /// The labels that were given.
    pub(crate) own_labels: Vec<String>,
    pub(crate) default_labels: bool,
    pub(crate) group: Option<String>,
    pub(crate) home: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) user: String,
    pub(crate) sudo: bool,
    pub(crate) secrets: SecretSources,
    /// Where the setup actions keep their tools.
    pub(crate) tool_cache: PathBuf,
    /// What the listener, and so every job, inherits. No secret of ours is in it.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// How the secrets came into the container, where a job that is root could follow.
pub(crate) struct SecretSources {
    pub(crate) files: Vec<PathBuf>,
    /// The names of variables: who is started in the container from outside gets them as well.
    pub(crate) variables: Vec<&'static str>,
}

/// Where the runner's name comes from.
pub(crate) enum Name {
    Given(String),
    /// The prefix and something that no other runner has.
    Unique,
}

pub(super) fn read(
    given: &mut Given<'_>,
    environment: &Environment,
    roots: Option<Roots>,
) -> Option<Runner> {
    let prefix = given.text("RUNNER_NAME_PREFIX");
    let name = match given.text("RUNNER_NAME") {
        Some(name) if name.chars().count() > LONGEST_NAME => {
            given.mistake(
                "RUNNER_NAME",
                &format!("\"{name}\" has more than {LONGEST_NAME} characters"),
            );
            None
        }
        Some(name) => Some(Name::Given(name)),
        None => Some(Name::Unique),
    };
    let own_labels = given.parsed::<Names>("RUNNER_LABELS").unwrap_or_default().0;
    let without = given.parsed::<Switch>("RUNNER_NO_DEFAULT_LABELS");
    if without == Some(Switch(true)) && own_labels.is_empty() {
        given.mistake(
            "RUNNER_NO_DEFAULT_LABELS",
            "leaves no label at all; give RUNNER_LABELS",
        );
    }
    let user = given.text("RUNNER_USER");
    if user.as_deref() == Some("root") {
        given.mistake(
            "RUNNER_USER",
            "root would give jobs the supervisor's secrets; use RUNNER_SUDO=on",
        );
    }
    let home = absolute(given, "RUNNER_HOME");
    let work = absolute(given, "RUNNER_WORKDIR");
    let sudo = given.parsed::<Switch>("RUNNER_SUDO");
    let environment = job_environment(given, environment);
    let default_labels = !without?.0;
    let mut labels: Vec<String> = Vec::new();
    if default_labels {
        labels.extend(["self-hosted", "Linux", architecture()].map(str::to_owned));
    }
    labels.extend(own_labels.iter().cloned());
    Some(Runner {
        name: name?,
        prefix: prefix?,
        labels,
        own_labels,
        default_labels,
        group: given.text("RUNNER_GROUP"),
        home: home?,
        work: work?,
        user: user?,
        sudo: sudo?.0,
        secrets: secret_sources(given),
        tool_cache: roots?.tools,
        environment: environment?,
    })
}

fn secret_sources(given: &Given<'_>) -> SecretSources {
    let secrets = SETTINGS.iter().filter(|setting| setting.secret);
    let given_ones = secrets.filter(|setting| given.is_given(setting.name));
    let (mut files, mut variables) = (Vec::new(), Vec::new());
    for setting in given_ones {
        match given.file(setting.name) {
            Some(file) => files.push(file),
            None => variables.push(setting.name),
        }
    }
    SecretSources { files, variables }
}

/// The architecture's label, as `config.sh` writes it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "ARM64",
        "arm" => "ARM",
        _ => "X64",
    }
}

/// By what the task role's credentials and the ECS metadata are found.
const AWS_ENDPOINTS: &[&str] = &[
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "ECS_AGENT_URI",
    "ECS_CONTAINER_METADATA_URI",
    "ECS_CONTAINER_METADATA_URI_V4",
];

/// The variables that a job may see: all but our secrets, copies of them, what would reconfigure
/// the runner, and the way to the task role.
fn job_environment(
    given: &mut Given<'_>,
    environment: &Environment,
) -> Option<Vec<(OsString, OsString)>> {
    let endpoints = given.parsed::<Switch>("RUNNER_AWS_ENDPOINTS")?.0;
    let secrets = SETTINGS.iter().filter(|setting| setting.secret);
    let names: Vec<&str> = secrets
        .flat_map(|setting| std::iter::once(&setting.name).chain(setting.aliases))
        .copied()
        .collect();
    let values: Vec<&str> = names
        .iter()
        .filter_map(|name| environment.get(name))
        .filter(|value| value.len() >= 8)
        .collect();
    let allowed = |name: &str, value: &OsString| {
        let plain = name.strip_suffix("_FILE").unwrap_or(name);
        let copy = value
            .to_str()
            .is_some_and(|text| values.iter().any(|secret| text.contains(secret)));
        !names.contains(&plain)
            && !copy
            && !name
                .to_ascii_uppercase()
                .starts_with("ACTIONS_RUNNER_INPUT_")
            && name != "ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED"
            && (endpoints || !AWS_ENDPOINTS.contains(&name))
    };
    let kept = environment
        .iter()
        .filter(|(name, value)| allowed(name, value));
    Some(
        kept.map(|(name, value)| (OsString::from(name), value.clone()))
            .collect(),
    )
}
