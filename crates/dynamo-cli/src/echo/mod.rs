//! The echo engine: an OpenAI-compatible server that repeats the prompt.
//!
//! The engine is for trials without a model, and for load tests: its only cost is the configured
//! delay for each token. It tells which beginnings of prompts it has read before, as engines with a
//! prefix cache do.

mod answer;
mod cache;
mod chat;
mod completions;
mod embeddings;
mod message;
mod messages;
mod responses;
mod text;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use dynamo_discovery::{InvalidUrl, WorkerUrl};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::cache::{Cache, Read};

/// The configuration of an echo engine.
#[derive(Clone, Debug)]
pub struct EchoEngine {
    /// The names of the engine's models.
    pub models: Vec<String>,
    /// The wait before each token.
    pub delay: Duration,
}

impl EchoEngine {
    /// The model's name, if none is given.
    pub const DEFAULT_MODEL: &str = "echo";
    /// The context length that `/v1/models` lists.
    pub const CONTEXT_LENGTH: u64 = 32_768;

    /// The routes: `/health`, `/metrics`, `/v1/models`, chat completions, responses, messages, completions and
    /// embeddings.
    pub fn router(self) -> Router {
        let state = Arc::new(Shared {
            engine: self,
            started: unix_now(),
            answered: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            cache: Mutex::default(),
        });
        Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat::answer))
            .route("/v1/responses", post(responses::answer))
            .route("/v1/messages", post(messages::answer))
            .route("/v1/completions", post(completions::answer))
            .route("/v1/embeddings", post(embeddings::answer))
            // The frontend in front of the engine limits bodies.
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
        // The standard library has a listener keep 128 connections, and load tests open more at once.
        rustix::net::listen(&listener, 4096)?;
        let listener = listener.tap_io(|stream| {
            // Without `TCP_NODELAY`, small events would wait for acknowledgements.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection stays without TCP_NODELAY");
            }
        });
        axum::serve(listener, self.router()).with_graceful_shutdown(shutdown).await
    }
}

/// A base URL under which an address can be reached from this machine.
///
/// # Errors
///
/// When no worker may have such an address: a link-local one.
pub(crate) fn local_url(address: SocketAddr) -> Result<WorkerUrl, InvalidUrl> {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        _ => address.ip(),
    };
    format!("http://{}", SocketAddr::new(ip, address.port())).parse()
}

struct Shared {
    engine: EchoEngine,
    started: u64,
    answered: AtomicU64,
    in_flight: AtomicUsize,
    cache: Mutex<Cache>,
}

/// A request that is being answered. It ends when it is dropped, also if the client leaves.
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

    /// Reads the texts of a prompt.
    fn read<'a>(&self, model: &str, texts: impl Iterator<Item = &'a str>) -> Read {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).read(model, texts)
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

/// In Prometheus' text format, as engines have it. Nothing waits here.
async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    let in_flight = shared.in_flight.load(Ordering::Relaxed);
    format!("echo:requests_running {in_flight}\necho:requests_waiting 0\n")
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

/// The answer of each handler.
type Answered = Result<Response, answer::Refusal>;

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(crate) mod tests;
