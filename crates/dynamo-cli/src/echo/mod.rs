//! The echo engine: an OpenAI-compatible server that repeats what it is told.
//!
//! For trials without a model, and for load tests: it costs nothing but the pace that it is given.

mod answer;
mod chat;
mod completions;
mod embeddings;
mod text;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use dynamo_discovery::WorkerUrl;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What an echo engine serves.
#[derive(Clone, Debug)]
pub struct EchoEngine {
    /// The names of its models.
    pub models: Vec<String>,
    /// How long it waits before each token.
    pub delay: Duration,
}

impl EchoEngine {
    /// The model of an engine that was given none.
    pub const DEFAULT_MODEL: &str = "echo";
    /// What it lists as the length of its context.
    pub const CONTEXT_LENGTH: u64 = 32_768;

    /// The routes: `/health`, `/v1/models`, chat completions, completions and embeddings.
    pub fn router(self) -> Router {
        let state = Arc::new(Shared {
            engine: self,
            started: unix_now(),
            answered: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        });
        Router::new()
            .route("/health", get(health))
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat::answer))
            .route("/v1/completions", post(completions::answer))
            .route("/v1/embeddings", post(embeddings::answer))
            // Whoever is in front of it has a limit.
            .layer(DefaultBodyLimit::disable())
            .with_state(state)
    }

    /// Serves until `shutdown`, and then until the requests in flight have ended.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let listener = listener.tap_io(|stream| {
            // A stream of small events would else wait for acknowledgements.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection stays without TCP_NODELAY");
            }
        });
        axum::serve(listener, self.router()).with_graceful_shutdown(shutdown).await
    }
}

/// A base URL under which an address can be reached from this machine.
pub(crate) fn local_url(address: SocketAddr) -> WorkerUrl {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        _ => address.ip(),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
        .parse()
        .unwrap_or_else(|_| unreachable!("no address to listen on is refused"))
}

struct Shared {
    engine: EchoEngine,
    started: u64,
    answered: AtomicU64,
    in_flight: AtomicUsize,
}

/// A request that is being answered; it ends when it is dropped, also because the client left.
struct InFlight {
    shared: Arc<Shared>,
    /// Number of the request.
    number: u64,
}

impl Shared {
    fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let number = self.answered.fetch_add(1, Ordering::Relaxed);
        InFlight { shared: Arc::clone(self), number }
    }

    fn serves(&self, model: &str) -> bool {
        self.engine.models.iter().any(|name| name == model)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let in_flight = shared.in_flight.load(Ordering::Relaxed);
    Json(json!({ "status": "ok", "in_flight": in_flight }))
}

async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let model = |name: &String| {
        json!({
            "id": name, "object": "model", "created": shared.started, "owned_by": "echo",
            "max_model_len": EchoEngine::CONTEXT_LENGTH,
        })
    };
    let data: Vec<_> = shared.engine.models.iter().map(model).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// What every handler answers with.
type Answered = Result<Response, answer::Refusal>;

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use axum::body::{Body, Bytes};
    use futures_util::StreamExt as _;
    use http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn engine(models: &[&str], delay: Duration) -> EchoEngine {
        EchoEngine { models: models.iter().map(|name| (*name).to_owned()).collect(), delay }
    }

    /// Serves an echo engine for as long as the test runs, and returns its URL.
    pub(crate) async fn serve(models: &[&str]) -> WorkerUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = local_url(listener.local_addr().unwrap());
        let engine = engine(models, Duration::ZERO);
        tokio::spawn(engine.serve(listener, std::future::pending()));
        url
    }

    async fn call(router: &Router, path: &str, body: &Value) -> (StatusCode, Body) {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        (response.status(), response.into_body())
    }

    async fn ask(path: &str, body: Value) -> (StatusCode, Value) {
        let router = engine(&["m"], Duration::ZERO).router();
        let (status, body) = call(&router, path, &body).await;
        let bytes = body.collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// The events of a stream, and whether it ended with the marker.
    async fn stream(path: &str, body: Value) -> (Vec<Value>, bool) {
        let router = engine(&["m"], Duration::ZERO).router();
        let (status, body) = call(&router, path, &body).await;
        assert_eq!(status, StatusCode::OK);
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        let mut events: Vec<_> = text
            .split_terminator("\n\n")
            .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
            .collect();
        let done = events.pop_if(|last| last == "[DONE]").is_some();
        (events.iter().map(|event| serde_json::from_str(event).unwrap()).collect(), done)
    }

    fn said(text: &str) -> Value {
        json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": text }])
    }

    #[tokio::test]
    async fn chat_repeats_the_last_message_of_the_user() {
        let path = "/v1/chat/completions";
        let (status, answer) =
            ask(path, json!({ "model": "m", "messages": said("hello there") })).await;
        assert_eq!(status, StatusCode::OK);
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"], json!({ "role": "assistant", "content": "hello there" }));
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(answer["usage"]["prompt_tokens"], 4);
        assert_eq!(answer["usage"]["total_tokens"], 6);

        let parts = json!([{ "role": "user", "content": [
            { "type": "text", "text": "a b " }, { "type": "image_url", "image_url": { "url": "x" } },
            { "type": "text", "text": "c" },
        ] }]);
        let (_, answer) =
            ask(path, json!({ "model": "m", "messages": parts, "max_completion_tokens": 2 })).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "a b ");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }

    #[tokio::test]
    async fn a_streamed_chat_is_role_tokens_finish_and_the_end() {
        let mut request = json!({ "model": "m", "stream": true, "messages": said("one two") });
        let (events, done) = stream("/v1/chat/completions", request.clone()).await;
        assert!(done);
        let deltas: Vec<_> =
            events.iter().map(|event| event["choices"][0]["delta"].clone()).collect();
        assert_eq!(
            deltas,
            [
                json!({ "role": "assistant", "content": "" }),
                json!({ "content": "one " }),
                json!({ "content": "two" }),
                json!({}),
            ]
        );
        assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
        assert!(events.iter().all(|event| event.get("usage").is_none()));

        request["stream_options"] = json!({ "include_usage": true });
        let (events, _) = stream("/v1/chat/completions", request).await;
        assert_eq!(events[0]["usage"], Value::Null);
        let last = events.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], 2);
    }

    #[tokio::test]
    async fn completions_repeat_each_prompt() {
        let (_, answer) =
            ask("/v1/completions", json!({ "model": "m", "prompt": ["a b", "c"] })).await;
        assert_eq!(answer["choices"][0]["text"], "a b");
        assert_eq!(answer["choices"][1]["text"], "c");
        assert_eq!(answer["choices"][1]["index"], 1);
        let request = json!({ "model": "m", "prompt": "a b", "stream": true, "max_tokens": 1 });
        let (events, done) = stream("/v1/completions", request).await;
        assert!(done);
        assert_eq!(events[0]["choices"][0]["text"], "a ");
        assert_eq!(events[1]["choices"][0]["finish_reason"], "length");
    }

    #[tokio::test]
    async fn embeddings_are_lists_or_base64_as_asked() {
        let request = json!({ "model": "m", "input": ["a", "b"], "dimensions": 3 });
        let (_, answer) = ask("/v1/embeddings", request).await;
        assert_eq!(answer["data"].as_array().unwrap().len(), 2);
        assert_eq!(answer["data"][1]["embedding"].as_array().unwrap().len(), 3);
        let request = json!({
            "model": "m", "input": [1, 2], "dimensions": 3, "encoding_format": "base64",
        });
        let (_, answer) = ask("/v1/embeddings", request).await;
        assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 16, "12 bytes");
        assert_eq!(answer["usage"]["prompt_tokens"], 2);
    }

    #[tokio::test]
    async fn what_cannot_be_answered_is_refused_in_openais_shape() {
        let chat = "/v1/chat/completions";
        let many = json!({ "model": "m", "input": "a", "dimensions": 100_000_000 });
        for (path, request, expected, code) in [
            (chat, json!({ "model": "x", "messages": said("a") }), 404, "model_not_found"),
            (chat, json!({ "model": "m", "messages": [] }), 400, "invalid_request"),
            (chat, json!({ "model": "m" }), 422, "invalid_request"),
            ("/v1/embeddings", many, 400, "invalid_request"),
        ] {
            let (status, answer) = ask(path, request.clone()).await;
            assert_eq!((status.as_u16(), &answer["error"]["code"]), (expected, &code.into()));
            assert_eq!(answer["error"]["type"], "invalid_request_error", "{request}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_at_the_pace_that_was_set() {
        let router = engine(&["m"], Duration::from_secs(1)).router();
        let request = json!({ "model": "m", "stream": true, "messages": said("a b c") });
        let began = tokio::time::Instant::now();
        let (_, body) = call(&router, "/v1/chat/completions", &request).await;
        let mut frames = body.into_data_stream();
        let mut at = Vec::new();
        while let Some(frame) = frames.next().await {
            let _: Bytes = frame.unwrap();
            at.push(began.elapsed().as_secs());
        }
        assert_eq!(at, [0, 1, 2, 3, 3, 3], "role, three tokens, finish, end");
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_when_the_client_leaves() {
        let router = engine(&["m"], Duration::from_secs(1)).router();
        let in_flight = || async {
            let request = Request::get("/health").body(Body::empty()).unwrap();
            let body = router.clone().oneshot(request).await.unwrap().into_body();
            let bytes = body.collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Value>(&bytes).unwrap()["in_flight"].clone()
        };
        let request = json!({ "model": "m", "stream": true, "messages": said("a b c d e") });
        let (_, body) = call(&router, "/v1/chat/completions", &request).await;
        let mut frames = body.into_data_stream();
        frames.next().await.unwrap().unwrap();
        assert_eq!(in_flight().await, 1);
        drop(frames);
        assert_eq!(in_flight().await, 0);
    }
}
