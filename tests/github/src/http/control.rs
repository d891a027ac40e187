//! The control plane over HTTP, for tests that do not live in the double's process. No
//! authorization, no faults; the methods of [`Double`](crate::Double) one by one.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::double::{Double, TokenKind};
use crate::events::Event;
use crate::faults::{Armed, Rule};
use crate::script::Script;
use crate::world::Group;
use crate::world::apps::App;
use crate::world::credentials::Grant;
use crate::world::job_spec::JobSpec;
use crate::world::jobs::JobView;
use crate::world::runners::RunnerView;
use crate::world::scope::Scope;
use crate::world::versions::Versions;

type Shared = State<Arc<Double>>;

pub(crate) fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/_double/jobs", get(jobs).post(queue_job))
        .route("/_double/jobs/{id}", get(job))
        .route("/_double/jobs/{id}/log", get(job_log))
        .route("/_double/jobs/{id}/cancel", post(cancel_job))
        .route("/_double/events", get(events))
        .route("/_double/runners", get(runners))
        .route("/_double/runners/{name}/messages", post(send_message))
        .route(
            "/_double/faults",
            get(faults).post(fail).delete(clear_faults),
        )
        .route("/_double/clock", put(set_clock))
        .route("/_double/scopes", post(add_scope))
        .route("/_double/app", put(add_app))
        .route("/_double/tokens", post(mint_token))
        .route("/_double/versions", put(set_versions))
        .route("/_double/listener", get(listener).put(set_listener))
}

async fn queue_job(State(double): Shared, Json(spec): Json<JobSpec>) -> Json<Value> {
    let (id, run_id) = double.queue_job(spec);
    Json(json!({ "id": id, "run_id": run_id }))
}

async fn jobs(State(double): Shared) -> Json<Vec<JobView>> {
    Json(double.jobs())
}

async fn job(State(double): Shared, Path(id): Path<String>) -> Response {
    match double.job(&id) {
        Some(job) => Json(job).into_response(),
        None => missing("job"),
    }
}

#[derive(Deserialize)]
struct From {
    #[serde(default)]
    from: usize,
}

async fn job_log(
    State(double): Shared,
    Path(id): Path<String>,
    Query(part): Query<From>,
) -> Response {
    match double.job_log(&id, part.from) {
        Some(log) => ([(header::CONTENT_TYPE, "text/plain")], log).into_response(),
        None => missing("job"),
    }
}

async fn cancel_job(State(double): Shared, Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "cancelled": double.cancel_job(&id) }))
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events(State(double): Shared, Query(part): Query<After>) -> Json<Vec<Event>> {
    Json(double.events_since(part.after))
}

async fn runners(State(double): Shared) -> Json<Vec<RunnerView>> {
    Json(double.runners())
}

#[derive(Deserialize)]
struct Posted {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    body: Value,
}

async fn send_message(
    State(double): Shared,
    Path(name): Path<String>,
    Json(message): Json<Posted>,
) -> Response {
    if double.send_message(&name, &message.kind, &message.body) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        missing("runner")
    }
}

async fn faults(State(double): Shared) -> Json<Vec<Armed>> {
    Json(double.faults())
}

async fn fail(State(double): Shared, Json(rule): Json<Rule>) -> Json<Value> {
    Json(json!({ "id": double.fail(rule) }))
}

async fn clear_faults(State(double): Shared) -> StatusCode {
    double.clear_faults();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Offset {
    offset_seconds: i64,
}

async fn set_clock(State(double): Shared, Json(clock): Json<Offset>) -> StatusCode {
    double.set_clock_offset(clock.offset_seconds);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct NewScope {
    scope: Scope,
    #[serde(default)]
    groups: Vec<Group>,
}

async fn add_scope(State(double): Shared, Json(new): Json<NewScope>) -> StatusCode {
    double.add_scope(new.scope, new.groups);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct NewApp {
    id: u64,
    #[serde(default)]
    client_id: String,
    public_key: String,
    #[serde(default)]
    grant: Grant,
}

async fn add_app(State(double): Shared, Json(new): Json<NewApp>) -> StatusCode {
    double.add_app(App {
        id: new.id,
        client_id: new.client_id,
        public_key: new.public_key,
        grant: new.grant,
    });
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct NewToken {
    #[serde(flatten)]
    kind: TokenKind,
    #[serde(default = "an_hour")]
    seconds: i64,
}

fn an_hour() -> i64 {
    3600
}

async fn mint_token(State(double): Shared, Json(new): Json<NewToken>) -> Json<Value> {
    Json(json!({ "token": double.mint_token(new.kind, new.seconds) }))
}

async fn set_versions(State(double): Shared, Json(versions): Json<Versions>) -> StatusCode {
    double.set_versions(versions);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Whose {
    runner: Option<String>,
}

async fn listener(State(double): Shared, Query(whose): Query<Whose>) -> Json<Script> {
    Json(double.script_of(&whose.runner.unwrap_or_default()))
}

async fn set_listener(
    State(double): Shared,
    Query(whose): Query<Whose>,
    Json(script): Json<Script>,
) -> StatusCode {
    double.script(whose.runner.as_deref(), script);
    StatusCode::NO_CONTENT
}

fn missing(what: &str) -> Response {
    let body = Json(json!({ "message": format!("no such {what}") }));
    (StatusCode::NOT_FOUND, body).into_response()
}
