//! The gate on a router of one's own. It needs no feature.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use dynamo_discovery::{
    Gone, Instance, Key, Kind, Kinds, MemoryStore, ModelEntry, ModelUpdate, ModelWatcher,
};
use dynamo_http::{
    ErrorShape, Feed, GateLayer, Lens, ModelNames, Sight, Source, Switchboard, SwitchboardWriter,
    gate, update_http_endpoints,
};
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

/// The chat model of a namespace.
fn model_of(namespace: &str) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new(&format!("of-{namespace}"), endpoint, Kind::Chat.into()).unwrap();
    Arc::new(Instance::new(Key::from(format!("models/{namespace}")), None, entry))
}

/// Two namespaces with a chat model each, and a third one with no model.
fn two_teams() -> (Switchboard, SwitchboardWriter) {
    let (switchboard, mut writer) = Switchboard::new(["a", "b", "c"].map(scope));
    writer.stage_ready();
    update_http_endpoints(&mut writer, &["a", "b"].map(|name| ModelUpdate::Added(model_of(name))));
    (switchboard, writer)
}

/// A router whose middleware takes the caller's scope from the header `x-team`, and whose handler
/// lists the models that the caller sees.
fn per_caller(switchboard: &Switchboard) -> Router {
    let switchboard = switchboard.clone();
    let pick_scope = move |mut request: Request<Body>, next: Next| {
        let team = request.headers().get("x-team").and_then(|team| team.to_str().ok());
        let lens = team.map(|team| Lens::from(switchboard.live_view(&scope(team))));
        if let Some(lens) = lens {
            request.extensions_mut().insert(lens);
        }
        async move { next.run(request).await }
    };
    Router::new()
        .route("/mine", post(list))
        .route_layer(GateLayer::per_caller(Kind::Chat))
        .layer(from_fn(pick_scope))
}

async fn list(sight: Sight) -> String {
    sight.models().map(|model| model.name()).collect::<Vec<_>>().join(",")
}

async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response: Response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask_as(router: &Router, team: Option<&str>) -> (StatusCode, String) {
    let request = Request::post("/mine");
    let request = match team {
        Some(team) => request.header("x-team", team),
        None => request,
    };
    answer(router, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn each_caller_passes_by_the_lens_that_a_middleware_picks_and_the_handler_sees_the_same() {
    let (switchboard, mut writer) = two_teams();
    let router = per_caller(&switchboard);
    assert_eq!(ask_as(&router, Some("a")).await, (StatusCode::OK, "of-a".into()));
    assert_eq!(ask_as(&router, Some("b")).await, (StatusCode::OK, "of-b".into()));
    assert_eq!(ask_as(&router, Some("c")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    // A caller's gate opens with the first model of its scope.
    update_http_endpoints(&mut writer, &[ModelUpdate::Added(model_of("c"))]);
    assert_eq!(ask_as(&router, Some("c")).await, (StatusCode::OK, "of-c".into()));
}

#[tokio::test]
async fn to_a_request_without_a_lens_every_route_is_closed() {
    let (switchboard, _writer) = two_teams();
    let router = per_caller(&switchboard);
    let (status, body) = ask_as(&router, None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // No byte tells whether another caller sees a model.
    assert_eq!(ask_as(&router, Some("c")).await, (status, body.clone()));
    assert!(!body.contains("of-"), "{body}");
}

#[tokio::test]
async fn the_names_of_a_lens_hold_at_the_gate_and_in_the_handler() {
    let (switchboard, _writer) = two_teams();
    let live = switchboard.live_view(&scope("a"));
    let router = |names: &[&str]| {
        let lens = Lens::from(live.clone()).with_names(ModelNames::new(names).unwrap());
        Router::new().route("/mine", post(list)).route_layer(gate(lens, Kind::Chat))
    };
    assert_eq!(ask_as(&router(&["of-*"]), None).await, (StatusCode::OK, "of-a".into()));
    assert_eq!(ask_as(&router(&["of-b"]), None).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_fixed_gate_asks_no_request_for_its_lens() {
    let (switchboard, _writer) = two_teams();
    let layer = gate(switchboard.live_view(&scope("a")), Kind::Chat);
    let router = Router::new().route("/mine", post(list)).route_layer(layer);
    let mut request = Request::post("/mine").body(Body::empty()).unwrap();
    request.extensions_mut().insert(Lens::from(switchboard.live_view(&scope("b"))));
    assert_eq!(answer(&router, request).await, (StatusCode::OK, "of-a".into()));
}

#[tokio::test]
async fn a_handler_keeps_the_sight_under_which_its_request_was_let_in() {
    let (switchboard, writer) = two_teams();
    let writer = Arc::new(std::sync::Mutex::new(writer));
    let gone = ModelUpdate::Removed(model_of("a"), Gone::Withdrawn);
    // The model of the request goes between the gate and the handler.
    let remove = move |request: Request<Body>, next: Next| {
        update_http_endpoints(&mut writer.lock().unwrap(), std::slice::from_ref(&gone));
        async move { next.run(request).await }
    };
    let live = switchboard.live_view(&scope("a"));
    let router = Router::new()
        .route("/mine", post(list))
        .route_layer(from_fn(remove))
        .route_layer(gate(live, Kind::Chat));
    assert_eq!(ask_as(&router, None).await, (StatusCode::OK, "of-a".into()));
    assert_eq!(ask_as(&router, None).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_handler_without_a_gate_learns_that_it_has_no_sight() {
    let needs = Router::new().route("/mine", post(list));
    let (status, body) = ask_as(&needs, None).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("no gate"), "{body}");
    let may_have = async |sight: Option<Sight>| sight.is_some().to_string();
    let may_have = Router::new().route("/mine", post(may_have));
    assert_eq!(ask_as(&may_have, None).await, (StatusCode::OK, "false".into()));
}
