//! The variables of a step: what it inherits, what the job sets, what the runner fixes.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::Value;

use super::Whereabouts;
use super::directories::Directories;
use crate::environment::Environment;
use crate::http::architecture;

pub(crate) type Variables = BTreeMap<OsString, OsString>;

/// The worker's own variables, which are the listener's, and on top those of the job.
pub(crate) fn base(environment: &Environment, job: &BTreeMap<String, String>) -> Variables {
    let inherited = environment
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let of_job = job.iter().map(|(name, value)| (name.into(), value.into()));
    inherited.chain(of_job).collect()
}

/// What no workflow can override. `mark` tells the job's processes from all others.
pub(crate) fn fixed(
    runner: &Whereabouts,
    github: &Value,
    directories: &Directories,
    mark: &str,
) -> Variables {
    let text = |name: &str| github[name].as_str().unwrap_or_default().to_owned();
    let repository = text("repository");
    let owner = repository.split('/').next().unwrap_or_default().to_owned();
    let api = text("api_url");
    let words = [
        ("CI", "true".to_owned()),
        ("GITHUB_ACTIONS", "true".to_owned()),
        ("GITHUB_ACTION", "__run".to_owned()),
        ("GITHUB_ACTOR", "double".to_owned()),
        ("GITHUB_EVENT_NAME", "workflow_dispatch".to_owned()),
        ("GITHUB_GRAPHQL_URL", api.replace("/api/v3", "/api/graphql")),
        ("GITHUB_API_URL", api),
        ("GITHUB_JOB", "job".to_owned()),
        ("GITHUB_REF", "refs/heads/main".to_owned()),
        ("GITHUB_REF_NAME", "main".to_owned()),
        ("GITHUB_REPOSITORY", repository),
        ("GITHUB_REPOSITORY_OWNER", owner),
        ("GITHUB_RUN_ATTEMPT", "1".to_owned()),
        ("GITHUB_RUN_ID", text("run_id")),
        ("GITHUB_RUN_NUMBER", "1".to_owned()),
        ("GITHUB_SERVER_URL", text("server_url")),
        ("GITHUB_SHA", "0".repeat(40)),
        ("GITHUB_WORKFLOW", "workflow".to_owned()),
        ("RUNNER_ARCH", architecture().to_uppercase()),
        ("RUNNER_ENVIRONMENT", "self-hosted".to_owned()),
        ("RUNNER_NAME", runner.name.clone()),
        ("RUNNER_OS", "Linux".to_owned()),
        ("RUNNER_TRACKING_ID", mark.to_owned()),
    ];
    let paths = [
        ("GITHUB_EVENT_PATH", &directories.event),
        ("GITHUB_WORKSPACE", &directories.workspace),
        ("RUNNER_TEMP", &directories.temp),
        ("RUNNER_TOOL_CACHE", &directories.tools),
        ("RUNNER_WORKSPACE", &directories.pipeline),
    ];
    let words = words.map(|(name, value)| (name.into(), value.into()));
    let paths = paths.map(|(name, path)| (name.into(), path.clone().into_os_string()));
    words.into_iter().chain(paths).collect()
}
