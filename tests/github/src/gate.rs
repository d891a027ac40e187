//! What every request passes on its way to a handler and back: the two addresses of the API,
//! fault rules, common headers, the event log.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use crate::clock::http_date;
use crate::double::Double;
use crate::events::{Event, Kind};
use crate::faults::{Action, Hangup, Rule};
use crate::http::{About, Base, slow_body};
use crate::world::refusal::Refusal;

/// The connection ends without an answer.
#[derive(Debug)]
pub(crate) struct HungUp(pub(crate) Hangup);

impl std::fmt::Display for HungUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hung up on purpose")
    }
}

impl std::error::Error for HungUp {}

pub(crate) struct Gate {
    pub(crate) router: Router,
    pub(crate) double: Arc<Double>,
}

impl Gate {
    /// Answers a request, or says how its connection is to end.
    pub(crate) async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, HungUp> {
        let request = locate(request);
        let method = request.method().to_string();
        let path = request.uri().path().to_owned();
        if path.starts_with("/_double/") {
            return Ok(self.finished(self.route(request).await));
        }
        let answer = match self.double.decide_fault(&method, &path) {
            None => Ok(self.route(request).await),
            Some(rule) => {
                let mut event = Event::new(Kind::Fault).detail(format!("{:?}", rule.action));
                event.method = Some(method.clone());
                event.path = Some(path.clone());
                self.double.record(event);
                self.spoil(rule, request).await
            }
        };
        let mut event = Event::new(Kind::Request);
        event.method = Some(method);
        event.path = Some(path);
        if let Ok(answer) = &answer {
            event.status = Some(answer.status().as_u16());
            if let Some(about) = answer.extensions().get::<About>() {
                event.runner.clone_from(&about.runner);
                event.job.clone_from(&about.job);
            }
        }
        self.double.record(event);
        answer.map(|answer| self.finished(answer))
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Body> {
        let service = TowerToHyperService::new(self.router.clone());
        match service.call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }

    async fn spoil(
        &self,
        rule: Rule,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, HungUp> {
        tokio::time::sleep(Duration::from_millis(rule.delay_ms)).await;
        let effect = match &rule.action {
            Action::Pass | Action::SlowBody { .. } => true,
            Action::Answer { effect, .. }
            | Action::Disconnect { effect, .. }
            | Action::NeverAnswer { effect } => *effect,
        };
        let true_answer = if effect {
            self.route(request).await
        } else {
            Response::default()
        };
        match rule.action {
            Action::Pass => Ok(true_answer),
            Action::SlowBody { bytes, every_ms } => {
                Ok(slow_body(true_answer, bytes, Duration::from_millis(every_ms)).await)
            }
            Action::Disconnect { how, .. } => Err(HungUp(how)),
            Action::NeverAnswer { .. } => std::future::pending().await,
            Action::Answer {
                status,
                headers,
                body,
                ..
            } => {
                let body = body.unwrap_or_else(|| Refusal::rest(status, "A fault on purpose").body);
                let mut answer = Response::new(Body::from(body.to_string()));
                *answer.status_mut() =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                set(
                    answer.headers_mut(),
                    "content-type",
                    "application/json; charset=utf-8",
                );
                for (name, value) in &headers {
                    set(answer.headers_mut(), name, value);
                }
                Ok(answer)
            }
        }
    }

    /// What every answer carries.
    fn finished(&self, mut answer: Response<Body>) -> Response<Body> {
        let headers = answer.headers_mut();
        set(headers, "x-double", "github-double");
        set(
            headers,
            "x-github-request-id",
            &crate::world::random_letters(16),
        );
        if !headers.contains_key("date") {
            set(headers, "date", &http_date(self.double.clock().now()));
        }
        answer
    }
}

/// Takes the `/api/v3` off the path, so that there is one set of routes, and remembers it.
fn locate(mut request: Request<Incoming>) -> Request<Incoming> {
    const ENTERPRISE_SERVER: &str = "/api/v3";
    let host = request
        .headers()
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    let origin = format!("http://{host}");
    let whole = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let rest = whole
        .strip_prefix(ENTERPRISE_SERVER)
        .filter(|rest| rest.starts_with('/'))
        .and_then(|rest| rest.parse::<Uri>().ok());
    let prefix = if rest.is_some() {
        ENTERPRISE_SERVER
    } else {
        ""
    };
    if let Some(rest) = rest {
        *request.uri_mut() = rest;
    }
    request.extensions_mut().insert(Base { origin, prefix });
    request
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_str(value),
    ) {
        headers.insert(name, value);
    }
}
