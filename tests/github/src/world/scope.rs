//! Where runners are registered: a repository, an organisation or an enterprise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Written `owner/repo`, `org` or `enterprises/name`; a GitHub URL's path has the same form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    Repository { owner: String, name: String },
    Organization(String),
    Enterprise(String),
}

impl Scope {
    /// Whether a runner registered here may get a job of `repository` (`owner/repo`). An
    /// enterprise's runners take every job.
    pub(crate) fn serves(&self, repository: &str) -> bool {
        match self {
            Self::Repository { owner, name } => repository == format!("{owner}/{name}"),
            Self::Organization(organization) => repository
                .split_once('/')
                .is_some_and(|(owner, _)| owner == organization),
            Self::Enterprise(_) => true,
        }
    }

    /// The account that an App is installed on.
    pub(crate) fn account(&self) -> &str {
        match self {
            Self::Repository { owner, .. } => owner,
            Self::Organization(name) | Self::Enterprise(name) => name,
        }
    }

    /// Reads the scope off a URL such as `http://127.0.0.1:8080/owner/repo`.
    pub(crate) fn from_url(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let (_, path) = rest.split_once('/')?;
        path.trim_matches('/').parse().ok()
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [_, ""] | ["", ..] => {}
            ["enterprises", name] => return Ok(Self::Enterprise((*name).to_owned())),
            [owner, name] => {
                return Ok(Self::Repository {
                    owner: (*owner).to_owned(),
                    name: (*name).to_owned(),
                });
            }
            [name] => return Ok(Self::Organization((*name).to_owned())),
            _ => {}
        }
        Err(format!(
            "{text:?} is no scope: give OWNER/REPO, ORG or enterprises/NAME"
        ))
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { owner, name } => write!(f, "{owner}/{name}"),
            Self::Organization(name) => f.write_str(name),
            Self::Enterprise(name) => write!(f, "enterprises/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_what_it_writes() {
        for text in ["octo/hello", "octo", "enterprises/big"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["", "/", "octo/", "a/b/c"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scope_serves_the_jobs_of_its_own_repositories() {
        let scope = |text: &str| text.parse::<Scope>().unwrap();
        assert!(scope("octo/hello").serves("octo/hello"));
        assert!(!scope("octo/hello").serves("octo/other"));
        assert!(scope("octo").serves("octo/other"));
        assert!(!scope("octo").serves("cat/other"));
        assert!(scope("enterprises/big").serves("cat/other"));
    }

    #[test]
    fn the_path_of_a_url_names_the_scope() {
        let scope = Scope::from_url("http://127.0.0.1:80/octo/hello").unwrap();
        assert_eq!(scope.to_string(), "octo/hello");
        assert!(Scope::from_url("http://127.0.0.1:80").is_none());
    }
}
