//! How the service says no: a status and the body shape of the part of GitHub that was asked.

use serde_json::{Value, json};

/// The texts are GitHub's where a client is known to match on them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Refusal {
    /// The REST API's shape.
    pub(crate) fn rest(status: u16, message: impl Into<String>) -> Self {
        let body = json!({
            "message": message.into(),
            "documentation_url": "https://docs.github.com/rest",
            "status": status.to_string(),
        });
        Self { status, body }
    }

    pub(crate) fn not_found() -> Self {
        Self::rest(404, "Not Found")
    }

    pub(crate) fn bad_credentials() -> Self {
        Self::rest(401, "Bad credentials")
    }

    /// A body that does not validate: 422 with the field that is wrong.
    pub(crate) fn invalid_field(field: &str, problem: &str) -> Self {
        let mut refusal = Self::rest(422, format!("Invalid request.\n\n\"{field}\" {problem}."));
        refusal.body["errors"] = json!([{ "field": field, "message": problem }]);
        refusal
    }

    /// The broker's envelope (actions/runner `BrokerError.cs`).
    pub(crate) fn broker(status: u16, kind: &str, message: impl Into<String>) -> Self {
        let body = json!({
            "source": "actions-broker-listener",
            "errorKind": kind,
            "statusCode": status,
            "errorMessage": message.into(),
        });
        Self { status, body }
    }

    /// The run service's envelope (actions/runner `RunServiceHttpClient.cs`).
    pub(crate) fn run_service(status: u16, message: impl Into<String>) -> Self {
        let body = json!({
            "source": "actions-run-service",
            "statusCode": status,
            "errorMessage": message.into(),
        });
        Self { status, body }
    }

    /// The token endpoint's shape (RFC 6749 §5.2).
    pub(crate) fn oauth(error: &str, description: impl Into<String>) -> Self {
        let body = json!({ "error": error, "error_description": description.into() });
        Self { status: 400, body }
    }
}
