//! An engine over HTTP: what `Engine` does in virtual time, at the times of the clock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dynamo_http::ServeOptions;
use futures_util::stream;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::client::MODEL;
use crate::engine::{Engine, Event, Spec};
use crate::workload::Request;

/// An engine that answers. It ends with the runtime.
pub(super) struct Served {
    pub(super) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    requests: Vec<Arc<Request>>,
    submit: mpsc::UnboundedSender<Submitted>,
    /// Prompt tokens that were cached, and that were computed.
    cached: AtomicUsize,
    computed: AtomicUsize,
}

/// A request that came.
struct Submitted {
    number: usize,
    tell: mpsc::UnboundedSender<Bytes>,
}

impl Served {
    /// Starts one that knows these requests by their numbers.
    pub(super) async fn start(spec: Spec, requests: Vec<Arc<Request>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (submit, submitted) = mpsc::unbounded_channel();
        let (cached, computed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { requests, submit, cached, computed });
        let router = Router::new()
            .route("/health", get(async || StatusCode::OK))
            .route("/v1/models", get(async || Json(models())))
            .route("/v1/chat/completions", post(chat))
            .with_state(shared.clone());
        let served =
            dynamo_http::serve(listener, router, ServeOptions::new(), std::future::pending());
        tokio::spawn(served);
        tokio::spawn(shared.clone().work(Engine::new(spec), submitted));
        Ok(Self { url, shared })
    }

    pub(super) fn cached(&self) -> usize {
        self.shared.cached.load(Relaxed)
    }

    pub(super) fn computed(&self) -> usize {
        self.shared.computed.load(Relaxed)
    }
}

impl Shared {
    /// Runs the engine. A step ends at its own time also where the machine wakes this task late, so a
    /// busy machine delays single answers and never the engine.
    async fn work(
        self: Arc<Self>,
        mut engine: Engine,
        mut submitted: mpsc::UnboundedReceiver<Submitted>,
    ) {
        let began = Instant::now();
        let mut asked: Vec<Option<(mpsc::UnboundedSender<Bytes>, usize)>> = Vec::new();
        asked.resize_with(self.requests.len(), || None);
        let mut events = Vec::new();
        loop {
            let due = engine.step_ends.map(|ends| began + Duration::from_secs_f64(ends));
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let came = tokio::select! {
                came = submitted.recv() => match came {
                    Some(came) => Some(came),
                    None => return,
                },
                () = tokio::time::sleep_until(due.into()) => None,
            };
            let now = began.elapsed().as_secs_f64();
            while let Some(ends) = engine.step_ends.filter(|ends| *ends <= now) {
                engine.step(ends, &mut events);
                for event in events.drain(..) {
                    self.tell(event, &mut asked);
                }
            }
            if let Some(Submitted { number, tell }) = came {
                asked[number] = Some((tell, 0));
                engine.submit(number, self.requests[number].clone(), now);
            }
        }
    }

    fn tell(&self, event: Event, asked: &mut [Option<(mpsc::UnboundedSender<Bytes>, usize)>]) {
        match event {
            Event::First { request, cached } => {
                let prompt = self.requests[request].prompt;
                self.cached.fetch_add(cached, Relaxed);
                self.computed.fetch_add(prompt - cached, Relaxed);
                if let Some((tell, known)) = &mut asked[request] {
                    *known = cached;
                    let delta = json!({"role": "assistant", "content": "x"});
                    // A client that has left is told nothing.
                    let _ = tell.send(chunk(&delta, &Value::Null, &Value::Null));
                }
            }
            Event::Ended { request } => {
                let Request { prompt, output, .. } = *self.requests[request];
                if let Some((tell, cached)) = asked[request].take() {
                    let usage = json!({
                        "prompt_tokens": prompt, "completion_tokens": output,
                        "total_tokens": prompt + output,
                        "prompt_tokens_details": {"cached_tokens": cached},
                    });
                    let _ = tell.send(chunk(&json!({}), &json!("stop"), &usage));
                    let _ = tell.send(Bytes::from_static(b"data: [DONE]\n\n"));
                }
            }
        }
    }
}

async fn chat(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    // All tokens of the prompt follow from the request's number.
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let number = body["user"].as_str().and_then(|user| user.parse::<usize>().ok());
    let Some(number) = number.filter(|number| *number < shared.requests.len()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (tell, told) = mpsc::unbounded_channel();
    if shared.submit.send(Submitted { number, tell }).is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let events = stream::unfold(told, |mut told| async move {
        let event = told.recv().await?;
        Some((Ok::<_, io::Error>(event), told))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn models() -> Value {
    json!({"object": "list", "data": [
        {"id": MODEL, "object": "model", "created": 0, "owned_by": "bench", "max_model_len": 131_072},
    ]})
}

/// An event of a stream.
fn chunk(delta: &Value, finish_reason: &Value, usage: &Value) -> Bytes {
    let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
    let chunk = json!({
        "id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": MODEL,
        "choices": choices, "usage": usage,
    });
    format!("data: {chunk}\n\n").into()
}
