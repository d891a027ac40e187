//! Every setting of the supervisor, once: name, flag, aliases, default, meaning.
//!
//! The README's table is checked against this one by a test. Does not know what a value must look
//! like; see [`super`].

use init::settings::Setting;

/// Variables that begin so are ours: one that is not in the table is a mistake.
pub(crate) const FAMILIES: &[&str] = &["SUPERVISOR_", "CACHE_", "GITHUB_APP_"];

/// Variables that look like ours and belong to the runner, to a job that surrounds us, or to the
/// program that is built. Source of the `RUNNER_…` names: actions/runner `Constants.cs` and
/// `HostContext.cs`, docs.github.com "Default environment variables".
pub(crate) const FOREIGN: &[&str] = &[
    "APP_DIR",
    "APP_GID",
    "APP_UID",
    "CACHE_DIR",
    "GITHUB_ACTOR",
    "GITHUB_ENV",
    "GITHUB_JOB",
    "GITHUB_PATH",
    "GITHUB_REF",
    "GITHUB_SHA",
    "RUNNER_ALLOW_RUNASROOT",
    "RUNNER_ARCH",
    "RUNNER_CONTAINER_HOOKS",
    "RUNNER_DEBUG",
    "RUNNER_ENVIRONMENT",
    "RUNNER_LOGRETENTION",
    "RUNNER_LOGSIZE",
    "RUNNER_MANUALLY_TRAP_SIG",
    "RUNNER_OS",
    "RUNNER_PERFLOG",
    "RUNNER_TEMP",
    "RUNNER_TOOLSDIRECTORY",
    "RUNNER_TOOL_CACHE",
    "RUNNER_TRACKING_ID",
    "RUNNER_UPDATE_CA_CERTS",
    "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS",
    "RUNNER_WORKSPACE",
];

/// A setting without alias, default and secrecy; the entries below say what is different.
const PLAIN: Setting = Setting {
    name: "",
    flag: "",
    aliases: &[],
    default: None,
    secret: false,
    value: "TEXT",
    help: "",
};

pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "GITHUB_URL",
        flag: "github-url",
        aliases: &["REPO_URL"],
        value: "URL",
        help: "The repository, organization or enterprise to which the runner belongs.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_SCOPE",
        flag: "runner-scope",
        value: "SCOPE",
        help: "repo, org or enterprise; with ORG_NAME or ENTERPRISE_NAME in place of GITHUB_URL.",
        ..PLAIN
    },
    Setting {
        name: "ORG_NAME",
        flag: "org-name",
        value: "NAME",
        help: "The organization, with RUNNER_SCOPE=org.",
        ..PLAIN
    },
    Setting {
        name: "ENTERPRISE_NAME",
        flag: "enterprise-name",
        value: "NAME",
        help: "The enterprise, with RUNNER_SCOPE=enterprise.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_HOST",
        flag: "github-host",
        value: "HOST",
        help: "The GitHub host of ORG_NAME or ENTERPRISE_NAME; github.com when not given.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_API_URL",
        flag: "github-api-url",
        value: "URL",
        help: "The base of the REST API; derived from GITHUB_URL when not given.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_TIMEOUT",
        flag: "github-timeout",
        default: Some("60"),
        value: "SECONDS",
        help: "How long a GitHub that fails or limits is asked again before the task gives up.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_APP_ID",
        flag: "github-app-id",
        aliases: &["APP_ID"],
        value: "ID",
        help: "The GitHub App's id or client id.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_APP_PRIVATE_KEY",
        flag: "github-app-private-key-file",
        aliases: &["APP_PRIVATE_KEY"],
        secret: true,
        help: "The GitHub App's private key: PEM, or base64 of it.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_APP_INSTALLATION_ID",
        flag: "github-app-installation-id",
        value: "ID",
        help: "The App's installation; looked up when not given.",
        ..PLAIN
    },
    Setting {
        name: "GITHUB_PAT",
        flag: "github-pat-file",
        aliases: &["ACCESS_TOKEN"],
        secret: true,
        help: "A personal access token that may manage runners.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_TOKEN",
        flag: "runner-token-file",
        secret: true,
        help: "A registration token, made by somebody else; implies RUNNER_REGISTRATION=config.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_JITCONFIG",
        flag: "runner-jitconfig-file",
        secret: true,
        help: "A just-in-time configuration, made by somebody else; nothing is registered then.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_REGISTRATION",
        flag: "runner-registration",
        default: Some("jit"),
        value: "WAY",
        help: "How the runner is registered: jit (one call) or config (the runner's config.sh).",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_NAME",
        flag: "runner-name",
        value: "NAME",
        help: "The runner's name; RUNNER_NAME_PREFIX with the ECS task's id, or random letters, when not given.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_NAME_PREFIX",
        flag: "runner-name-prefix",
        default: Some("ecs"),
        value: "PREFIX",
        help: "What the runner's name begins with, and what sweep looks for.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_LABELS",
        flag: "runner-labels",
        aliases: &["LABELS"],
        value: "A,B",
        help: "Labels beside the default ones.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_NO_DEFAULT_LABELS",
        flag: "runner-no-default-labels",
        aliases: &["NO_DEFAULT_LABELS"],
        default: Some("off"),
        value: "on|off",
        help: "Leaves the labels self-hosted, Linux and the architecture out.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_CAPACITY_PROVIDER",
        flag: "runner-capacity-provider",
        value: "NAME",
        help: "The ECS capacity provider, for the label ecs-capacity-provider; ECS does not tell it to the task.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_GROUP",
        flag: "runner-group",
        value: "NAME",
        help: "The runner group, by name; the default group when not given.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_HOME",
        flag: "runner-home",
        default: Some("/home/runner"),
        value: "DIR",
        help: "The directory of the runner's program, with bin/Runner.Listener.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_USER",
        flag: "runner-user",
        default: Some("runner"),
        value: "USER",
        help: "The unprivileged user as whom the runner and its jobs run.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_WORKDIR",
        flag: "runner-workdir",
        default: Some("/home/runner/_work"),
        value: "DIR",
        help: "The directory of the jobs' work; the same storage at the same path as in the Docker sidecar.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_SUDO",
        flag: "runner-sudo",
        default: Some("off"),
        value: "on|off",
        help: "Lets jobs become root in their own container by sudo without a password.",
        ..PLAIN
    },
    Setting {
        name: "RUNNER_AWS_ENDPOINTS",
        flag: "runner-aws-endpoints",
        default: Some("off"),
        value: "on|off",
        help: "Leaves the variables by which the task role's credentials and the ECS metadata are found in the job's environment.",
        ..PLAIN
    },
    Setting {
        name: "DOCKER_HOST",
        flag: "docker-host",
        value: "ADDRESS",
        help: "The Docker sidecar: unix:///path or tcp://host:port; handed on to jobs.",
        ..PLAIN
    },
    Setting {
        name: "WAIT_FOR_DOCKER",
        flag: "wait-for-docker",
        value: "SECONDS",
        help: "How long Docker may take until it answers; 120 when DOCKER_HOST is set, 0 neither waits nor compares directories.",
        ..PLAIN
    },
    Setting {
        name: "STOP_TIMEOUT",
        flag: "stop-timeout",
        default: Some("30"),
        value: "SECONDS",
        help: "The task definition's stopTimeout: what is left between SIGTERM and SIGKILL.",
        ..PLAIN
    },
    Setting {
        name: "ON_STOP",
        flag: "on-stop",
        default: Some("drain"),
        value: "POLICY",
        help: "What a SIGTERM does to a running job: drain lets it go on while there is time, cancel interrupts it at once.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_STORE",
        flag: "cache-store",
        value: "DIR",
        help: "The shared store from which caches are restored and to which they are published.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_ROOTS",
        flag: "cache-roots",
        default: Some("/opt/hostedtoolcache"),
        value: "DIR:DIR",
        help: "The cached directories; the first is the tool cache of the setup actions.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_MODE",
        flag: "cache-mode",
        default: Some("read-write"),
        value: "MODE",
        help: "read-write, read-only or off.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_PUBLISH",
        flag: "cache-publish",
        default: Some("trusted"),
        value: "POLICY",
        help: "Which jobs' new tools are published: trusted, off, report or all.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_EXCLUDE",
        flag: "cache-exclude",
        value: "PATTERN:PATTERN",
        help: "Names that are neither restored nor published; NAME=PATTERN for one root by its last name.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_READ_ONLY_ROOTS",
        flag: "cache-read-only-roots",
        value: "NAME:NAME",
        help: "Last names of CACHE_ROOTS that are restored and never published.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_RESTORE_FIRST",
        flag: "cache-restore-first",
        value: "PATTERN:PATTERN",
        help: "Tools that are restored before the runner listens, as node or Python/3.12*; the rest follows meanwhile.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_RESTORE_TIMEOUT",
        flag: "cache-restore-timeout",
        default: Some("300"),
        value: "SECONDS",
        help: "After that long the job starts with what has been restored.",
        ..PLAIN
    },
    Setting {
        name: "CACHE_PUBLISH_TIMEOUT",
        flag: "cache-publish-timeout",
        default: Some("300"),
        value: "SECONDS",
        help: "After that long the task ends with what has been published; a stop leaves less.",
        ..PLAIN
    },
    Setting {
        name: "SUPERVISOR_HTTP_ADDR",
        flag: "http-addr",
        value: "IP:PORT",
        help: "Where /healthz and /metrics are served; nowhere when not given.",
        ..PLAIN
    },
    Setting {
        name: "SUPERVISOR_STATE_FILE",
        flag: "state-file",
        default: Some("/run/supervisor/state.json"),
        value: "FILE",
        help: "Where the state is written, for supervisor status.",
        ..PLAIN
    },
    Setting {
        name: "LOG_FORMAT",
        flag: "log-format",
        value: "FORMAT",
        help: "text or json; text on a terminal and json elsewhere when not given.",
        ..PLAIN
    },
    Setting {
        name: "LOG_LEVEL",
        flag: "log-level",
        default: Some("info"),
        value: "LEVEL",
        help: "error, warn, info, debug or trace.",
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::SETTINGS;

    #[test]
    fn the_readme_lists_every_setting_with_its_aliases_and_default() {
        let readme = include_str!("../../README.md");
        for setting in SETTINGS {
            let row = readme
                .lines()
                .find(|line| line.starts_with(&format!("| `{}`", setting.name)))
                .unwrap_or_else(|| panic!("README.md has no row for {}", setting.name));
            for alias in setting.aliases {
                assert!(
                    row.contains(&format!("`{alias}`")),
                    "{}: {alias}",
                    setting.name
                );
            }
            if let Some(default) = setting.default {
                assert!(
                    row.contains(&format!("`{default}`")),
                    "{}: {default}",
                    setting.name
                );
            }
        }
        let rows = readme.lines().filter(|line| {
            line.strip_prefix("| `")
                .and_then(|rest| rest.split('`').next())
                .is_some_and(|name| {
                    name.len() > 5 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                })
        });
        assert_eq!(rows.count(), SETTINGS.len(), "README.md has a row too many");
    }
}
