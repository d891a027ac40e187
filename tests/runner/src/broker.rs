//! The connected listener's calls: token, session, messages, job (actions/runner
//! `BrokerHttpClient.cs`, `RunServiceHttpClient.cs`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use github_double::Message;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use ureq::http::Method;

use crate::http::{Answer, Call, Content, architecture, call};
use crate::store::{Credentials, Settings};

/// The service's no, as far as a listener tells one from another.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    RegistrationDeleted(String),
    #[error("{0}")]
    ClockSkewed(String),
    #[error("{0}")]
    SessionConflict(String),
    #[error("{0}")]
    SessionInvalid(String),
    #[error("{0}")]
    RunnerNotFound(String),
    #[error("{0}")]
    VersionTooOld(String),
    #[error("{0}")]
    Deprovisioned(String),
    #[error("{0}")]
    JobNotFound(String),
    /// The job is gone, taken or not to be had: skip it.
    #[error("{0}")]
    JobNotAcquired(String),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

pub(crate) struct Broker {
    settings: Settings,
    credentials: Credentials,
    version: String,
    token: Mutex<Option<(String, Instant)>>,
}

const LIMIT: Duration = Duration::from_secs(100);
/// A token is asked for anew this long before it ends.
const MARGIN: Duration = Duration::from_secs(60);

impl Broker {
    pub(crate) fn new(settings: Settings, credentials: Credentials, version: &str) -> Self {
        Self {
            settings,
            credentials,
            version: version.to_owned(),
            token: Mutex::default(),
        }
    }

    /// Opens a session; the answer is its id.
    pub(crate) fn create_session(&self, owner: &str) -> Result<String, Refused> {
        let body = json!({
            "sessionId": "00000000-0000-0000-0000-000000000000",
            "ownerName": owner,
            "agent": {
                "id": self.settings.agent_id,
                "name": self.settings.agent_name,
                "version": self.version,
                "osDescription": "Linux",
            },
            "useFipsEncryption": false,
        });
        let url = format!("{}session", self.settings.server_url_v2);
        let answer = self.send(Method::POST, &url, Some(&body), LIMIT)?;
        match answer.status {
            200..300 => Ok(text(&answer.json()["sessionId"])),
            409 => Err(Refused::SessionConflict(answer.reason())),
            _ => {
                Err(anyhow::anyhow!("Failed to create broker session: {}", answer.reason()).into())
            }
        }
    }

    pub(crate) fn delete_session(&self, limit: Duration) -> Result<(), Refused> {
        let url = format!("{}session", self.settings.server_url_v2);
        let answer = self.send(Method::DELETE, &url, None, limit)?;
        if answer.is_success() {
            return Ok(());
        }
        Err(anyhow::anyhow!("Failed to delete broker session: {}", answer.reason()).into())
    }

    /// One long poll. `None`: nothing happened.
    pub(crate) fn message(&self, session: &str, busy: bool) -> Result<Option<Message>, Refused> {
        let url = format!(
            "{}message?sessionId={session}&status={}&runnerVersion={}&os=Linux&architecture={}&disableUpdate={}",
            self.settings.server_url_v2,
            if busy { "Busy" } else { "Online" },
            self.version,
            architecture().to_uppercase(),
            self.settings.disable_update,
        );
        let answer = self.send(Method::GET, &url, None, LIMIT)?;
        if answer.is_success() {
            if answer.body.is_empty() {
                return Ok(None);
            }
            let message = serde_json::from_str(&answer.body).context("cannot read a message")?;
            return Ok(Some(message));
        }
        let (kind, words) = envelope(&answer, "actions-broker-listener");
        Err(match kind.as_str() {
            "RunnerNotFound" => Refused::RunnerNotFound(words),
            "RunnerVersionTooOld" => Refused::VersionTooOld(words),
            "HostedRunnerDeprovisioned" => Refused::Deprovisioned(words),
            "RunnerSessionInvalid" => Refused::SessionInvalid(words),
            _ => anyhow::anyhow!(
                "Failed to get job message. Request to {url} failed with status: {}. Error message {}",
                answer.status,
                answer.reason()
            )
            .into(),
        })
    }

    pub(crate) fn acknowledge(&self, session: &str, request: &str) -> Result<(), Refused> {
        let url = format!(
            "{}acknowledge?sessionId={session}",
            self.settings.server_url_v2
        );
        let body = json!({ "runnerRequestId": request });
        let answer = self.send(Method::POST, &url, Some(&body), Duration::from_secs(5))?;
        if answer.is_success() {
            return Ok(());
        }
        let (kind, words) = envelope(&answer, "actions-broker-listener");
        Err(match kind.as_str() {
            "AcknowledgeJobNotFound" => Refused::JobNotFound(words),
            _ => {
                anyhow::anyhow!("Failed to acknowledge runner request: {}", answer.reason()).into()
            }
        })
    }

    /// Takes a job; the answer is the job message.
    pub(crate) fn acquire(&self, service: &str, request: &str) -> Result<Value, Refused> {
        let body = json!({ "jobMessageId": request, "runnerOS": "Linux", "billingOwnerId": "1" });
        let answer = self.send(
            Method::POST,
            &format!("{service}acquirejob"),
            Some(&body),
            LIMIT,
        )?;
        if answer.is_success() {
            return Ok(answer.json());
        }
        let (_, words) = envelope(&answer, "actions-run-service");
        match (answer.status, words.is_empty()) {
            (404 | 409 | 422, false) => Err(Refused::JobNotAcquired(words)),
            _ => Err(anyhow::anyhow!("Failed to get job message: {}", answer.reason()).into()),
        }
    }

    fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Answer, Refused> {
        let token = self.access_token()?;
        let answer = call(Call {
            method,
            url,
            authorization: Some(format!("Bearer {token}")),
            content: body.map_or(Content::Nothing, Content::Json),
            limit,
        })?;
        if answer.status == 401 {
            self.forget_token();
        }
        Ok(answer)
    }

    pub(crate) fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn access_token(&self) -> Result<String, Refused> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, ends)) = &*token
            && Instant::now() < *ends
        {
            return Ok(token.clone());
        }
        let form = format!(
            "grant_type=client_credentials&client_assertion_type={}&client_assertion={}",
            "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            self.assertion()?
        );
        let answer = call(Call {
            method: Method::POST,
            url: &self.credentials.authorization_url,
            authorization: None,
            content: Content::Form(form),
            limit: LIMIT,
        })?;
        let body = answer.json();
        if !answer.is_success() {
            let words = text(&body["error_description"]);
            return Err(match text(&body["error"]).as_str() {
                "invalid_client" => Refused::RegistrationDeleted(words),
                _ if words.contains("Current server time is") => Refused::ClockSkewed(words),
                _ => anyhow::anyhow!("no access token: {} {words}", answer.reason()).into(),
            });
        }
        let fresh = text(&body["access_token"]);
        let life = Duration::from_secs(body["expires_in"].as_u64().unwrap_or_default());
        *token = Some((fresh.clone(), Instant::now() + life.saturating_sub(MARGIN)));
        Ok(fresh)
    }

    /// Five minutes' proof that this is the registered runner.
    fn assertion(&self) -> anyhow::Result<String> {
        let now = Timestamp::now().as_second();
        let id = &self.credentials.client_id;
        let claims = json!({
            "iss": id,
            "sub": id,
            "aud": self.credentials.authorization_url,
            "jti": format!("{:032x}", rand::random::<u128>()),
            "nbf": now,
            "exp": now + 300,
        });
        let key = EncodingKey::from_rsa_der(&self.credentials.key.to_der()?);
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key)
            .context("cannot sign with the key in .credentials_rsaparams")
    }
}

/// A job's own connection: lives in the job message, outlives the runner's token.
#[derive(Clone)]
pub(crate) struct JobConnection {
    url: String,
    token: String,
    pub(crate) job: String,
}

impl JobConnection {
    pub(crate) fn of(message: &Value) -> anyhow::Result<Self> {
        let endpoint = message["resources"]["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|endpoint| endpoint["name"] == "SystemVssConnection")
            .context("the job message has no SystemVssConnection")?;
        Ok(Self {
            url: text(&endpoint["url"]),
            token: text(&endpoint["authorization"]["parameters"]["AccessToken"]),
            job: text(&message["jobId"]),
        })
    }

    pub(crate) fn renew(&self) -> anyhow::Result<()> {
        let body = json!({ "planId": self.job, "jobId": self.job });
        self.post("renewjob", Content::Json(&body))
    }

    /// `report` has conclusion, step results and annotations.
    pub(crate) fn complete(&self, mut report: Value) -> anyhow::Result<()> {
        report["planId"] = json!(self.job);
        report["jobId"] = json!(self.job);
        self.post("completejob", Content::Json(&report))
    }

    pub(crate) fn append_log(&self, chunk: Vec<u8>) -> anyhow::Result<()> {
        let path = format!("_results/jobs/{}/log", self.job);
        self.post(&path, Content::Bytes(chunk))
    }

    fn post(&self, path: &str, content: Content<'_>) -> anyhow::Result<()> {
        let url = format!("{}{path}", self.url);
        let answer = call(Call {
            method: Method::POST,
            url: &url,
            authorization: Some(format!("Bearer {}", self.token)),
            content,
            limit: LIMIT,
        })?;
        anyhow::ensure!(answer.is_success(), "{url}: {}", answer.reason());
        Ok(())
    }
}

/// Kind and message of an error body, if it comes from that source.
fn envelope(answer: &Answer, source: &str) -> (String, String) {
    let body = answer.json();
    if body["source"] != source {
        return Default::default();
    }
    (text(&body["errorKind"]), text(&body["errorMessage"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
