//! What GitHub can say instead of yes, told apart as far as somebody acts on the difference.
//!
//! Source: docs "Rate limits for the REST API" and "Troubleshooting the REST API".

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::config::Scope;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// 401: who we are is unknown, expired or not yet valid.
    #[error("401 unauthorized: {0}")]
    Unauthorized(String),
    /// 403 that is no rate limit.
    #[error("403 forbidden: {0}")]
    Forbidden(String),
    /// 404: it does not exist, or we must not see it.
    #[error("404 not found: {0}")]
    NotFound(String),
    /// 409: the name is taken.
    #[error("409 conflict: {0}")]
    Conflict(String),
    /// 422: the request does not validate; for a deletion, the runner is busy.
    #[error("422: {0}")]
    Unprocessable(String),
    /// 429, or 403 with the signs of a rate limit; when to ask again, if it was said.
    #[error("rate limit: {message}")]
    Limited {
        message: String,
        wait: Option<Duration>,
    },
    /// 5xx: the request may have taken effect.
    #[error("{status}: {message}")]
    Server { status: u16, message: String },
    /// No whole answer came.
    #[error("no answer: {cause}")]
    Transport {
        cause: String,
        /// Whether the request can have reached GitHub.
        sent: bool,
    },
    /// Any other answer, or one that cannot be understood.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// Reads an answer that is no success. `now` is GitHub's time in seconds.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: &[u8], now: i64) -> Self {
        let message = message_of(body);
        match limit(status, headers, &message, now) {
            Limit::Not => {}
            Limit::Unsaid => {
                return Self::Limited {
                    message,
                    wait: None,
                };
            }
            Limit::For(wait) => {
                return Self::Limited {
                    message,
                    wait: Some(wait),
                };
            }
        }
        match status.as_u16() {
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden(message),
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            422 => Self::Unprocessable(message),
            status @ 500..=599 => Self::Server { status, message },
            other => Self::Unexpected(format!("unexpected answer {other}: {message}")),
        }
    }

    /// Reads a failure of the connection.
    pub(super) fn transport(error: &reqwest::Error) -> Self {
        // The address is in the caller's context already; the causes are what helps.
        let mut cause = if error.is_timeout() {
            "timed out".to_owned()
        } else {
            "the connection failed".to_owned()
        };
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            cause = format!("{cause}: {inner}");
            source = inner.source();
        }
        Self::Transport {
            cause,
            sent: !error.is_connect(),
        }
    }

    /// Whether asking again can help.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Limited { .. } | Self::Server { .. } | Self::Transport { .. }
        )
    }

    /// Whether the request may have taken effect although it failed.
    pub(crate) fn may_have_happened(&self) -> bool {
        matches!(
            self,
            Self::Server { .. } | Self::Transport { sent: true, .. } | Self::Unexpected(_)
        )
    }

    /// What it means for the operator and what to do, in one line.
    pub(crate) fn explain(&self, scope: &Scope) -> String {
        let remedy = match self {
            Self::Unauthorized(_) => {
                "the credentials are wrong, expired or revoked; renew GITHUB_PAT, or check GITHUB_APP_ID and its key".to_owned()
            }
            Self::Forbidden(_) => format!("the credentials need {}", scope.permission()),
            Self::NotFound(_) => format!(
                "{scope} does not exist in GITHUB_URL's spelling, or the credentials lack {}",
                scope.permission()
            ),
            Self::Conflict(_) => "another runner has this name; choose another RUNNER_NAME".to_owned(),
            Self::Unprocessable(_) => "GitHub does not accept RUNNER_NAME, RUNNER_LABELS or RUNNER_GROUP".to_owned(),
            Self::Limited { .. } => "too many requests were made with these credentials; wait, or use a GitHub App".to_owned(),
            Self::Server { .. } => "GitHub has a failure; see its status page".to_owned(),
            Self::Transport { .. } => "check GITHUB_API_URL, the security group, the proxy and the name resolution".to_owned(),
            Self::Unexpected(_) => "check that GITHUB_API_URL is GitHub's REST API".to_owned(),
        };
        format!("{self}; {remedy}")
    }
}

fn message_of(body: &[u8]) -> String {
    let text = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|json| Some(json.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "no message".to_owned(),
        None => line,
    }
}

/// How long a rate limit lasts, as far as an answer is one.
enum Limit {
    Not,
    Unsaid,
    For(Duration),
}

fn limit(status: StatusCode, headers: &HeaderMap, message: &str, now: i64) -> Limit {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let seconds = |count: i64| Limit::For(Duration::from_secs(u64::try_from(count).unwrap_or(0)));
    let after = number("retry-after");
    let spent = number("x-ratelimit-remaining") == Some(0);
    let said = message.to_ascii_lowercase().contains("rate limit");
    let limited = match status.as_u16() {
        429 => true,
        403 => after.is_some() || spent || said,
        _ => false,
    };
    let reset = number("x-ratelimit-reset").filter(|_| spent);
    match (limited, after, reset) {
        (false, ..) => Limit::Not,
        (true, Some(after), _) => seconds(after),
        (true, None, Some(reset)) => seconds(reset - now + 1),
        (true, None, None) => Limit::Unsaid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        Error::of(
            StatusCode::from_u16(status).unwrap(),
            &headers,
            body.as_bytes(),
            1_000,
        )
    }

    #[test]
    fn answers_are_told_apart_by_what_to_do_about_them() {
        for (status, headers, kind, wait) in [
            (401, &[][..], "401 unauthorized: no", None),
            (403, &[], "403 forbidden: no", None),
            (403, &[("retry-after", "7")], "rate limit: no", Some(7)),
            (
                403,
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1030"),
                ],
                "rate limit: no",
                Some(31),
            ),
            (
                403,
                &[
                    ("x-ratelimit-remaining", "9"),
                    ("x-ratelimit-reset", "1030"),
                ],
                "403 forbidden: no",
                None,
            ),
            (
                429,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "900")],
                "rate limit: no",
                Some(0),
            ),
            (429, &[], "rate limit: no", None),
            (404, &[], "404 not found: no", None),
            (409, &[], "409 conflict: no", None),
            (422, &[], "422: no", None),
            (503, &[("retry-after", "7")], "503: no", None),
            (418, &[], "unexpected answer 418: no", None),
        ] {
            let error = of(status, headers, r#"{"message":"no"}"#);
            assert_eq!(error.to_string(), kind, "{status} {headers:?}");
            let waits = if let Error::Limited { wait, .. } = error {
                wait.map(|wait| wait.as_secs())
            } else {
                None
            };
            assert_eq!(waits, wait, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_secondary_limit_is_known_by_its_text() {
        let error = of(
            403,
            &[],
            r#"{"message":"You have exceeded a secondary rate limit."}"#,
        );
        assert!(
            matches!(error, Error::Limited { wait: None, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_body_that_is_no_json_is_quoted_in_one_short_line() {
        let error = of(502, &[], &format!("<html>\n  {}", "x".repeat(900)));
        assert!(error.to_string().starts_with("502: <html> xxx"), "{error}");
        assert!(error.to_string().len() < 330, "{error}");
    }

    #[test]
    fn the_explanation_names_the_missing_permission() {
        let scope = Scope::Organization("octo".into());
        let text = of(403, &[], "{}").explain(&scope);
        assert!(text.contains("\"Self-hosted runners\": write"), "{text}");
    }
}
