//! By what GitHub knows us, whose runner it is, and who registers it.
//!
//! Owns the rules that make exactly one of the ways to be known valid.

use std::time::Duration;

use init::settings::{Given, Secret};
use reqwest::Url;

use super::Scope;
use super::scope;
use super::values::{Seconds, Way};

/// Where the runner's registration comes from.
pub(crate) enum Identity {
    /// One call makes it: a just-in-time configuration.
    Jit(GitHub),
    /// The runner's own `config.sh` makes it.
    Config(GitHub),
    /// Somebody else made it and will know when it is over.
    Given(Secret),
}

impl Identity {
    /// How GitHub is reached, when we are the ones who register.
    pub(crate) fn github(&self) -> Option<&GitHub> {
        match self {
            Self::Jit(github) | Self::Config(github) => Some(github),
            Self::Given(_) => None,
        }
    }
}

/// How GitHub is reached.
#[derive(Clone)]
pub(crate) struct GitHub {
    /// The web address that `config.sh` is given.
    pub(crate) web: Url,
    /// The base of the REST API, without a slash at its end.
    pub(crate) api: String,
    pub(crate) scope: Scope,
    pub(crate) credentials: Credentials,
    /// How long it is asked again at the start.
    pub(crate) timeout: Duration,
}

/// By what GitHub knows us.
#[derive(Clone)]
pub(crate) enum Credentials {
    App {
        id: String,
        key: Secret,
        installation: Option<u64>,
    },
    Pat(Secret),
    /// Registers and removes runners, and nothing else.
    Registration(Secret),
}

/// How GitHub is reached, for commands that do not register a runner.
pub(crate) fn github_access(given: &mut Given<'_>) -> Option<GitHub> {
    match read(given)? {
        Identity::Jit(github) | Identity::Config(github) => Some(github),
        Identity::Given(_) => {
            given.mistake(
                "RUNNER_JITCONFIG",
                "does not allow to ask GitHub anything; give GITHUB_PAT or GITHUB_APP_ID",
            );
            None
        }
    }
}

pub(super) fn read(given: &mut Given<'_>) -> Option<Identity> {
    let jitconfig = given.secret("RUNNER_JITCONFIG");
    let credentials = credentials(given, jitconfig.is_some());
    let way = given.parsed::<Way>("RUNNER_REGISTRATION");
    if let Some(jitconfig) = jitconfig {
        return Some(Identity::Given(jitconfig));
    }
    let web = web_address(given);
    let api = api_address(given, web.as_ref().map(|(web, _)| web));
    let timeout = given.parsed::<Seconds>("GITHUB_TIMEOUT");
    let (web, scope) = web?;
    let github = GitHub {
        web,
        api: api?,
        scope,
        credentials: credentials?,
        timeout: timeout?.0,
    };
    let by_token = matches!(github.credentials, Credentials::Registration(_));
    match way? {
        Way::Jit if by_token && given.is_given("RUNNER_REGISTRATION") => {
            given.mistake(
                "RUNNER_REGISTRATION",
                "jit needs GITHUB_PAT or GITHUB_APP_ID; with RUNNER_TOKEN it can only be config",
            );
            None
        }
        Way::Jit if !by_token => Some(Identity::Jit(github)),
        Way::Jit | Way::Config => Some(Identity::Config(github)),
    }
}

/// Exactly one of the four ways to be known by GitHub.
fn credentials(given: &mut Given<'_>, jitconfig: bool) -> Option<Credentials> {
    const WAYS: &str =
        "GITHUB_PAT, GITHUB_APP_ID with GITHUB_APP_PRIVATE_KEY, RUNNER_TOKEN or RUNNER_JITCONFIG";
    let id = given.text("GITHUB_APP_ID");
    let key = given.secret("GITHUB_APP_PRIVATE_KEY");
    let installation = given.parsed::<u64>("GITHUB_APP_INSTALLATION_ID");
    let app = id.is_some() || key.is_some();
    let pat = given.secret("GITHUB_PAT");
    let token = given.secret("RUNNER_TOKEN");
    let ways = [app, pat.is_some(), token.is_some(), jitconfig];
    match ways.iter().filter(|given| **given).count() {
        0 => {
            // A file that cannot be read was reported already.
            let tried = ["GITHUB_PAT", "RUNNER_TOKEN", "RUNNER_JITCONFIG"];
            if !tried.iter().any(|name| given.is_given(name)) {
                given.mistake("GITHUB_PAT", &format!("no credentials; give {WAYS}"));
            }
            return None;
        }
        1 => {}
        _ => {
            given.mistake(
                "GITHUB_PAT",
                &format!("more than one of {WAYS} is given; keep one"),
            );
            return None;
        }
    }
    if app {
        if id.is_none() {
            given.mistake("GITHUB_APP_ID", "is missing beside GITHUB_APP_PRIVATE_KEY");
        }
        if key.is_none() && !given.is_given("GITHUB_APP_PRIVATE_KEY") {
            given.mistake("GITHUB_APP_PRIVATE_KEY", "is missing beside GITHUB_APP_ID");
        }
        let key = private_key(given, &key?)?;
        return Some(Credentials::App {
            id: id?,
            key,
            installation,
        });
    }
    pat.map(Credentials::Pat)
        .or_else(|| token.map(Credentials::Registration))
}

/// The key as PEM: task definitions cannot hold line ends, so base64 of it and `\n` written out
/// are understood too.
fn private_key(given: &mut Given<'_>, key: &Secret) -> Option<Secret> {
    let pem = crate::github::pem_of(key);
    if pem.is_none() {
        given.mistake(
            "GITHUB_APP_PRIVATE_KEY",
            "is no RSA key; give the PEM file that GitHub made, or base64 of it",
        );
    }
    pem
}

fn web_address(given: &mut Given<'_>) -> Option<(Url, Scope)> {
    let text = match (given.text("GITHUB_URL"), given.text("RUNNER_SCOPE")) {
        (Some(url), wanted) => {
            if let Some(wanted) = wanted {
                check_scope(given, &url, &wanted);
            }
            url
        }
        (None, Some(scope)) => url_of_scope(given, &scope)?,
        (None, None) => {
            given.mistake(
                "GITHUB_URL",
                "is missing; give the web address of a repository, organization or enterprise",
            );
            return None;
        }
    };
    let parsed = Url::parse(&text)
        .map_err(|_| "a web address")
        .and_then(|url| {
            let scope = scope::parse(&url)?;
            Ok((url, scope))
        });
    match parsed {
        Ok(both) => Some(both),
        Err(expected) => {
            given.mistake(
                "GITHUB_URL",
                &format!("\"{text}\" is not valid; it must be {expected}"),
            );
            None
        }
    }
}

fn check_scope(given: &mut Given<'_>, url: &str, wanted: &str) {
    let Ok(Ok(scope)) = Url::parse(url).map(|url| scope::parse(&url)) else {
        return;
    };
    let fits = match scope {
        Scope::Repository { .. } => wanted.starts_with("repo"),
        Scope::Organization(_) => wanted.starts_with("org"),
        Scope::Enterprise(_) => wanted.starts_with("ent"),
    };
    if !fits {
        given.mistake(
            "RUNNER_SCOPE",
            &format!("{wanted} contradicts GITHUB_URL, which names the {scope}"),
        );
    }
}

/// The web address that the settings of other images describe.
fn url_of_scope(given: &mut Given<'_>, scope: &str) -> Option<String> {
    let host = given
        .text("GITHUB_HOST")
        .unwrap_or_else(|| "github.com".to_owned());
    let base = if host.contains("://") {
        host.trim_end_matches('/').to_owned()
    } else {
        format!("https://{host}")
    };
    let (name, path) = match scope {
        "org" | "organization" => ("ORG_NAME", ""),
        "ent" | "enterprise" => ("ENTERPRISE_NAME", "enterprises/"),
        "repo" | "repository" => {
            given.mistake("GITHUB_URL", "is missing; RUNNER_SCOPE=repo needs it");
            return None;
        }
        other => {
            given.mistake(
                "RUNNER_SCOPE",
                &format!("\"{other}\" is not valid; it must be repo, org or enterprise"),
            );
            return None;
        }
    };
    let account = given.text(name);
    if account.is_none() {
        given.mistake(name, &format!("is missing; RUNNER_SCOPE={scope} needs it"));
    }
    Some(format!("{base}/{path}{}", account?))
}

fn api_address(given: &mut Given<'_>, web: Option<&Url>) -> Option<String> {
    let Some(text) = given.text("GITHUB_API_URL") else {
        return web.map(scope::api_of);
    };
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Some(text.trim_end_matches('/').to_owned())
        }
        _ => {
            given.mistake(
                "GITHUB_API_URL",
                &format!("\"{text}\" is not valid; it must be a web address"),
            );
            None
        }
    }
}
