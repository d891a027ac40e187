//! The TCP port: health, versions and metrics, nothing else.
//!
//! Owns the endpoints. dockerd's API over TCP is root for whoever reaches it and costs seconds of
//! its start; these four paths are all that a health check, a client that looks for the daemon
//! and a dashboard ask for. They are read-only and come from [`crate::report`].

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::report::{State, Status};

/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// Takes the address, so that one that is taken is known before anything is prepared.
///
/// # Errors
/// Names the setting and who may have the port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; set DINDD_HEALTH_ADDR to an address and port that no \
             other container of the task uses"
        )
    })
}

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, status: watch::Receiver<Status>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(cause) => {
                warn!("cannot accept a connection: {cause}");
                // Out of descriptors, most likely; others end theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let status = status.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &status.borrow());
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(cause) = served {
                debug!("a connection to the health port ended early: {cause}");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, status: &Status) -> Answer {
    answer_path(request.method(), request.uri().path(), status)
}

fn answer_path(method: &Method, path: &str, status: &Status) -> Answer {
    let well = match status.state {
        State::Healthy | State::Failing => StatusCode::OK,
        State::Starting | State::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    let known = match without_version(path) {
        "/_ping" if well == StatusCode::OK => (well, "text/plain", "OK".to_owned()),
        "/_ping" => (well, "application/json", message(&status.reason)),
        "/version" => match &status.engine {
            Some(versions) => (StatusCode::OK, "application/json", versions.whole.clone()),
            None => (
                StatusCode::SERVICE_UNAVAILABLE,
                "application/json",
                message(&status.reason),
            ),
        },
        "/healthz" => {
            let text = serde_json::to_string(status).unwrap_or_else(|cause| cause.to_string());
            (well, "application/json", text)
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", metrics(status)),
        _ => {
            let remedy = "not served here: this is dindd's health port; use the unix socket, or \
                          DINDD_TCP=full";
            (StatusCode::NOT_FOUND, "application/json", message(remedy))
        }
    };
    let (code, kind, body) = known;
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new());
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let mut reply = reply(code, kind, body);
    // What a Docker client reads from a ping to choose its API version.
    let api = status
        .engine
        .as_ref()
        .map(|versions| HeaderValue::from_str(&versions.api));
    if let Some(Ok(api)) = api {
        reply.headers_mut().insert("api-version", api);
        reply
            .headers_mut()
            .insert("ostype", HeaderValue::from_static("linux"));
    }
    reply
}

/// Docker clients put their API version first: `/v1.45/_ping`.
fn without_version(path: &str) -> &str {
    let versioned = path
        .strip_prefix("/v1.")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    versioned.unwrap_or(path)
}

fn reply(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = code;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// The shape of dockerd's errors, which its clients show.
fn message(text: &str) -> String {
    serde_json::json!({ "message": text }).to_string()
}

fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        // A string takes everything.
        text.write_fmt(args).ok();
        text.push('\n');
    };
    line(format_args!(
        "# HELP dindd_state Whether dindd is in this state."
    ));
    line(format_args!("# TYPE dindd_state gauge"));
    for state in State::ALL {
        let value = u8::from(state == status.state);
        line(format_args!(
            "dindd_state{{state=\"{}\"}} {value}",
            state.name()
        ));
    }
    line(format_args!(
        "# HELP dindd_state_since_seconds When that began, since 1970."
    ));
    line(format_args!("# TYPE dindd_state_since_seconds gauge"));
    line(format_args!("dindd_state_since_seconds {}", status.since));
    line(format_args!(
        "# HELP dindd_phase_seconds How long each phase took."
    ));
    line(format_args!("# TYPE dindd_phase_seconds gauge"));
    for (name, milliseconds) in &status.phases {
        let (whole, rest) = (milliseconds / 1000, milliseconds % 1000);
        line(format_args!(
            "dindd_phase_seconds{{phase=\"{name}\"}} {whole}.{rest:03}"
        ));
    }
    let engine = status
        .engine
        .as_ref()
        .map_or("", |versions| versions.docker.as_str());
    let isolation = status.isolation.unwrap_or_default();
    line(format_args!(
        "# HELP dindd_info Versions and the isolation that was chosen."
    ));
    line(format_args!("# TYPE dindd_info gauge"));
    line(format_args!(
        "dindd_info{{version=\"{}\",engine=\"{engine}\",isolation=\"{isolation}\"}} 1",
        status.version
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Report, Versions};

    fn status(state: State) -> Status {
        let report = Report::new();
        report.state(state, "why");
        report.phase("storage").done();
        report.engine(Versions {
            docker: "28.5.2".into(),
            api: "1.51".into(),
            kernel: "6.1".into(),
            whole: "{}".into(),
        });
        report.reader().borrow().clone()
    }

    #[test]
    fn only_four_paths_are_served_and_only_for_reading() {
        let healthy = status(State::Healthy);
        for (method, path, code) in [
            (Method::GET, "/_ping", 200),
            (Method::HEAD, "/_ping", 200),
            (Method::GET, "/v1.45/_ping", 200),
            (Method::GET, "/version", 200),
            (Method::GET, "/v1.51/version", 200),
            (Method::GET, "/healthz", 200),
            (Method::GET, "/metrics", 200),
            (Method::POST, "/_ping", 405),
            (Method::POST, "/containers/create", 405),
            (Method::GET, "/containers/json", 404),
            (Method::GET, "/v1.51/info", 404),
            (Method::GET, "/", 404),
        ] {
            assert_eq!(
                answer_path(&method, path, &healthy).status(),
                code,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn a_ping_is_answered_well_only_while_containers_can_be_started() {
        for (state, code) in [
            (State::Starting, 503),
            (State::Healthy, 200),
            (State::Failing, 200),
            (State::Stopping, 503),
        ] {
            let status = status(state);
            assert_eq!(
                answer_path(&Method::GET, "/_ping", &status).status(),
                code,
                "{state:?}"
            );
            assert_eq!(
                answer_path(&Method::GET, "/healthz", &status).status(),
                code
            );
        }
    }

    #[test]
    fn metrics_tell_the_state_and_the_phases() {
        let text = metrics(&status(State::Healthy));
        for line in [
            "dindd_state{state=\"healthy\"} 1",
            "dindd_state{state=\"starting\"} 0",
            "dindd_phase_seconds{phase=\"storage\"} 0.000",
            "engine=\"28.5.2\"",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
}
