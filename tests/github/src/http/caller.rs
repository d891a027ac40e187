//! Who asks, and whether the request has the form that the REST API insists on.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::double::Double;
use crate::world::refusal::Refusal;

const API_VERSIONS: [&str; 2] = ["2022-11-28", "2026-03-10"];

/// The credential of the `Authorization` header, whatever its scheme: `Bearer`, `token`,
/// `RemoteAuth` (the runner's own), or the password of `Basic`.
pub(crate) struct Caller {
    pub(crate) token: String,
}

impl FromRequestParts<Arc<Double>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Double>) -> Result<Self, Refusal> {
        let missing = || Refusal::rest(401, "Requires authentication");
        let value = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(missing)?;
        let (scheme, credential) = value.trim().split_once(' ').ok_or_else(missing)?;
        let token = match scheme.to_ascii_lowercase().as_str() {
            "bearer" | "token" | "remoteauth" => credential.trim().to_owned(),
            "basic" => password(credential.trim()).ok_or_else(Refusal::bad_credentials)?,
            _ => return Err(missing()),
        };
        Ok(Self { token })
    }
}

fn password(basic: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
    Some(decoded.split_once(':')?.1.to_owned())
}

/// What every REST call must have, and the rate headers that every REST answer has.
pub(crate) async fn check_rest_headers(
    State(double): State<Arc<Double>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let mut answer = match check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let used = double.count_rest_call();
    let reset = double.clock().now().as_second() + 3600;
    for (name, value) in [
        ("x-ratelimit-limit", 5000),
        ("x-ratelimit-remaining", 5000_i64.saturating_sub(used)),
        ("x-ratelimit-used", used),
        ("x-ratelimit-reset", reset),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from(value));
    }
    answer
}

fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("user-agent").is_none_or(str::is_empty) {
        return Err(Refusal::rest(
            403,
            "Request forbidden by administrative rules. Please make sure your request has a \
             User-Agent header (https://docs.github.com/rest/overview/resources-in-the-rest-api#user-agent-required).",
        ));
    }
    if let Some(version) = text("x-github-api-version")
        && !API_VERSIONS.contains(&version)
    {
        return Err(Refusal::rest(
            400,
            format!("The API version \"{version}\" is not supported."),
        ));
    }
    if let Some(accept) = text("accept")
        && !accept.split(',').any(is_json)
    {
        return Err(Refusal::rest(
            415,
            format!("Unsupported 'Accept' header: '{accept}'. Must accept 'application/json'."),
        ));
    }
    Ok(())
}

fn is_json(accept: &str) -> bool {
    let kind = accept.split(';').next().unwrap_or_default().trim();
    matches!(kind, "*/*" | "application/*" | "application/json")
        || kind.starts_with("application/vnd.github")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(headers: &[(&'static str, &'static str)]) -> Option<u16> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        check(&headers).err().map(|refusal| refusal.status)
    }

    #[test]
    fn a_call_needs_a_user_agent_a_known_version_and_an_acceptable_accept() {
        let agent = ("user-agent", "test");
        assert_eq!(status(&[]), Some(403));
        assert_eq!(status(&[agent]), None);
        assert_eq!(
            status(&[agent, ("x-github-api-version", "2022-11-28")]),
            None
        );
        assert_eq!(
            status(&[agent, ("x-github-api-version", "2021-01-01")]),
            Some(400)
        );
        assert_eq!(
            status(&[agent, ("accept", "application/vnd.github+json")]),
            None
        );
        assert_eq!(status(&[agent, ("accept", "text/html")]), Some(415));
    }
}
