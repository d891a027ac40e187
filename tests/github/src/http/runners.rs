//! The REST endpoints for self-hosted runners of a repository, an organisation, an enterprise.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequestParts, Query, RawPathParams, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Base;
use super::caller::Caller;
use super::page::Page;
use super::reply::{Reply, parse_json};
use crate::clock::rest_time;
use crate::double::Double;
use crate::world::credentials::{Deed, Holder};
use crate::world::refusal::Refusal;
use crate::world::runners::{Application, jit_configuration};
use crate::world::scope::Scope;

type Answer = Result<Reply, Refusal>;

const MOST_LABELS: usize = 100;

pub(crate) fn routes() -> Router<Arc<Double>> {
    let mut router = Router::new().route(
        "/repos/{owner}/{repo}/actions/runs/{run_id}/cancel",
        post(cancel_run),
    );
    for scope in [
        "/repos/{owner}/{repo}",
        "/orgs/{org}",
        "/enterprises/{enterprise}",
    ] {
        let at = |rest: &str| format!("{scope}/actions/{rest}");
        router = router
            .route(&at("runners"), get(list))
            .route(&at("runners/registration-token"), post(registration_token))
            .route(&at("runners/remove-token"), post(remove_token))
            .route(&at("runners/generate-jitconfig"), post(generate_jit))
            .route(&at("runners/deprecations/{version}"), get(deprecation))
            .route(&at("runners/{id}"), get(show).delete(delete))
            .route(&at("runner-groups"), get(groups));
    }
    router
}

/// The scope that a path names, and what else stands in it.
pub(crate) struct InScope {
    pub(crate) scope: Scope,
    rest: Vec<(String, String)>,
}

impl InScope {
    fn text(&self, name: &str) -> &str {
        self.rest
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    fn number(&self, name: &str) -> Result<u64, Refusal> {
        self.text(name).parse().map_err(|_| Refusal::not_found())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InScope {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Refusal::not_found())?;
        let rest: Vec<(String, String)> = params
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let text = |name: &str| {
            rest.iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        };
        let scope = match (text("owner"), text("repo"), text("org"), text("enterprise")) {
            (Some(owner), Some(name), None, None) => Scope::Repository { owner, name },
            (None, None, Some(name), None) => Scope::Organization(name),
            (None, None, None, Some(name)) => Scope::Enterprise(name),
            _ => return Err(Refusal::not_found()),
        };
        Ok(Self { scope, rest })
    }
}

async fn registration_token(
    State(double): State<Arc<Double>>,
    caller: Caller,
    place: InScope,
) -> Answer {
    issue(
        &double,
        &caller,
        &place,
        Holder::Registration(place.scope.clone()),
    )
}

async fn remove_token(State(double): State<Arc<Double>>, caller: Caller, place: InScope) -> Answer {
    issue(
        &double,
        &caller,
        &place,
        Holder::Removal(place.scope.clone()),
    )
}

fn issue(double: &Double, caller: &Caller, place: &InScope, holder: Holder) -> Answer {
    double.change(|world| {
        world.authorize(&caller.token, Deed::ManageRunners, &place.scope)?;
        let issued = world.issue("A", holder, 3600);
        Ok(Reply::json(
            StatusCode::CREATED,
            json!({ "token": issued.token, "expires_at": rest_time(issued.expires_at) }),
        ))
    })
}

async fn generate_jit(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    place: InScope,
    body: Bytes,
) -> Answer {
    double.look(|world| world.authorize(&caller.token, Deed::ManageRunners, &place.scope))?;
    let body = parse_json(&body)?;
    let wanted = Application {
        name: body["name"]
            .as_str()
            .ok_or_else(|| Refusal::invalid_field("name", "wasn't supplied"))?
            .to_owned(),
        group: body["runner_group_id"]
            .as_u64()
            .ok_or_else(|| Refusal::invalid_field("runner_group_id", "wasn't supplied"))?,
        labels: label_names(&body["labels"])?,
        scope: place.scope,
        ephemeral: true,
        version: None,
    };
    let work_folder = match body.get("work_folder") {
        Some(folder) => folder
            .as_str()
            .ok_or_else(|| Refusal::invalid_field("work_folder", "is not a string"))?,
        None => "_work",
    };
    let keys = Arc::clone(&double);
    // Making one takes a while, and others are answered meanwhile.
    let key = tokio::task::spawn_blocking(move || keys.keys.take())
        .await
        .map_err(anyhow::Error::from)
        .flatten()
        .map_err(|error| Refusal::rest(500, error.to_string()))?;
    double.change(|world| {
        let runner = world.register(wanted, key.public())?;
        let encoded = jit_configuration(runner, &key, &base.origin, work_folder);
        let (id, name) = (runner.id, runner.name.clone());
        let runner = world.describe(world.any_runner(id)?);
        let body = json!({ "runner": runner, "encoded_jit_config": encoded });
        Ok(Reply::json(StatusCode::CREATED, body).runner(Some(name)))
    })
}

fn label_names(labels: &Value) -> Result<Vec<String>, Refusal> {
    let problem = |text: &str| Refusal::invalid_field("labels", text);
    let labels = labels
        .as_array()
        .ok_or_else(|| problem("wasn't supplied"))?;
    if labels.is_empty() || labels.len() > MOST_LABELS {
        return Err(problem("must have 1 to 100 items"));
    }
    labels
        .iter()
        .map(|label| label.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| problem("has an item that is not a string"))
}

#[derive(Deserialize)]
struct Listing {
    name: Option<String>,
    #[serde(flatten)]
    page: Page,
}

async fn list(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    place: InScope,
    Query(listing): Query<Listing>,
) -> Answer {
    double.look(|world| {
        world.authorize(&caller.token, Deed::ReadForRegistration, &place.scope)?;
        let found: Vec<Value> = world
            .present()
            .filter(|runner| runner.scope == place.scope)
            .filter(|runner| {
                listing
                    .name
                    .as_ref()
                    .is_none_or(|name| *name == runner.name)
            })
            .map(|runner| world.describe(runner))
            .collect();
        let path = format!("{}/runners", api_path(&base, &place.scope));
        let name = listing.name.as_ref().map(|name| format!("name={name}&"));
        Ok(listing
            .page
            .cut("runners", found, &path, &name.unwrap_or_default()))
    })
}

async fn groups(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    place: InScope,
    Query(page): Query<Page>,
) -> Answer {
    double.look(|world| {
        world.authorize(&caller.token, Deed::ReadForRegistration, &place.scope)?;
        let found = world
            .groups(&place.scope)
            .iter()
            .map(|group| {
                let default = group.id == crate::world::runners::DEFAULT_GROUP;
                json!({ "id": group.id, "name": group.name, "default": default,
                    "is_hosted": false, "visibility": "all" })
            })
            .collect();
        let path = format!("{}/runner-groups", api_path(&base, &place.scope));
        Ok(page.cut("runner_groups", found, &path, ""))
    })
}

async fn show(State(double): State<Arc<Double>>, caller: Caller, place: InScope) -> Answer {
    let id = place.number("id")?;
    double.look(|world| {
        world.authorize(&caller.token, Deed::ManageRunners, &place.scope)?;
        let runner = world.runner(&place.scope, id)?;
        Ok(Reply::ok(world.describe(runner)).runner(Some(runner.name.clone())))
    })
}

async fn delete(State(double): State<Arc<Double>>, caller: Caller, place: InScope) -> Answer {
    let id = place.number("id")?;
    double.change(|world| {
        world.authorize(&caller.token, Deed::DeleteRunner, &place.scope)?;
        let name = world.delete_runner(&place.scope, id)?;
        Ok(Reply::empty(StatusCode::NO_CONTENT).runner(Some(name)))
    })
}

async fn deprecation(State(double): State<Arc<Double>>, caller: Caller, place: InScope) -> Answer {
    let version = place.text("version");
    double.look(|world| {
        world.authorize(&caller.token, Deed::ManageRunners, &place.scope)?;
        let end = world
            .versions
            .deprecations
            .get(version)
            .ok_or_else(Refusal::not_found)?;
        Ok(Reply::ok(
            json!({ "runner_version": version, "runtime_deprecates_at": end }),
        ))
    })
}

async fn cancel_run(State(double): State<Arc<Double>>, caller: Caller, place: InScope) -> Answer {
    let run_id = place.number("run_id")?;
    double.change(|world| {
        world.authorize(&caller.token, Deed::CancelRun, &place.scope)?;
        world.cancel_run(&place.scope.to_string(), run_id)?;
        Ok(Reply::json(StatusCode::ACCEPTED, json!({})))
    })
}

fn api_path(base: &Base, scope: &Scope) -> String {
    let scope = match scope {
        Scope::Repository { .. } => format!("repos/{scope}"),
        Scope::Organization(_) => format!("orgs/{scope}"),
        Scope::Enterprise(_) => scope.to_string(),
    };
    format!("{}{}/{scope}/actions", base.origin, base.prefix)
}
