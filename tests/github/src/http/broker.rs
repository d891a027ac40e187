//! The token endpoint and the broker: what a connected listener talks to.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Query, State};
use axum::http::{StatusCode, Uri};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Base;
use super::caller::Caller;
use super::reply::{Reply, parse_json};
use crate::double::Double;
use crate::jwt;
use crate::world::World;
use crate::world::credentials::Holder;
use crate::world::refusal::Refusal;
use crate::world::runners::Registration;
use crate::world::sessions::{Answer as Poll, PollChange};

type Answer = Result<Reply, Refusal>;

/// How long a runner's access token is good.
const TOKEN_LIFE: i64 = 3600;

pub(crate) fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/_apis/oauth2/token", post(token))
        .route("/session", post(open_session).delete(close_session))
        .route("/message", get(message))
        .route("/acknowledge", post(acknowledge))
}

#[derive(Deserialize)]
struct TokenRequest {
    grant_type: Option<String>,
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
}

/// The client credentials grant. `invalid_client` says that the registration is gone; an
/// ephemeral one that had its job counts as gone, whether or not it is still listed.
async fn token(State(double): State<Arc<Double>>, body: String) -> Answer {
    let form = Uri::builder()
        .path_and_query(format!("/?{}", body.trim()))
        .build()
        .ok()
        .and_then(|uri| Query::<TokenRequest>::try_from_uri(&uri).ok())
        .ok_or_else(|| Refusal::oauth("invalid_request", "the form does not parse"))?
        .0;
    if form.grant_type.as_deref() != Some("client_credentials")
        || form.client_assertion_type.as_deref()
            != Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    {
        return Err(Refusal::oauth(
            "unsupported_grant_type",
            "client_credentials only",
        ));
    }
    let assertion = form.client_assertion.unwrap_or_default();
    let client_id = jwt::claimed_issuer(&assertion)
        .ok_or_else(|| Refusal::oauth("invalid_request", "client_assertion is no JWT"))?;
    double.change(|world| {
        let deleted = || {
            let text = format!("Registration {client_id} was not found.");
            Refusal::oauth("invalid_client", text)
        };
        let runner = world.runner_by_client(&client_id).ok_or_else(deleted)?;
        let spent = runner.ephemeral && runner.consumed && runner.job.is_none();
        if runner.registration != Registration::Present || spent {
            return Err(deleted());
        }
        jwt::verify_runner(&assertion, &runner.public_key, &client_id, world.now())?;
        let (id, name) = (runner.id, runner.name.clone());
        let issued = world.issue("runner_", Holder::Runner(id), TOKEN_LIFE);
        Ok(Reply::ok(json!({
            "access_token": issued.token,
            "token_type": "bearer",
            "expires_in": TOKEN_LIFE,
        }))
        .runner(Some(name)))
    })
}

fn runner_of(world: &World, caller: &Caller) -> Result<u64, Refusal> {
    match world.credentials.holder(&caller.token, world.now()) {
        Some(Holder::Runner(id)) => Ok(*id),
        _ => Err(Refusal::broker(
            401,
            "Unauthorized",
            "The token is not valid.",
        )),
    }
}

async fn open_session(State(double): State<Arc<Double>>, caller: Caller, body: Bytes) -> Answer {
    let body = parse_json(&body)?;
    double.change(|world| {
        let id = runner_of(world, &caller)?;
        let version = body["agent"]["version"].as_str().map(str::to_owned);
        let session = world.open_session(id, version)?;
        Ok(Reply::ok(session).runner(world.runner_name(id)))
    })
}

async fn close_session(State(double): State<Arc<Double>>, caller: Caller) -> Answer {
    double.change(|world| {
        let id = runner_of(world, &caller)?;
        world.close_session(id)?;
        Ok(Reply::empty(StatusCode::NO_CONTENT).runner(world.runner_name(id)))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Poller {
    session_id: String,
    runner_version: String,
}

async fn message(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    Query(poller): Query<Poller>,
) -> Answer {
    let id = double.look(|world| runner_of(world, &caller))?;
    let name = double.look(|world| world.runner_name(id));
    let mut changes = double.changes();
    let _open = OpenPoll::begin(Arc::clone(&double), id);
    let deadline = Instant::now() + double.long_poll;
    loop {
        changes.mark_unchanged();
        let answer = double.look(|world| {
            world.next_message(id, &poller.session_id, &poller.runner_version, &base.origin)
        })?;
        if let Poll::Message(message) = answer {
            let body = serde_json::to_value(&message).unwrap_or(Value::Null);
            return Ok(Reply::ok(body).runner(name));
        }
        // Offers and locks end by time alone, so have a look now and then.
        let again = deadline.min(Instant::now() + Duration::from_secs(1));
        let woken = tokio::time::timeout_at(again, changes.changed()).await;
        if woken.is_err() && Instant::now() >= deadline {
            return Ok(Reply::empty(StatusCode::ACCEPTED).runner(name));
        }
    }
}

/// Counts as a connection from the first look to the last, also when the client hangs up.
struct OpenPoll {
    double: Arc<Double>,
    runner: u64,
}

impl OpenPoll {
    fn begin(double: Arc<Double>, runner: u64) -> Self {
        double.look(|world| world.count_poll(runner, PollChange::Begins));
        Self { double, runner }
    }
}

impl Drop for OpenPoll {
    fn drop(&mut self) {
        self.double
            .look(|world| world.count_poll(self.runner, PollChange::Ends));
    }
}

async fn acknowledge(State(double): State<Arc<Double>>, caller: Caller, body: Bytes) -> Answer {
    let body = parse_json(&body)?;
    let job = body["runnerRequestId"].as_str().unwrap_or_default();
    double.look(|world| {
        let id = runner_of(world, &caller)?;
        world.acknowledge(id, job)?;
        let reply = Reply::empty(StatusCode::NO_CONTENT).job(job);
        Ok(reply.runner(world.runner_name(id)))
    })
}
