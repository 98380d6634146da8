//! `/status`: the state of the front door for operators, as a page, as JSON, and as a stream of events.
//!
//! It is on the admin port only, behind [`AdminAccess`](super::AdminAccess).

mod history;
mod page;
mod problems;
mod query;
mod report;
pub(super) mod shared;
mod snapshot;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::history::{EVERY, Sample};
use self::query::Query;
use self::shared::STREAMS;
use self::snapshot::Snapshot;
use super::state::State;
use crate::error::ApiError;

/// The time between two events of a stream.
const EVENT_EVERY: Duration = Duration::from_secs(2);

/// Has a task note what was counted, as often as rates need it, for as long as the front door lives.
///
/// A front door has one such task, however many routers ask for it: the history keeps a number of notes,
/// and more frequent ones would cover less time.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub(super) fn note_while(state: &Arc<State>) {
    if !state.status.is_first_to_note() {
        return;
    }
    let state = Arc::downgrade(state);
    tokio::spawn(async move {
        let mut ticks = interval(EVERY);
        loop {
            ticks.tick().await;
            let Some(state) = state.upgrade() else { return };
            note(state).await;
        }
    });
}

/// Notes what was counted so far, beside the threads that serve clients.
async fn note(state: Arc<State>) {
    let note = move || {
        let sample = Sample::of(&state.proxy.forwarder.metrics, Instant::now());
        state.status.history().note(sample);
    };
    // A panic there is one of a metric, and the front door serves on without the note.
    let _ = spawn_blocking(note).await;
}

/// The routes of the status.
pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/status", get(page::page))
        .route("/status.json", get(json))
        .route("/status/events", get(events))
}

/// `GET /status.json`
async fn json(
    Shared(state): Shared<Arc<State>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    let text = text(&state, &query).await;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// `GET /status/events`: the same, every two seconds, as server-sent events.
async fn events(
    Shared(state): Shared<Arc<State>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref())?;
    let Ok(place) = state.status.streams.clone().try_acquire_owned() else {
        let message = format!("There are {STREAMS} streams of the status already.");
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message);
        return Err(error.with_code("too_many_status_streams").with_retry_after(EVENT_EVERY));
    };
    let mut ticks = interval(EVENT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = unfold((state, query, ticks, place), async |(state, query, mut ticks, place)| {
        ticks.tick().await;
        let text = text(&state, &query).await;
        // JSON has no line break, so it is one line of an event.
        let event = [b"data: ", &text[..], b"\n\n"].concat();
        let next: (_, _, _, OwnedSemaphorePermit) = (state, query, ticks, place);
        Some((Ok::<_, Infallible>(Bytes::from(event)), next))
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The part of the status that is asked for, made beside the threads that serve clients.
async fn text(state: &Arc<State>, query: &Query) -> Bytes {
    let of = state.clone();
    let take = move || {
        let forwarder = &of.proxy.forwarder;
        let now = Sample::of(&forwarder.metrics, Instant::now());
        let recent = of.status.history().until(&now);
        Some(Arc::new(Snapshot::take(of.all.load(), &forwarder.fleet, recent)))
    };
    let snapshot = state.status.snapshot.read(state.all.load().size(), take).await;
    let (state, query) = (state.clone(), query.clone());
    let render =
        move || snapshot.map(|snapshot| report::report(&state, &snapshot, &query).to_string());
    match spawn_blocking(render).await {
        Ok(text) => text.unwrap_or_default().into(),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends.
        Err(_) => Bytes::new(),
    }
}
