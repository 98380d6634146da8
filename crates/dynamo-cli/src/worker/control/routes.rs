//! What the control port answers at which path.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dynamo_discovery::WorkerState;
use dynamo_http::KeyHash;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::time::timeout;
use tracing::info;

use super::config::ControlKey;
use super::facts::Facts;
use super::metrics;
use crate::worker::register::Offering;

/// How long an answer waits for the store to follow.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The routes. Without a key there is none that changes anything.
pub(super) fn router(facts: Facts, key: Option<ControlKey>) -> Router {
    let asked = Router::new()
        .route("/instance/{id}", get(instance))
        .route("/live", get(async || StatusCode::OK))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::page))
        .with_state(facts.clone());
    match key {
        None => asked,
        Some(key) => asked.merge(
            Router::new()
                .route("/drain", post(drain))
                .route("/undrain", post(undrain))
                .with_state(Keyed { facts, key }),
        ),
    }
}

/// The facts, and the key of those who may change them.
#[derive(Clone)]
struct Keyed {
    facts: Facts,
    key: ControlKey,
}

/// Every id but the worker's own is unknown: there is no list, and nothing to tell ids apart by.
async fn instance(State(facts): State<Facts>, Path(id): Path<String>) -> Response {
    if id != facts.instance.to_string() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (headers, facts.status().to_json()).into_response()
}

async fn ready(State(facts): State<Facts>) -> StatusCode {
    if facts.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn drain(State(keyed): State<Keyed>, headers: HeaderMap) -> Response {
    keyed.change(&headers, Offering::Open, Offering::Drained, "told to drain").await
}

async fn undrain(State(keyed): State<Keyed>, headers: HeaderMap) -> Response {
    keyed.change(&headers, Offering::Drained, Offering::Open, "told to serve again").await
}

impl Keyed {
    /// Changes the offering, and waits until the store has followed: 200 then, 202 where that takes
    /// longer. What is so already stays so. A worker that ends is not stopped from ending: 409.
    async fn change(
        &self,
        headers: &HeaderMap,
        from: Offering,
        to: Offering,
        told: &str,
    ) -> Response {
        if !self.admits(headers) {
            return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response();
        }
        let Facts { offering, registration, engine, .. } = &self.facts;
        let changed = offering.send_if_modified(|offering| {
            let changes = *offering == from;
            if changes {
                *offering = to;
            }
            changes
        });
        if changed {
            info!("{told}");
        } else if *offering.borrow() != to {
            return StatusCode::CONFLICT.into_response();
        }
        // Without an engine in service there is nothing to register.
        let registers = to == Offering::Open && !engine.borrow().models.is_empty();
        let settled = async {
            let mut registration = registration.clone();
            let _ = registration.wait_for(|report| (report.models > 0) == registers).await;
        };
        let in_time = timeout(SETTLE_TIMEOUT, settled).await.is_ok();
        let status = if in_time { StatusCode::OK } else { StatusCode::ACCEPTED };
        let registered = registration.borrow().models;
        let state: WorkerState = self.facts.state();
        (status, Json(json!({ "state": state, "registered": registered }))).into_response()
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = sent.and_then(|sent| {
            let (scheme, key) = sent.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        // Two hashes are compared in constant time.
        key.and_then(|key| KeyHash::of(key).ok()).is_some_and(|hash| hash == self.key.hash())
    }
}
