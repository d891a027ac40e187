//! `/healthz` and `/metrics` on an optional port, for those who watch from outside.
//!
//! Tells what [`Progress`] knows and changes nothing. Metrics are in the Prometheus text format.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Context;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reqwest::Body;
use tokio::net::TcpListener;

use crate::progress::Progress;
use crate::state::Stage;

/// Takes the port; done before anything else, so that a port that is taken is found out early.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("SUPERVISOR_HTTP_ADDR: cannot listen on {address}"))
}

/// Answers for ever, one connection after the other: who asks is a health check.
pub(crate) async fn serve(listener: TcpListener, progress: &Progress) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection to the HTTP port was lost");
                continue;
            }
        };
        let answer = service_fn(async |request| Ok::<_, Infallible>(answer(&request, progress)));
        let mut server = http1::Builder::new();
        // A client that is silent would keep the others waiting.
        server
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(std::time::Duration::from_secs(2));
        if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
            tracing::debug!(%error, "a connection to the HTTP port broke");
        }
    }
}

fn answer(request: &Request<Incoming>, progress: &Progress) -> Response<Body> {
    let (status, kind, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "application/json", health(progress)),
        "/metrics" => (
            StatusCode::OK,
            "text/plain; version=0.0.4",
            metrics(progress),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "there are /healthz and /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn health(progress: &Progress) -> String {
    serde_json::to_string(&progress.state()).unwrap_or_default()
}

fn metrics(progress: &Progress) -> String {
    let state = progress.state();
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing into a String cannot fail.
        writeln!(text, "{words}").ok();
    };
    line(format_args!("# TYPE supervisor_uptime_seconds gauge"));
    line(format_args!(
        "supervisor_uptime_seconds {}",
        progress.elapsed().as_secs()
    ));
    line(format_args!("# TYPE supervisor_busy gauge"));
    line(format_args!(
        "supervisor_busy {}",
        u8::from(state.phase == Stage::Job)
    ));
    line(format_args!("# TYPE supervisor_phase_seconds gauge"));
    for past in progress.phases() {
        let (seconds, milliseconds) = (past.elapsed_ms / 1000, past.elapsed_ms % 1000);
        line(format_args!(
            "supervisor_phase_seconds{{phase=\"{}\"}} {seconds}.{milliseconds:03}",
            past.phase
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_tell_every_phase() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::new(folder.path().join("state.json"));
        progress.begin("register").done("x");
        progress.job("build \"x\"\n");
        let text = metrics(&progress);
        assert!(
            text.contains("supervisor_phase_seconds{phase=\"register\"} 0.0"),
            "{text}"
        );
        assert!(text.contains("supervisor_busy 1\n"), "{text}");
        assert!(
            !text.contains("build"),
            "a job's name is hostile text: {text}"
        );
    }
}
