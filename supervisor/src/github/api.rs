//! The calls: paths, bodies and answers.
//!
//! Source: docs "REST API endpoints for self-hosted runners" and "… runner groups".

use init::settings::Secret;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;

use super::{Client, Error};
use crate::config::Scope;

/// The default group: the only one of a repository.
const DEFAULT_GROUP: u64 = 1;

/// What a new runner is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewRunner {
    pub(crate) name: String,
    pub(crate) group: u64,
    pub(crate) labels: Vec<String>,
    pub(crate) work_folder: String,
}

/// A registration, and the configuration with which the runner can use it once.
pub(crate) struct Registered {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) configuration: Secret,
}

/// A runner, as GitHub lists it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Runner {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) busy: bool,
    /// Older versions of GitHub Enterprise Server do not say.
    pub(crate) ephemeral: Option<bool>,
}

impl Runner {
    pub(crate) fn is_offline(&self) -> bool {
        self.status == "offline" && !self.busy
    }
}

/// When a version of the runner is refused. A date that is missing is not set yet.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Deprecations {
    #[serde(default)]
    pub(crate) runtime_deprecates_at: Option<String>,
    #[serde(default)]
    pub(crate) registration_deprecates_at: Option<String>,
}

impl Client {
    /// Makes a registration that is good for one start and one job.
    pub(crate) async fn generate_jitconfig(&self, runner: &NewRunner) -> Result<Registered, Error> {
        #[derive(Deserialize)]
        struct Answer {
            runner: Runner,
            encoded_jit_config: String,
        }
        let body = json!({
            "name": runner.name,
            "runner_group_id": runner.group,
            "labels": runner.labels,
            "work_folder": runner.work_folder,
        });
        let path = format!("{}/actions/runners/generate-jitconfig", self.scope().path());
        let answer: Answer = self.call(Method::POST, &path, Some(&body)).await?.read()?;
        Ok(Registered {
            id: answer.runner.id,
            name: answer.runner.name,
            configuration: Secret::new(answer.encoded_jit_config),
        })
    }

    /// A token with which `config.sh` registers a runner, good for an hour.
    pub(crate) async fn registration_token(&self) -> Result<Secret, Error> {
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        if let super::Caller::Registration(token) = &self.caller {
            return Ok(token.clone());
        }
        let path = format!("{}/actions/runners/registration-token", self.scope().path());
        let answer: Answer = self.call(Method::POST, &path, None).await?.read()?;
        Ok(Secret::new(answer.token))
    }

    /// The id of a runner group; `None` is the default one.
    pub(crate) async fn group_id(&self, name: Option<&str>) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Group {
            id: u64,
            name: String,
        }
        #[derive(Deserialize)]
        struct Page {
            runner_groups: Vec<Group>,
        }
        let Some(name) = name else {
            return Ok(DEFAULT_GROUP);
        };
        if matches!(self.scope(), Scope::Repository { .. }) {
            return Ok(DEFAULT_GROUP);
        }
        for page in 1.. {
            let path = format!(
                "{}/actions/runner-groups?per_page=100&page={page}",
                self.scope().path()
            );
            let answer = self.call(Method::GET, &path, None).await?;
            let groups = answer.read::<Page>()?.runner_groups;
            if let Some(group) = groups
                .iter()
                .find(|group| group.name.eq_ignore_ascii_case(name))
            {
                return Ok(group.id);
            }
            if answer.is_last() {
                break;
            }
        }
        Err(Error::Unprocessable(format!(
            "RUNNER_GROUP: {} has no runner group \"{name}\" that these credentials can see",
            self.scope()
        )))
    }

    /// The runner of this name.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Runner>, Error> {
        let found = self.list(Some(name)).await?;
        Ok(found.into_iter().find(|runner| runner.name == name))
    }

    /// The runner of this id.
    pub(crate) async fn runner(&self, id: u64) -> Result<Option<Runner>, Error> {
        let path = format!("{}/actions/runners/{id}", self.scope().path());
        match self.call(Method::GET, &path, None).await {
            Ok(answer) => answer.read().map(Some),
            Err(Error::NotFound(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// All runners, or those of a name.
    pub(crate) async fn list(&self, name: Option<&str>) -> Result<Vec<Runner>, Error> {
        #[derive(Deserialize)]
        struct Page {
            runners: Vec<Runner>,
        }
        let filter = name.map(query).unwrap_or_default();
        let mut all = Vec::new();
        for page in 1.. {
            let path = format!(
                "{}/actions/runners?per_page=100&page={page}{filter}",
                self.scope().path()
            );
            let answer = self.call(Method::GET, &path, None).await?;
            all.extend(answer.read::<Page>()?.runners);
            if answer.is_last() {
                break;
            }
        }
        Ok(all)
    }

    /// Removes a registration. [`Error::Unprocessable`]: it has a job.
    pub(crate) async fn delete(&self, id: u64) -> Result<(), Error> {
        let path = format!("{}/actions/runners/{id}", self.scope().path());
        match self.call(Method::DELETE, &path, None).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Asks GitHub to cancel a workflow run; needs "Actions": write in its repository.
    pub(crate) async fn cancel_run(&self, repository: &str, run: u64) -> Result<(), Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if repository.split('/').count() != 2 || !repository.bytes().all(plain) {
            return Err(Error::Unexpected(format!(
                "{repository:?} is no repository"
            )));
        }
        let path = format!("/repos/{repository}/actions/runs/{run}/cancel");
        self.call(Method::POST, &path, None).await.map(drop)
    }

    /// Until when a version of the runner is good; `None` when GitHub does not tell.
    pub(crate) async fn deprecations(&self, version: &str) -> Result<Option<Deprecations>, Error> {
        let path = format!(
            "{}/actions/runners/deprecations/{version}",
            self.scope().path()
        );
        match self.call(Method::GET, &path, None).await {
            Ok(answer) => Ok(answer.read().ok()),
            Err(Error::NotFound(_) | Error::Forbidden(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// `&name=…`, encoded.
fn query(name: &str) -> String {
    let mut url = Url::parse("http://query").unwrap_or_else(|_| unreachable!("a constant address"));
    url.query_pairs_mut().append_pair("name", name);
    format!("&{}", url.query().unwrap_or_default())
}
