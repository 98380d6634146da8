//! The feed: from sources to views, and how they fare.

mod common;

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use common::{batch, instance, scope, soon};
use dynamo_discovery::{DiscoveryEvent, Kind, MemoryStore, ModelUpdate, ModelWatcher};
use dynamo_http::{Feed, Source, Switchboard, gate};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::{Request, StatusCode};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

/// A source that tells what the test sends.
fn source(name: &'static str) -> (mpsc::UnboundedSender<DiscoveryEvent>, Source) {
    let (events, mut received) = mpsc::unbounded_channel();
    let stream: BoxStream<'static, _> =
        futures_util::stream::poll_fn(move |cx| received.poll_recv(cx)).boxed();
    (events, Source::new(name, stream))
}

/// Waits until the view is as it should be.
async fn until(switchboard: &Switchboard, holds: impl Fn(&dynamo_http::View) -> bool) {
    soon(async {
        while !holds(&switchboard.view(&scope("a"))) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn discovery_is_ready_when_every_source_has_told_once_and_stays_so() {
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let ((etcd, one), (fixed, two)) = (source("etcd"), source("static"));
    let feed = Feed::new(writer, [one, two]);
    let status = feed.status();
    tokio::spawn(feed.run());

    let model = instance("a", "m", "Chat", None);
    etcd.send(batch(vec![ModelUpdate::Added(model)], true)).unwrap();
    until(&switchboard, |view| view.is_open(Kind::Chat)).await;
    assert!(!switchboard.view(&scope("a")).is_ready());
    fixed.send(batch(vec![], true)).unwrap();
    until(&switchboard, dynamo_http::View::is_ready).await;

    etcd.send(DiscoveryEvent::Connected).unwrap();
    etcd.send(DiscoveryEvent::Disconnected).unwrap();
    etcd.send(batch(vec![ModelUpdate::Added(instance("a", "n", "Chat", None))], true)).unwrap();
    until(&switchboard, |view| view.models().count() == 2).await;
    assert!(switchboard.view(&scope("a")).is_ready());
    let source = &status.sources()[0];
    assert_eq!((source.name(), source.connected(), source.resyncs()), ("etcd", false, 1));
}

#[tokio::test]
async fn while_the_store_is_away_what_was_known_stands() {
    let store = MemoryStore::new();
    let entry = instance("a", "m", "Chat", None).entry().clone();
    store.put_unleased("models/by-hand", entry.to_json());
    let watcher = ModelWatcher::watch(Arc::new(store.clone()), Some("a")).unwrap();
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let feed = Feed::new(writer, [Source::new("memory", watcher.into_stream())]);
    let status = feed.status();
    tokio::spawn(feed.run());
    until(&switchboard, |view| view.is_open(Kind::Chat) && view.is_ready()).await;
    soon(async {
        while !status.sources()[0].connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    store.set_available(false);
    store.disconnect();
    soon(async {
        while status.sources()[0].connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(switchboard.view(&scope("a")).is_open(Kind::Chat));
    store.delete("models/by-hand");
    store.set_available(true);
    until(&switchboard, |view| !view.is_open(Kind::Chat)).await;
    assert!(switchboard.view(&scope("a")).is_ready());
}

#[tokio::test]
async fn a_gate_toggles_the_routes_of_anyones_own_router() {
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
    let router = |namespace: &str| -> Router {
        Router::new().route("/mine", post(|| async { "served" })).route_layer(gate(
            &switchboard,
            &scope(namespace),
            Kind::Embedding,
        ))
    };
    let (mine, theirs) = (router("a"), router("b"));
    let ask = async |router: &Router| {
        let request = Request::post("/mine").body(axum::body::Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    };
    writer.stage_ready();
    writer.publish();
    assert_eq!(ask(&mine).await, StatusCode::SERVICE_UNAVAILABLE);
    writer.stage(&[ModelUpdate::Added(instance("a", "m", "Embedding", None))]);
    assert_eq!(ask(&mine).await, StatusCode::SERVICE_UNAVAILABLE, "not before it is published");
    writer.publish();
    assert_eq!(ask(&mine).await, StatusCode::OK);
    assert_eq!(ask(&theirs).await, StatusCode::SERVICE_UNAVAILABLE);
}
