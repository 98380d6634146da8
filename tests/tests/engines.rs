//! Engines as they are, before a real `dynamo-worker`: what they list, how they load, how they end.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use dynamo_tests::{Client, Program, SharedEtcd, free_port, lists, soon, unique};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A lease that outlives the test: what is gone was withdrawn.
const LONG_LEASE: [&str; 2] = ["--lease-ttl", "600"];
/// For the scripts that stand for engines.
const PATH: [(&str, &str); 1] = [("PATH", "/usr/bin:/bin")];

/// A frontend of a namespace of its own, to which workers are added.
struct Stage {
    etcd: SharedEtcd,
    namespace: String,
    client: Client,
    _frontend: Program,
}

impl Stage {
    async fn new() -> Self {
        let etcd = SharedEtcd::find().await;
        let namespace = unique("engines");
        let arguments = ["--namespace", &namespace];
        let (frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;
        Self { etcd, namespace, client, _frontend: frontend }
    }

    fn worker(&self, arguments: &[&str]) -> Program {
        let of = ["--etcd-endpoints", self.etcd.endpoints(), "--namespace", &self.namespace];
        Program::start("dynamo-worker", &[&of[..], arguments].concat(), &PATH)
    }
}

/// An engine that lists these models, and is loading for as long as the flag says.
async fn engine(models: &[&str], loading: Arc<AtomicBool>) -> String {
    engine_at("127.0.0.1:0", models, loading).await
}

/// The same, at an address.
async fn engine_at(address: &str, models: &[&str], loading: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind(address).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let data: Vec<_> = models.iter().map(|id| json!({ "id": id, "object": "model" })).collect();
    let answer = move |body: Value| {
        let loading = loading.clone();
        get(async move || match loading.load(Ordering::SeqCst) {
            true => {
                let error = json!({ "message": "Loading model", "code": 503 });
                (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": error })))
            }
            false => (StatusCode::OK, Json(body)),
        })
    };
    let router = Router::new()
        .route("/health", answer(json!({ "status": "ok" })))
        .route("/v1/models", answer(json!({ "object": "list", "data": data })));
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_pseudo_model_and_a_download_cache_are_not_listed_where_models_are_named() {
    let stage = Stage::new().await;
    // mistral.rs lists `default` beside its model; transformers lists what was ever downloaded.
    let url = engine(&["default", "Qwen/Q", "openai/whisper-tiny"], Arc::default()).await;
    let _named = stage.worker(&["--url", &url, "--model", "Qwen/Q"]);
    lists(&stage.client, &["Qwen/Q"]).await;
    let _all = stage.worker(&["--url", &url]);
    lists(&stage.client, &["Qwen/Q", "default", "openai/whisper-tiny"]).await;
}

#[tokio::test]
async fn an_engine_that_loads_its_model_is_registered_when_it_has() {
    let stage = Stage::new().await;
    let loading = Arc::new(AtomicBool::new(true));
    let url = engine(&["m"], loading.clone()).await;
    let worker = stage.worker(&["--url", &url]);
    assert_eq!(worker.says("waiting for the engine").await["why"], "503, not ready yet");
    assert_eq!(worker.logged("registered"), [Value::Null; 0]);
    loading.store(false, Ordering::SeqCst);
    lists(&stage.client, &["m"]).await;
}

#[tokio::test]
async fn an_engine_that_crashes_with_exit_code_0_is_withdrawn_and_its_worker_fails() {
    let stage = Stage::new().await;
    let directory = tempfile::tempdir().unwrap();
    let crash = directory.path().join("crash");
    let address = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{address}");
    // vLLM's server, after its core died.
    let script = format!("until [ -e {} ]; do sleep 0.05; done; exit 0", crash.display());
    let mut worker =
        stage.worker(&[&LONG_LEASE[..], &["--url", &url, "--", "sh", "-c", &script]].concat());
    // Somebody who listens there before would be a foreign engine.
    worker.says("following the engine").await;
    engine_at(&address, &["m"], Arc::default()).await;
    lists(&stage.client, &["m"]).await;
    fs::write(&crash, "").unwrap();
    let said = worker.says("the engine ended by itself").await;
    assert_eq!((&said["level"], &said["ended"]), (&json!("ERROR"), &json!("with exit code 0")));
    lists(&stage.client, &[]).await;
    assert_eq!(worker.ended().await.0, Some(1));
}

#[tokio::test]
async fn a_stream_that_an_engine_does_not_end_after_sigterm_is_cut_when_it_is_killed() {
    let stage = Stage::new().await;
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    // vLLM waits for the client, silently; this one writes a token a minute and waits as well.
    let program = Program::path("dynamo-worker").display().to_string();
    let elsewhere = unique("elsewhere");
    let echo = ["--echo", "--echo-port", &port, "--echo-delay-ms", "60000", "--model", "m"];
    // It is asked once, by what goes to all processes: asked twice, it would leave at once.
    let deaf = ["--", "sh", "-c", "trap '' TERM; \"$@\"; exit $?", "sh"];
    let engine = [&deaf[..], &[&program, "--namespace", &elsewhere], &echo].concat();
    let etcd = ["--etcd-endpoints", stage.etcd.endpoints(), "--drain-grace", "0"];
    let ours = ["--url", &url, "--drain-grace", "0", "--stop-timeout", "4"];
    let mut worker = stage.worker(&[&LONG_LEASE[..], &ours, &engine, &etcd].concat());
    lists(&stage.client, &["m"]).await;
    let mut stream = stage.client.stream("m").await;
    let first = soon("a chunk", stream.chunk()).await.unwrap().unwrap();
    assert!(first.starts_with(b"data: "));

    worker.signal(Signal::TERM);
    lists(&stage.client, &[]).await;
    worker.says_times("asking the engine to end", 2).await;
    worker.says("the engine or what it has started has not ended: killing it").await;
    let mut rest = Vec::new();
    let cut = soon("the end of the stream", async {
        loop {
            match stream.chunk().await {
                Ok(Some(piece)) => rest.extend_from_slice(&piece),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    })
    .await;
    let rest = String::from_utf8(rest).unwrap();
    assert!(cut && rest.starts_with("data: {\"error\":"), "cut: {cut}, {rest:?}");
    assert_eq!(worker.ended().await.0, Some(137));
}
