//! The service's surface: routes, and the pieces that every handler uses.
//!
//! One file per part of GitHub. Handlers translate only: they read the request, call the world,
//! and shape the answer.

mod apps;
mod broker;
mod caller;
mod control;
mod page;
mod registration;
mod reply;
mod run_service;
mod runners;

use std::sync::Arc;

use axum::Router;

use crate::double::Double;
pub(crate) use reply::{About, slow_body};

/// Where the request came in; the start of every URL that is handed out.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// `http://` and the request's `Host`.
    pub(crate) origin: String,
    /// `/api/v3` or nothing. Only the REST API has two addresses.
    pub(crate) prefix: &'static str,
}

pub(crate) fn router(double: Arc<Double>) -> Router {
    let rest = runners::routes()
        .merge(apps::routes())
        .merge(registration::routes())
        .route_layer(axum::middleware::from_fn_with_state(
            Arc::clone(&double),
            caller::check_rest_headers,
        ));
    rest.merge(broker::routes())
        .merge(run_service::routes())
        .merge(control::routes())
        .fallback(reply::no_such_route)
        .with_state(double)
}
