//! The REST endpoints of a GitHub App.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::Base;
use super::caller::Caller;
use super::page::Page;
use super::reply::{Reply, parse_json};
use super::runners::InScope;
use crate::clock::rest_time;
use crate::double::Double;
use crate::jwt;
use crate::world::World;
use crate::world::apps::{App, Installation};
use crate::world::credentials::Grant;
use crate::world::refusal::Refusal;

type Answer = Result<Reply, Refusal>;

pub(crate) fn routes() -> Router<Arc<Double>> {
    Router::new()
        .route("/app", get(app))
        .route("/app/installations", get(installations))
        .route("/app/installations/{id}/access_tokens", post(access_token))
        .route("/repos/{owner}/{repo}/installation", get(installation))
        .route("/orgs/{org}/installation", get(installation))
        .route("/enterprises/{enterprise}/installation", get(installation))
}

fn verified<'a>(world: &'a World, caller: &Caller) -> Result<&'a App, Refusal> {
    jwt::verify_app(&caller.token, &world.apps, world.now())
}

async fn app(State(double): State<Arc<Double>>, caller: Caller) -> Answer {
    double.look(|world| {
        let app = verified(world, &caller)?;
        Ok(Reply::ok(
            json!({ "id": app.id, "client_id": app.client_id, "slug": "double", "name": "double" }),
        ))
    })
}

async fn installations(
    State(double): State<Arc<Double>>,
    Extension(base): Extension<Base>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer {
    double.look(|world| {
        let app = verified(world, &caller)?;
        let all = world
            .installations
            .iter()
            .map(|installation| describe(app, installation))
            .collect();
        let url = format!("{}{}/app/installations", base.origin, base.prefix);
        let (items, link, _) = page.pick(all, &url, "");
        Ok(Reply::ok(Value::Array(items)).link(&link))
    })
}

async fn installation(State(double): State<Arc<Double>>, caller: Caller, place: InScope) -> Answer {
    double.look(|world| {
        let app = verified(world, &caller)?;
        let installation = world.installation_of(&place.scope)?;
        Ok(Reply::ok(describe(app, installation)))
    })
}

async fn access_token(
    State(double): State<Arc<Double>>,
    caller: Caller,
    Path(id): Path<u64>,
    body: Bytes,
) -> Answer {
    let app = double.look(|world| verified(world, &caller).cloned())?;
    let wanted = wanted(&parse_json(&body)?, &app)?;
    double.change(|world| {
        let issued = world.installation_token(&app, id, &wanted)?;
        Ok(Reply::json(
            StatusCode::CREATED,
            json!({
                "token": issued.token,
                "expires_at": rest_time(issued.expires_at),
                "permissions": permissions(&wanted),
                "repository_selection": "all",
            }),
        ))
    })
}

/// A token with fewer rights than the App has, if the body asks for one. Asking for more: 422.
fn wanted(body: &Value, app: &App) -> Result<Grant, Refusal> {
    let Some(permissions) = body.get("permissions").and_then(Value::as_object) else {
        return Ok(app.grant.clone());
    };
    let writes = |names: &[&str]| {
        names
            .iter()
            .any(|name| permissions.get(*name).and_then(Value::as_str) == Some("write"))
    };
    let grant = Grant {
        scopes: None,
        runners: writes(&["administration", "organization_self_hosted_runners"]),
        actions: writes(&["actions"]),
    };
    if (grant.runners && !app.grant.runners) || (grant.actions && !app.grant.actions) {
        return Err(Refusal::rest(
            422,
            "The permissions requested are not granted to this installation.",
        ));
    }
    Ok(grant)
}

fn permissions(grant: &Grant) -> Value {
    let mut permissions = json!({ "metadata": "read" });
    if grant.runners {
        permissions["administration"] = json!("write");
        permissions["organization_self_hosted_runners"] = json!("write");
    }
    if grant.actions {
        permissions["actions"] = json!("write");
    }
    permissions
}

fn describe(app: &App, installation: &Installation) -> Value {
    json!({
        "id": installation.id,
        "app_id": app.id,
        "account": { "login": installation.account, "type": installation.kind },
        "target_type": installation.kind,
        "repository_selection": "all",
        "permissions": permissions(&app.grant),
        "suspended_at": null,
    })
}
