//! An engine with habits that a test sets: routes that answer late, badly or never, lists that change,
//! an address that can be given up and taken again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// At once, with this status.
    With(u16),
    /// With 200, after this time, as SGLang's `/health` does.
    Late(Duration),
    /// With 200, when no request is generated for, as behind a long prefill.
    WhenIdle,
    /// Never, though the connection is accepted.
    Never,
}

/// A prompt that came.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// When it came.
    pub at: Instant,
    /// The model that it was for.
    pub model: String,
    /// The text of its last message.
    pub text: String,
}

/// An OpenAI-compatible server with habits. Dropped, it is gone with all of its connections.
pub struct ScriptedEngine {
    address: SocketAddr,
    script: Arc<Script>,
    /// None while it does not listen.
    runtime: Option<Runtime>,
}

struct Script {
    habits: Mutex<Habits>,
    /// How many requests are generated for.
    generating: watch::Sender<usize>,
}

struct Habits {
    health: Answers,
    list: Answers,
    models: Vec<String>,
    /// A list that is given once, in place of the models.
    odd_list: Option<Vec<String>>,
    metrics: Option<String>,
    generation: Duration,
    prompts: Vec<Prompt>,
}

impl ScriptedEngine {
    /// One that lists these models, on a port of its own.
    pub async fn start(models: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), models).await
    }

    /// One at an address, such as that of an engine that is gone.
    pub async fn start_at(address: SocketAddr, models: &[&str]) -> Self {
        let habits = Habits {
            health: Answers::With(200),
            list: Answers::With(200),
            models: models.iter().map(|&model| model.to_owned()).collect(),
            odd_list: None,
            metrics: None,
            generation: Duration::ZERO,
            prompts: Vec::new(),
        };
        let script =
            Arc::new(Script { habits: Mutex::new(habits), generating: watch::Sender::new(0) });
        let mut engine = Self { address, script, runtime: None };
        engine.listen().await;
        engine
    }

    /// Listens, again or for the first time, where it did before.
    ///
    /// # Panics
    ///
    /// When somebody else does.
    pub async fn listen(&mut self) {
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        // With a runtime of its own, all of its connections end when it does.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let script = self.script.clone();
        runtime.spawn(async move {
            axum::serve(TcpListener::from_std(listener).unwrap(), router(script)).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Gives its address up: it is refused from now on, and every connection is closed.
    pub async fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let stop = move || runtime.shutdown_timeout(Duration::from_secs(10));
            tokio::task::spawn_blocking(stop).await.unwrap();
        }
        self.script.generating.send_replace(0);
    }

    /// Where it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How `/health` answers from now on.
    pub fn health(&self, answers: Answers) {
        self.script.habits().health = answers;
    }

    /// How `/v1/models` answers from now on.
    pub fn list(&self, answers: Answers) {
        self.script.habits().list = answers;
    }

    /// Which models it lists from now on.
    pub fn lists(&self, models: &[&str]) {
        self.script.habits().models = models.iter().map(|&model| model.to_owned()).collect();
    }

    /// Lists these models once, and then its own again.
    pub fn lists_once(&self, models: &[&str]) {
        let models = models.iter().map(|&model| model.to_owned()).collect();
        self.script.habits().odd_list = Some(models);
    }

    /// Whether the list that is given once was read.
    pub fn listed_once(&self) -> bool {
        self.script.habits().odd_list.is_none()
    }

    /// What `/metrics` shows from now on; 404 before that.
    pub fn metrics(&self, page: &str) {
        self.script.habits().metrics = Some(page.to_owned());
    }

    /// How long it takes for an answer from now on.
    pub fn generates_for(&self, time: Duration) {
        self.script.habits().generation = time;
    }

    /// The models of all requests that it got: whose prompts it saw.
    pub fn prompts(&self) -> Vec<String> {
        self.seen().into_iter().map(|prompt| prompt.model).collect()
    }

    /// All prompts that it got.
    pub fn seen(&self) -> Vec<Prompt> {
        self.script.habits().prompts.clone()
    }

    /// Whether such a prompt came since then.
    #[must_use]
    pub fn has_seen_since(&self, since: Instant, text: &str) -> bool {
        let habits = self.script.habits();
        let mut latest = habits.prompts.iter().rev().take_while(|prompt| prompt.at >= since);
        latest.any(|prompt| prompt.text == text)
    }
}

impl Drop for ScriptedEngine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Script {
    fn habits(&self) -> MutexGuard<'_, Habits> {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn status(&self, answers: Answers) -> StatusCode {
        match answers {
            Answers::With(status) => return StatusCode::from_u16(status).unwrap(),
            Answers::Late(time) => sleep(time).await,
            Answers::WhenIdle => {
                let mut generating = self.generating.subscribe();
                generating.wait_for(|generating| *generating == 0).await.unwrap();
            }
            Answers::Never => std::future::pending().await,
        }
        StatusCode::OK
    }
}

fn router(script: Arc<Script>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/metrics", get(metrics))
        .route("/v1/chat/completions", post(chat))
        .with_state(script)
}

async fn health(State(script): State<Arc<Script>>) -> StatusCode {
    let answers = script.habits().health;
    script.status(answers).await
}

async fn models(State(script): State<Arc<Script>>) -> Response {
    let answers = script.habits().list;
    let status = script.status(answers).await;
    let mut habits = script.habits();
    let listed = habits.odd_list.take().unwrap_or_else(|| habits.models.clone());
    let data: Vec<_> = listed.iter().map(|id| json!({ "id": id, "object": "model" })).collect();
    (status, axum::Json(json!({ "object": "list", "data": data }))).into_response()
}

async fn metrics(State(script): State<Arc<Script>>) -> Response {
    match script.habits().metrics.clone() {
        Some(page) => page.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn chat(State(script): State<Arc<Script>>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let generation = {
        let mut habits = script.habits();
        let last = request["messages"].as_array().and_then(|messages| messages.last());
        habits.prompts.push(Prompt {
            at: Instant::now(),
            model: request["model"].as_str().unwrap_or_default().to_owned(),
            text: last.and_then(|last| last["content"].as_str()).unwrap_or_default().to_owned(),
        });
        habits.generation
    };
    script.generating.send_modify(|generating| *generating += 1);
    let _generating = Generating(script);
    sleep(generation).await;
    axum::Json(json!({ "model": request["model"], "engine": "scripted" })).into_response()
}

/// A request that is generated for; it ends when it is dropped, also because the client left.
struct Generating(Arc<Script>);

impl Drop for Generating {
    fn drop(&mut self) {
        self.0.generating.send_modify(|generating| *generating = generating.saturating_sub(1));
    }
}
