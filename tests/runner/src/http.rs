//! One HTTP request, and what came back: any status is an answer, only no answer is an error.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Method, Request, header};

use crate::VERSION;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) request_id: String,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// `Error: Conflict`, as the real client words a status.
    pub(crate) fn reason(&self) -> String {
        format!("Error: {}", self.reason_phrase())
    }

    pub(crate) fn reason_phrase(&self) -> String {
        ureq::http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .map_or_else(|| self.status.to_string(), |reason| reason.replace(' ', ""))
    }
}

/// What is sent along.
pub(crate) enum Content<'a> {
    Nothing,
    Json(&'a Value),
    Form(String),
    Bytes(Vec<u8>),
}

pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    /// The whole `Authorization` header.
    pub(crate) authorization: Option<String>,
    pub(crate) content: Content<'a>,
    pub(crate) limit: Duration,
}

pub(crate) fn call(call: Call<'_>) -> anyhow::Result<Answer> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(call.limit))
        .build()
        .into();
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.url)
        .header(
            header::USER_AGENT,
            format!("GitHubActionsRunner-linux-{}/{VERSION}", architecture()),
        )
        .header(header::ACCEPT, "application/json");
    if let Some(authorization) = call.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let (kind, body) = match call.content {
        Content::Nothing => (None, None),
        Content::Json(json) => (
            Some("application/json"),
            Some(json.to_string().into_bytes()),
        ),
        Content::Form(form) => (
            Some("application/x-www-form-urlencoded"),
            Some(form.into_bytes()),
        ),
        Content::Bytes(bytes) => (Some("application/octet-stream"), Some(bytes)),
    };
    if let Some(kind) = kind {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let named = || format!("{} {}", call.method, call.url);
    let answer = match body {
        Some(body) => agent.run(request.body(body).with_context(named)?),
        None => agent.run(request.body(()).with_context(named)?),
    };
    let mut answer = answer.with_context(named)?;
    let request_id = answer
        .headers()
        .get("x-github-request-id")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    Ok(Answer {
        status: answer.status().as_u16(),
        body: answer.body_mut().read_to_string().with_context(named)?,
        request_id,
    })
}

/// `x64` or `arm64`.
pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x64"
    }
}
