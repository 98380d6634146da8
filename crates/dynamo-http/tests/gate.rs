//! The gate on a router of one's own. It needs no feature.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use dynamo_discovery::{
    Instance, Key, Kind, Kinds, MemoryStore, ModelEntry, ModelUpdate, ModelWatcher,
};
use dynamo_http::{ErrorShape, Feed, Source, Switchboard, gate};
use dynamo_namespace::NamespaceScope;
use futures_util::stream;
use http::{Request, StatusCode};
use tower::ServiceExt as _;

fn scope(namespace: &str) -> NamespaceScope {
    NamespaceScope::from_target(Some(namespace)).unwrap()
}

fn entry(namespace: &str, kinds: &str) -> ModelEntry {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    ModelEntry::new("m", endpoint, Kinds::parse(kinds).kinds).unwrap()
}

/// A router with a handler of its own, open while a model of the kind is in scope.
fn router(switchboard: &Switchboard, namespace: &str, kind: Kind) -> Router {
    let live = switchboard.live_view(&scope(namespace));
    Router::new().route("/mine", post(|body: String| async { body })).route_layer(gate(live, kind))
}

async fn ask(router: &Router) -> StatusCode {
    let request = Request::post("/mine").body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn a_gate_toggles_the_routes_of_anyones_own_router() {
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
    let [mine, theirs] = ["a", "b"].map(|name| router(&switchboard, name, Kind::Embedding));
    writer.stage_ready();
    writer.publish();
    assert_eq!(ask(&mine).await, StatusCode::SERVICE_UNAVAILABLE);
    let instance = Instance::new(Key::from("models/a/m"), None, entry("a", "Embedding"));
    writer.stage(&[ModelUpdate::Added(Arc::new(instance))]);
    assert_eq!(ask(&mine).await, StatusCode::SERVICE_UNAVAILABLE, "not before it is published");
    writer.publish();
    assert_eq!(ask(&mine).await, StatusCode::OK);
    assert_eq!(ask(&theirs).await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_gate_opens_and_closes_with_the_entries_of_a_store() {
    let store = MemoryStore::new();
    let watcher = ModelWatcher::watch(Arc::new(store.clone()), Some("a")).unwrap();
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let feed = Feed::new(writer, [Source::new("memory", watcher.into_stream())]);
    tokio::spawn(feed.run());
    let router = router(&switchboard, "a", Kind::Chat);
    let until = async |status: StatusCode| {
        let answered = async {
            while ask(&router).await != status {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answered).await.expect("it happens");
    };
    until(StatusCode::SERVICE_UNAVAILABLE).await;
    store.put_unleased("models/theirs", entry("b", "Chat").to_json());
    store.put_unleased("models/mine", entry("a", "Chat").to_json());
    until(StatusCode::OK).await;
    // Had the entry of the other namespace opened it, this would not close it.
    store.delete("models/mine");
    until(StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn a_closed_gate_answers_in_the_chosen_shape_and_reads_no_body() {
    let (switchboard, mut writer) = Switchboard::new([scope("a")]);
    writer.stage_ready();
    writer.publish();
    let layer = gate(switchboard.live_view(&scope("a")), Kind::Chat);
    let router = Router::new()
        .route("/mine", post(|body: String| async { body }))
        .route_layer(layer.with_error_shape(ErrorShape::Anthropic));
    let unread = stream::poll_fn(|_| -> std::task::Poll<Option<Result<String, std::io::Error>>> {
        panic!("the body is read")
    });
    let request = Request::post("/mine").body(Body::from_stream(unread)).unwrap();
    let answer = router.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["type"], "error", "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
}
