//! The run service: taking a job, keeping it, ending it; and where its log goes.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

use super::Base;
use super::caller::Caller;
use super::reply::{Reply, parse_json};
use crate::double::Double;
use crate::world::World;
use crate::world::credentials::Holder;
use crate::world::jobs::Report;
use crate::world::refusal::Refusal;

type Answer = Result<Reply, Refusal>;

pub(crate) fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/acquirejob", post(acquire))
        .route("/renewjob", post(renew))
        .route("/completejob", post(complete))
        .route("/_results/jobs/{id}/log", post(append_log))
        .layer(DefaultBodyLimit::max(64 << 20))
}

async fn acquire(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let body = parse_json(&body)?;
    let job = text(&body, "jobMessageId");
    double.change(|world| {
        let id = match world.credentials.holder(&caller.token, world.now()) {
            Some(Holder::Runner(id)) => *id,
            _ => return Err(Refusal::run_service(401, "the token is not valid")),
        };
        let message = world.acquire(id, job, &base.origin)?;
        Ok(Reply::ok(message).runner(world.runner_name(id)).job(job))
    })
}

async fn renew(State(double): State<Arc<Double>>, caller: Caller, body: Bytes) -> Answer {
    let body = parse_json(&body)?;
    let job = text(&body, "jobId");
    double.look(|world| {
        check_job(world, &caller, job)?;
        Ok(Reply::ok(world.renew(job)?).job(job))
    })
}

async fn complete(State(double): State<Arc<Double>>, caller: Caller, body: Bytes) -> Answer {
    let body = parse_json(&body)?;
    let job = text(&body, "jobId");
    let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
    let report = Report {
        conclusion: text(&body, "conclusion").to_owned(),
        steps: list("stepResults")
            .iter()
            .map(|step| {
                (
                    text(step, "name").to_owned(),
                    text(step, "conclusion").to_owned(),
                )
            })
            .collect(),
        annotations: list("annotations")
            .iter()
            .map(|annotation| text(annotation, "message").to_owned())
            .collect(),
    };
    double.change(|world| {
        check_job(world, &caller, job)?;
        world.complete(job, report)?;
        Ok(Reply::ok(json!({})).job(job))
    })
}

async fn append_log(
    State(double): State<Arc<Double>>,
    caller: Caller,
    Path(id): Path<String>,
    chunk: Bytes,
) -> Answer {
    double.change(|world| {
        check_job(world, &caller, &id)?;
        if let Some(job) = world.job_mut(&id) {
            job.log.extend_from_slice(&chunk);
        }
        Ok(Reply::empty(StatusCode::NO_CONTENT).job(id.as_str()))
    })
}

/// The token that came with the job message, and only for its own job.
fn check_job(world: &World, caller: &Caller, id: &str) -> Result<(), Refusal> {
    match world.credentials.holder(&caller.token, world.now()) {
        Some(Holder::Job(own)) if own == id => Ok(()),
        _ => Err(Refusal::run_service(401, "the token is not for this job")),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
