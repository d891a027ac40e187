//! GitHub's REST API, as far as the supervisor needs it.
//!
//! Owns the connection, who we say we are, and GitHub's clock. Asks once and tells what happened;
//! asking again is [`retry`]'s, and what a failure means for the task is the caller's.

mod api;
mod app;
mod error;
pub(crate) mod retry;

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use init::settings::Secret;
use reqwest::header::{ACCEPT, AUTHORIZATION, DATE, HeaderMap, HeaderValue, LINK};
use reqwest::{Method, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use api::{Deprecations, NewRunner, Registered, Runner};
use app::App;
pub(crate) use app::pem_of;
pub(crate) use error::Error;

use crate::config::{Credentials, GitHub, Scope};

/// GitHub itself gives up after ten seconds (docs "Rate limits for the REST API").
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const API_VERSION: &str = "2022-11-28";
const USER_AGENT: &str = concat!("ecs-actions-runner/", env!("CARGO_PKG_VERSION"));

/// Who asks.
enum Caller {
    App(App),
    Pat(Secret),
    Registration(Secret),
}

/// A connection to GitHub in the name of our credentials.
pub(crate) struct Client {
    http: reqwest::Client,
    api: String,
    scope: Scope,
    caller: Caller,
    /// GitHub's clock less ours, in seconds, as of the last answer.
    skew: Cell<i64>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

/// A success.
struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

/// The HTTP side of every connection of the supervisor.
pub(crate) fn http() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirect::Policy::limited(3))
        .pool_max_idle_per_host(2)
        .build()
        .context("cannot prepare HTTPS")
}

impl Client {
    /// Prepares a connection; nothing is sent yet.
    pub(crate) fn new(access: &GitHub, http: reqwest::Client) -> anyhow::Result<Self> {
        let caller = match &access.credentials {
            Credentials::App {
                id,
                key,
                installation,
            } => Caller::App(App::new(id.clone(), key, *installation)?),
            Credentials::Pat(token) => Caller::Pat(token.clone()),
            Credentials::Registration(token) => Caller::Registration(token.clone()),
        };
        Ok(Self {
            http,
            api: access.api.clone(),
            scope: access.scope.clone(),
            caller,
            skew: Cell::new(0),
        })
    }

    /// Whose runners are managed.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Makes sure that there is a token: the slow part of the first call.
    pub(crate) async fn authenticate(&self) -> Result<(), Error> {
        self.authorization().await.map(drop)
    }

    /// GitHub's time, as far as it is known, in seconds.
    fn now(&self) -> i64 {
        jiff::Timestamp::now().as_second() + self.skew.get()
    }

    async fn authorization(&self) -> Result<String, Error> {
        Ok(match &self.caller {
            Caller::App(app) => format!("Bearer {}", app.token(self).await?.expose()),
            Caller::Pat(token) => format!("Bearer {}", token.expose()),
            // How config.sh says who it is (actions/runner RunnerDotcomServer.cs).
            Caller::Registration(token) => format!("RemoteAuth {}", token.expose()),
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let authorization = self.authorization().await?;
        match self.send(method.clone(), path, &authorization, body).await {
            Err(Error::Unauthorized(_)) if let Caller::App(app) = &self.caller => {
                app.forget_token();
                let authorization = self.authorization().await?;
                self.send(method, path, &authorization, body).await
            }
            other => other,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        authorization: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let mut authorization = HeaderValue::try_from(authorization).map_err(|_| {
            Error::Unauthorized("the credentials contain a character that no token has".to_owned())
        })?;
        authorization.set_sensitive(true);
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.api))
            .header(ACCEPT, "application/vnd.github+json")
            .header(AUTHORIZATION, authorization)
            .header("x-github-api-version", API_VERSION);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| Error::transport(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        self.learn_time(&headers);
        // An answer that breaks off is no answer, whatever its status said.
        let body = response
            .bytes()
            .await
            .map_err(|error| Error::transport(&error))?;
        tracing::debug!(%method, path, status = status.as_u16(), "GitHub answered");
        if status.is_success() {
            Ok(Answer {
                headers,
                body: body.into(),
            })
        } else {
            Err(Error::of(status, &headers, &body, self.now()))
        }
    }

    fn learn_time(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) {
            let skew = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
            if (skew - self.skew.get()).abs() > 30 {
                tracing::warn!(
                    seconds = skew,
                    "our clock and GitHub's differ; using GitHub's"
                );
            }
            self.skew.set(skew);
        }
    }
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Unexpected(format!("an answer is not as documented: {error}")))
    }

    /// Whether no page follows (docs "Using pagination in the REST API").
    fn is_last(&self) -> bool {
        let link = self.headers.get(LINK).and_then(|link| link.to_str().ok());
        !link.is_some_and(|link| link.contains("rel=\"next\""))
    }
}
