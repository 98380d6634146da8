//! The feed: from sources to views, and how they fare.

mod common;

use std::sync::Arc;

use common::{batch, instance, scope, soon};
use dynamo_discovery::{
    DiscoveryBatch, DiscoveryEvent, Kind, LeaseStore as _, MemoryStore, ModelUpdate, ModelWatcher,
};
use dynamo_http::{Feed, Source, Switchboard, View};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

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
    etcd.send(DiscoveryEvent::Denied).unwrap();
    etcd.send(batch(vec![ModelUpdate::Added(instance("a", "n", "Chat", None))], true)).unwrap();
    until(&switchboard, |view| view.models().count() == 2).await;
    assert!(switchboard.view(&scope("a")).is_ready());
    let source = &status.sources()[0];
    assert_eq!((source.name(), source.connected(), source.resyncs()), ("etcd", false, 1));
    assert!(source.denied());
    etcd.send(DiscoveryEvent::Connected).unwrap();
    etcd.send(batch(vec![ModelUpdate::Added(instance("a", "o", "Chat", None))], false)).unwrap();
    until(&switchboard, |view| view.models().count() == 3).await;
    assert!(source.connected() && !source.denied());
}

#[tokio::test]
async fn part_of_a_list_is_published_with_what_comes_next_and_is_never_ready() {
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let ((events, one), (other, two)) = (source("etcd"), source("static"));
    let feed = Feed::new(writer, [one, two]);
    tokio::spawn(feed.run());
    let published = switchboard.live_view(&scope("a"));
    let part = |model: &str| {
        let mut part = DiscoveryBatch::default();
        part.updates = vec![ModelUpdate::Added(instance("a", model, "Chat", None))];
        part.more = true;
        events.send(DiscoveryEvent::Batch(part)).unwrap();
    };
    // How many models each view had that was published after `before`, up to one with `last`.
    let sizes = async |before: &Arc<View>, last: usize| {
        let (mut seen, mut sizes) = (before.clone(), Vec::new());
        soon(async {
            while sizes.last() != Some(&last) {
                let view = published.load();
                if !Arc::ptr_eq(&view, &seen) {
                    sizes.push(view.models().count());
                    seen = view;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        sizes
    };
    let before = published.load();
    part("m");
    // The test's own thread runs the feed: it has taken in the part when this returns.
    tokio::task::yield_now().await;
    part("n");
    tokio::task::yield_now().await;
    assert!(Arc::ptr_eq(&before, &published.load()));
    other.send(batch(vec![], true)).unwrap();
    assert_eq!(sizes(&before, 2).await, [2], "another source does not wait for this one");
    assert!(!published.load().is_ready());

    let before = published.load();
    part("o");
    tokio::task::yield_now().await;
    assert!(Arc::ptr_eq(&before, &published.load()));
    events.send(batch(vec![ModelUpdate::Added(instance("a", "p", "Chat", None))], true)).unwrap();
    assert_eq!(sizes(&before, 4).await, [4]);
    assert!(published.load().is_ready());
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
async fn a_view_opens_while_the_feed_runs_and_follows_it() {
    let (_switchboard, writer) = Switchboard::new([]);
    let (events, source) = source("etcd");
    let feed = Feed::new(writer, [source]);
    let scopes = feed.scopes();
    let feed = tokio::spawn(feed.run());
    let add = |namespace: &str, model: &str| {
        let added = ModelUpdate::Added(instance(namespace, model, "Chat", None));
        events.send(batch(vec![added], true)).unwrap();
    };
    add("a", "m");
    add("b", "n");
    // Equal scopes share a view, whoever asks.
    let views = soon(scopes.open(vec![scope("a"), scope("b"), scope("a")])).await.unwrap();
    let [a, b, again] = &views[..] else { panic!("{views:?}") };
    let names = |view: &dynamo_http::LiveView| -> Vec<String> {
        view.load().models().map(|model| model.name().to_owned()).collect()
    };
    let until = async |view: &dynamo_http::LiveView, expected: &[&str]| {
        soon(async {
            while names(view) != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    until(a, &["m"]).await;
    until(b, &["n"]).await;
    add("a", "o");
    until(a, &["m", "o"]).await;
    assert_eq!(names(again), ["m", "o"]);
    assert_eq!(names(b), ["n"]);

    drop(events);
    soon(feed).await.unwrap();
    assert!(scopes.open(vec![scope("a")]).await.is_err(), "the feed has ended");
}

#[tokio::test]
async fn an_invalid_control_address_is_counted_and_its_entry_stands() {
    let store = Arc::new(MemoryStore::new());
    let lease = store.grant(std::time::Duration::from_secs(60)).await.unwrap().id;
    let key = "models/a/backend/generate/1/m".into();
    let entry = instance("a", "m", "Chat", Some("http://192.0.2.1:8001"));
    let mut value: serde_json::Value = serde_json::from_slice(&entry.entry().to_json()).unwrap();
    value["control"] = "http://192.0.2.1:9/path".into();
    store.put(&key, value.to_string().into(), lease).await.unwrap();
    let watcher = ModelWatcher::watch(store, Some("a")).unwrap();
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let feed = Feed::new(writer, [Source::new("etcd", watcher.into_stream())]);
    let status = feed.status();
    tokio::spawn(feed.run());
    until(&switchboard, |view| view.is_open(Kind::Chat)).await;
    assert_eq!((status.sources()[0].ignored(), status.sources()[0].refused()), (1, 0));
}
