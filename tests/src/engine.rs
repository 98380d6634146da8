//! An engine that answers with its name, and streams the pieces that the test sends.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::soon;

/// The part of an OpenAI-compatible server that the tests need, on a port of its own.
///
/// The server answers each request with its name. A request with `"stream": true` becomes a
/// [`Generation`].
pub struct Engine {
    url: String,
    shared: Arc<Shared>,
    generations: Mutex<mpsc::UnboundedReceiver<Generation>>,
    server: JoinHandle<()>,
}

struct Shared {
    name: String,
    asked: AtomicUsize,
    generations: mpsc::UnboundedSender<Generation>,
}

/// A streamed answer, whose pieces the test sends. The answer ends when it is dropped.
pub struct Generation(mpsc::Sender<Bytes>);

/// What the control port of a worker in service answers.
const SERVING: &str = r#"{"state":"serving","engine":"healthy"}"#;

impl Engine {
    /// Starts one.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, generations) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            asked: AtomicUsize::new(0),
            generations: sender,
        });
        // Probes do not count as requests of the test.
        let health = get(async || "healthy");
        // Its worker's control port, on the same address: it knows each id.
        let status = || async { ([("content-type", "application/json")], SERVING) };
        let router = Router::new()
            .route("/health", health)
            .route("/instance/{id}", get(status))
            .fallback(answer)
            .with_state(shared.clone());
        let server = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, generations: Mutex::new(generations), server }
    }

    /// Stops accepting connections. An engine that is only dropped goes on.
    pub async fn stop(self) {
        self.server.abort();
        assert!(self.server.await.unwrap_err().is_cancelled());
    }

    /// The engine's base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The number of requests that the engine got.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Waits for the next request for a streamed answer.
    pub async fn generation(&self) -> Generation {
        let mut generations = self.generations.lock().await;
        soon("a request for a stream", generations.recv()).await.unwrap()
    }
}

impl Generation {
    /// Sends a piece.
    pub async fn send(&self, piece: &'static str) {
        self.0.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
    }

    /// Waits until the reader of the answer has left.
    pub async fn cancelled(&self) {
        soon("the end of the request at the engine", self.0.closed()).await;
    }
}

async fn answer(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    if request["stream"] != true {
        let answer = json!({ "model": request["model"], "engine": shared.name });
        return axum::Json(answer).into_response();
    }
    let (sender, pieces) = mpsc::channel(1);
    shared.generations.send(Generation(sender)).unwrap();
    let pieces = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(pieces)).into_response()
}
