//! Shared by all routes: requests, refusals, and streams of events at a pace.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{self, FromRequest};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cache::Read;
use super::{InFlight, Shared};

/// A request body; a body that cannot be read is refused in OpenAI's shape.
pub(super) struct Request<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Request<T> {
    type Rejection = Refusal;

    async fn from_request(request: extract::Request, state: &S) -> Result<Self, Refusal> {
        let Json(request) = Json::from_request(request, state).await?;
        Ok(Self(request))
    }
}

/// The refusal of a request, by default in OpenAI's shape.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_request", message }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self { status: rejection.status(), ..Self::invalid(rejection.body_text()) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({
            "message": self.message, "type": "invalid_request_error", "param": null,
            "code": self.code,
        });
        (self.status, Json(json!({ "error": error }))).into_response()
    }
}

/// Begins an answer for a model, if the engine has the model.
pub(super) fn begin(shared: &Arc<Shared>, model: &str) -> Result<InFlight, Refusal> {
    if shared.serves(model) {
        return Ok(shared.begin());
    }
    let message = format!("The model `{model}` does not exist");
    Err(Refusal { status: StatusCode::NOT_FOUND, code: "model_not_found", message })
}

/// `stream_options` of a request.
#[derive(Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

pub(super) fn usage(prompt: Read, completion: usize) -> Value {
    json!({
        "prompt_tokens": prompt.tokens, "completion_tokens": completion,
        "total_tokens": prompt.tokens + completion,
        "prompt_tokens_details": { "cached_tokens": prompt.cached },
    })
}

/// Waits for the time that this number of tokens takes.
pub(super) async fn write(in_flight: &InFlight, tokens: usize) {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    tokio::time::sleep(in_flight.shared.engine.delay.saturating_mul(tokens)).await;
}

/// An event of a stream.
pub(super) struct Event {
    text: String,
    /// Whether the event is a token; the engine waits for its delay before each token.
    token: bool,
}

impl Event {
    /// The end of a stream in OpenAI's older dialects.
    pub(super) fn done() -> Self {
        Self { text: "data: [DONE]\n\n".to_owned(), token: false }
    }

    /// An event without a name.
    pub(super) fn data(data: &Value) -> Self {
        Self { text: format!("data: {data}\n\n"), token: false }
    }

    /// An event under a name.
    pub(super) fn named(name: &str, data: &Value) -> Self {
        Self { text: format!("event: {name}\ndata: {data}\n\n"), token: false }
    }

    /// The same event, marked as a token.
    pub(super) fn token(self) -> Self {
        Self { token: true, ..self }
    }
}

/// A stream of events.
///
/// The stream computes no event before its reader asks for it, and ends when the reader leaves.
pub(super) fn stream(in_flight: InFlight, events: impl Into<VecDeque<Event>>) -> Response {
    let events = events.into();
    let body = stream::unfold((in_flight, events), |(in_flight, mut events)| async move {
        let event = events.pop_front()?;
        if event.token && !in_flight.shared.engine.delay.is_zero() {
            write(&in_flight, 1).await;
        }
        Some((Ok::<_, Infallible>(Bytes::from(event.text)), (in_flight, events)))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(body)).into_response()
}
