//! Answers: a status, JSON, headers, and what the event log should say about it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::{Body as HttpBody, Frame};
use serde_json::Value;
use tokio::time::{Interval, interval};

use crate::world::refusal::Refusal;

/// Whom a request was about; for the event log only.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) runner: Option<String>,
    pub(crate) job: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    body: Option<Value>,
    headers: HeaderMap,
    about: About,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
            headers: HeaderMap::new(),
            about: About::default(),
        }
    }

    pub(crate) fn ok(body: Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            headers: HeaderMap::new(),
            about: About::default(),
        }
    }

    pub(crate) fn link(mut self, link: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(link) {
            self.headers.insert(header::LINK, value);
        }
        self
    }

    pub(crate) fn runner(mut self, name: Option<String>) -> Self {
        self.about.runner = name;
        self
    }

    pub(crate) fn job(mut self, id: impl Into<String>) -> Self {
        self.about.job = Some(id.into());
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response<Body> {
        let mut response = match self.body {
            Some(body) => {
                let json = "application/json; charset=utf-8";
                ([(header::CONTENT_TYPE, json)], body.to_string()).into_response()
            }
            None => Response::default(),
        };
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(self.about);
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Reply::json(status, self.body).into_response()
    }
}

pub(crate) async fn no_such_route() -> Refusal {
    Refusal::not_found()
}

/// Reads a JSON body as GitHub does: 400 when it does not parse, and an empty body is `{}`.
pub(crate) fn parse_json(body: &Bytes) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Refusal::rest(400, "Body should be a JSON object")),
        Err(_) => Err(Refusal::rest(400, "Problems parsing JSON")),
    }
}

/// The same answer, so many bytes at a time.
pub(crate) async fn slow_body(
    answer: Response<Body>,
    bytes: usize,
    every: Duration,
) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    let drip = Drip {
        left: whole,
        bytes: bytes.max(1),
        every: interval(every.max(Duration::from_millis(1))),
    };
    Response::from_parts(parts, Body::new(drip))
}

struct Drip {
    left: Bytes,
    bytes: usize,
    every: Interval,
}

impl HttpBody for Drip {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if self.every.poll_tick(context).is_pending() {
            return Poll::Pending;
        }
        let size = self.bytes.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(size)))))
    }
}
