//! To whom a runner belongs, and where GitHub's API is.
//!
//! Source: docs "REST API endpoints for self-hosted runners"; actions/runner `UrlUtil.cs` for
//! which hosts are GitHub's own.

use std::fmt;

use reqwest::Url;

/// Whose runner it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Repository { owner: String, name: String },
    Organization(String),
    Enterprise(String),
}

impl Scope {
    /// The prefix of this scope's REST routes, without a slash at its end.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Repository { owner, name } => format!("/repos/{owner}/{name}"),
            Self::Organization(name) => format!("/orgs/{name}"),
            Self::Enterprise(name) => format!("/enterprises/{name}"),
        }
    }

    /// The account on which an App must be installed.
    pub(crate) fn account(&self) -> &str {
        match self {
            Self::Repository { owner, .. } => owner,
            Self::Organization(name) | Self::Enterprise(name) => name,
        }
    }

    /// What a credential must be allowed to manage this scope's runners.
    pub(crate) fn permission(&self) -> &'static str {
        match self {
            Self::Repository { .. } => {
                "repository permission \"Administration\": write (classic token: scope repo, and admin of the repository)"
            }
            Self::Organization(_) => {
                "organization permission \"Self-hosted runners\": write (classic token: scope admin:org)"
            }
            Self::Enterprise(_) => {
                "a classic token with scope manage_runners:enterprise (Apps and fine-grained tokens cannot)"
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { owner, name } => write!(f, "repository {owner}/{name}"),
            Self::Organization(name) => write!(f, "organization {name}"),
            Self::Enterprise(name) => write!(f, "enterprise {name}"),
        }
    }
}

/// Reads a web address of GitHub. The error completes "must be …".
pub(crate) fn parse(url: &Url) -> Result<Scope, &'static str> {
    const SHAPE: &str =
        "https://HOST/OWNER/REPOSITORY, https://HOST/ORGANIZATION or https://HOST/enterprises/NAME";
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(SHAPE);
    }
    let segments: Vec<&str> = url
        .path_segments()
        .into_iter()
        .flatten()
        .filter(|segment| !segment.is_empty())
        .collect();
    match segments.as_slice() {
        ["enterprises", name] => Ok(Scope::Enterprise((*name).to_owned())),
        [organization] => Ok(Scope::Organization((*organization).to_owned())),
        [owner, name] => Ok(Scope::Repository {
            owner: (*owner).to_owned(),
            name: name.strip_suffix(".git").unwrap_or(name).to_owned(),
        }),
        _ => Err(SHAPE),
    }
}

/// The base of the REST API that belongs to a web address: `https://api.HOST` for GitHub's own
/// hosts, `…/api/v3` on the same host for GitHub Enterprise Server.
pub(crate) fn api_of(web: &Url) -> String {
    let host = web.host_str().unwrap_or_default();
    let port = web
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let scheme = web.scheme();
    let hosted = matches!(host, "github.com" | "www.github.com" | "github.localhost")
        || host.ends_with(".ghe.com")
        || host.ends_with(".ghe.localhost");
    if hosted {
        let host = host.strip_prefix("www.").unwrap_or(host);
        format!("{scheme}://api.{host}{port}")
    } else {
        format!("{scheme}://{host}{port}/api/v3")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_address_says_whose_runner_it_is() {
        for (url, scope) in [
            ("https://github.com/octo/demo", Some("repository octo/demo")),
            (
                "https://github.com/octo/demo.git/",
                Some("repository octo/demo"),
            ),
            ("https://github.com/octo", Some("organization octo")),
            ("https://github.com/enterprises/big", Some("enterprise big")),
            ("https://github.com/", None),
            ("https://github.com/octo/demo/actions", None),
            ("ftp://github.com/octo", None),
        ] {
            let parsed = parse(&Url::parse(url).unwrap());
            assert_eq!(
                parsed.ok().map(|scope| scope.to_string()).as_deref(),
                scope,
                "{url}"
            );
        }
    }

    #[test]
    fn the_api_is_found_beside_or_below_the_web_address() {
        for (web, api) in [
            ("https://github.com/octo", "https://api.github.com"),
            ("https://www.github.com/octo", "https://api.github.com"),
            ("https://octo.ghe.com/octo", "https://api.octo.ghe.com"),
            (
                "https://git.example.org/octo",
                "https://git.example.org/api/v3",
            ),
            (
                "http://127.0.0.1:8080/octo/demo",
                "http://127.0.0.1:8080/api/v3",
            ),
        ] {
            assert_eq!(api_of(&Url::parse(web).unwrap()), api, "{web}");
        }
    }
}
