//! The pages of a front door: models, health, readiness and metrics.
//!
//! The pages of models are made from the caller's sight, health and metrics from the view of the
//! frontend's scope. So no page shows anything of another scope.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};
use dynamo_discovery::{Instance, InstanceId};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::metrics::text;
use super::state::{Reader, State};
use crate::access::Caller;
use crate::alias::{Offer, Offered};
use crate::error::ApiError;
use crate::fleet::Fleet;
use crate::proxy::unknown;
use crate::route::Route;
use crate::view::View;

/// `GET /v1/models`, as in the OpenAI API reference.
pub(super) async fn models(Shared(state): Shared<Arc<State>>, caller: Caller) -> Json<Value> {
    let sight = state.proxy.lens(&caller).look();
    let aliases = state.proxy.aliases.load();
    let listed = Offer::new(&sight, aliases.as_deref()).listed();
    let data: Vec<Value> = listed.iter().map(describe).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// `GET /v1/models/{id}`; ids have slashes, plain or encoded.
pub(super) async fn model(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let sight = state.proxy.lens(&caller).look();
    let aliases = state.proxy.aliases.load();
    let found = Offer::new(&sight, aliases.as_deref()).get(&id);
    let found = found.ok_or_else(|| unknown(sight.is_ready(), &id))?;
    Ok(Json(describe(&found)))
}

fn describe(offered: &Offered<'_>) -> Value {
    let (id, created, context_length) = match offered {
        Offered::Model(model) => (model.name(), model.created(), model.context_length()),
        Offered::Alias(shown) => (shown.alias.name(), shown.created(), shown.context_length()),
    };
    let mut value = json!({
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": "dynamo",
    });
    if let Some(context_length) = context_length {
        value["context_length"] = context_length.into();
    }
    value
}

/// `GET /health`: always 200, in Dynamo's shape with further fields.
pub(super) async fn health(Shared(state): Shared<Arc<State>>, reader: Reader) -> Response {
    let all = state.clone();
    let make = move || describe_all(&all, reader).to_string().into();
    let page = state.reports(reader).health.read(state.all.load().size(), make).await;
    ([(header::CONTENT_TYPE, "application/json")], page).into_response()
}

fn describe_all(state: &State, reader: Reader) -> Value {
    let view = state.all.load();
    let fleet = &state.proxy.forwarder.fleet;
    let mut endpoints: Vec<String> =
        view.instances().map(|instance| instance.endpoint().as_url()).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    let instances: Vec<Value> =
        view.instances().map(|instance| describe_instance(&view, fleet, instance)).collect();
    let sources: Vec<Value> = state
        .discovery
        .sources()
        .iter()
        .map(|source| {
            let mut value = json!({
                "source": source.name(),
                "connected": source.connected(),
                "synced": source.synced(),
                "stale_seconds": source.stale_seconds(),
            });
            if source.remembered() > 0 {
                value["remembered"] = source.remembered().into();
            }
            if reader == Reader::Operator {
                value["revision"] = source.revision().0.into();
            }
            value
        })
        .collect();
    let routes: Vec<&str> = Route::of(view.open_kinds()).map(Route::path).collect();
    json!({
        "status": if state.is_draining() { "draining" } else if view.is_ready() { "healthy" } else { "starting" },
        "endpoints": endpoints,
        "instances": instances,
        "routes": routes,
        "discovery": sources,
    })
}

fn describe_instance(view: &View, fleet: &Fleet, instance: &Instance) -> Value {
    let endpoint = instance.endpoint();
    let mut value = json!({
        "namespace": endpoint.namespace().as_str(),
        "component": endpoint.component(),
        "endpoint": endpoint.name(),
        // As text, since an id is larger than the integers that a double holds.
        "instance_id": instance.id().as_ref().map(InstanceId::to_string),
        "model": instance.model(),
    });
    if instance.url().is_none() {
        value["unroutable"] = true.into();
    }
    if view.is_held(instance) {
        value["held"] = true.into();
    }
    if let Some(outage) = fleet.out_of_rotation(instance) {
        value["out_of_rotation"] = outage.reason.into();
    }
    value
}

/// `GET /live`: the process answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// `GET /ready`: 200 when every source has delivered its first list and the front door does not
/// drain.
///
/// An outage of the store leaves it at 200: otherwise an orchestrator would restart all frontends
/// at once.
pub(super) async fn ready(Shared(state): Shared<Arc<State>>) -> Response {
    let (status, text) = if state.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if state.all.load().is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    };
    (status, Json(json!({ "status": text }))).into_response()
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn metrics(Shared(state): Shared<Arc<State>>, reader: Reader) -> Response {
    let all = state.clone();
    let page = state
        .reports(reader)
        .metrics
        .read(state.all.load().size(), move || text(&all, reader).into())
        .await;
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response()
}
