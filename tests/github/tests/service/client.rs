//! A plain HTTP client and a service to talk to.

use std::time::Duration;

use github_double::{GithubDouble, Options};
use serde_json::Value;
use ureq::http::{HeaderMap, Request};

pub(crate) const PAT: &str = "ghp_the-operators-token";
pub(crate) const RUNNERS: &str = "/repos/octo/hello/actions/runners";
/// Far more than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn service() -> GithubDouble {
    let scope = |text: &str| text.parse().unwrap();
    GithubDouble::start(Options {
        pat: Some(PAT.to_owned()),
        scopes: vec![scope("octo/hello"), scope("acme"), scope("enterprises/big")],
        ..Options::default()
    })
    .unwrap()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// One request; `Err` when no answer came.
pub(crate) fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Result<Answer, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(LIMIT))
        .user_agent("")
        .build()
        .into();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = match body {
        Some(body) => agent.run(request.body(body.to_string()).unwrap())?,
        None => agent.run(request.body(()).unwrap())?,
    };
    let text = answer.body_mut().read_to_string()?;
    Ok(Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    })
}

/// A REST call as a supervisor makes it, with this token.
pub(crate) fn call_as(
    double: &GithubDouble,
    token: &str,
    (method, path): (&str, &str),
    body: Option<Value>,
) -> Result<Answer, ureq::Error> {
    let headers = [
        ("authorization", format!("Bearer {token}")),
        ("accept", "application/vnd.github+json".to_owned()),
        ("x-github-api-version", "2022-11-28".to_owned()),
        ("user-agent", "test/1".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    send(
        method,
        &format!("{}{path}", double.api_url()),
        &headers,
        body,
    )
}

/// The same, with the operator's token and an answer expected.
pub(crate) fn call(double: &GithubDouble, method: &str, path: &str, body: Option<Value>) -> Answer {
    call_as(double, PAT, (method, path), body).unwrap()
}
