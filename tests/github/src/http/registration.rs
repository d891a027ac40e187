//! The two calls by which `config.sh` registers a runner (actions/runner
//! `ConfigurationManager.cs`, `RunnerDotcomServer.cs`).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::routing::post;
use serde_json::{Value, json};

use super::Base;
use super::caller::Caller;
use super::reply::{Reply, parse_json};
use crate::double::Double;
use crate::rsa_key::PublicKey;
use crate::world::credentials::Holder;
use crate::world::refusal::Refusal;
use crate::world::runners::{Application, DEFAULT_GROUP};
use crate::world::scope::Scope;
use crate::world::versions::is_older;
use crate::world::{World, random_letters};

type Answer = Result<Reply, Refusal>;

pub(crate) fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/actions/runner-registration", post(runner_registration))
        .route("/actions/runners/register", post(register))
}

async fn runner_registration(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let body = parse_json(&body)?;
    double.look(|world| {
        check_version(world, &runner_version(&headers))?;
        check_token(world, &caller, &body)?;
        Ok(Reply::ok(json!({
            "url": format!("{}/_pipelines/", base.origin),
            "token_schema": "OAuthAccessToken",
            "token": random_letters(64),
            "use_v2_flow": true,
        })))
    })
}

/// Whoever presents a wrong or expired token is told 404, like whoever names a wrong URL.
fn check_token(world: &World, caller: &Caller, body: &Value) -> Result<Scope, Refusal> {
    let scope = body["url"]
        .as_str()
        .and_then(Scope::from_url)
        .ok_or_else(Refusal::not_found)?;
    match world.credentials.holder(&caller.token, world.now()) {
        Some(Holder::Registration(own) | Holder::Removal(own)) if *own == scope => Ok(scope),
        _ => Err(Refusal::not_found()),
    }
}

fn check_version(world: &World, version: &str) -> Result<(), Refusal> {
    match &world.versions.minimum_registration {
        Some(floor) if is_older(version, floor) => Err(Refusal::rest(
            404,
            format!(
                "The minimum runner version required to register with GitHub Actions is now \
                 {floor}. Please update your runner to the latest version."
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

/// A runner says its version in `User-Agent: GitHubActionsRunner-linux-x64/2.336.0 …`.
fn runner_version(headers: &HeaderMap) -> String {
    headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .and_then(|agent| {
            let product = agent
                .split(' ')
                .find(|product| product.starts_with("GitHubActionsRunner-"))?;
            Some(product.split_once('/')?.1.to_owned())
        })
        .unwrap_or_default()
}

async fn register(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let body = parse_json(&body)?;
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let public_key = PublicKey::from_xml(&text("public_key"))
        .map_err(|error| Refusal::invalid_field("public_key", &error.to_string()))?;
    double.change(|world| {
        let version = text("version");
        check_version(world, &version)?;
        let scope = check_token(world, &caller, &body)?;
        let wanted = Application {
            scope,
            name: text("name"),
            group: body["group_id"].as_u64().unwrap_or(DEFAULT_GROUP),
            labels: labels(&body["labels"]),
            ephemeral: body["ephemeral"] == json!(true),
            version: Some(version),
        };
        let runner = match body["runner_id"].as_u64() {
            Some(id) if body["replace"] == json!(true) => world.replace(id, wanted, public_key)?,
            _ => world.register(wanted, public_key)?,
        };
        Ok(Reply::ok(json!({
            "id": runner.id,
            "name": runner.name,
            "authorization": {
                "authorization_url": format!("{}/_apis/oauth2/token", base.origin),
                "server_url": format!("{}/", base.origin),
                "client_id": runner.client_id,
            },
        }))
        .runner(Some(runner.name.clone())))
    })
}

/// Labels come as objects with a name, from an older runner as plain strings.
fn labels(labels: &Value) -> Vec<String> {
    labels
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|label| label.as_str().or_else(|| label["name"].as_str()))
        .map(str::to_owned)
        .collect()
}
