//! Requests while the store has lost a worker: who gets them, and from when on.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::{get, post as on_post};
use common::keyed::{ask, listen};
use common::{batch, chat, post, scope, soon};
use dynamo_discovery::{Gone, Instance, InstanceId, Key, Kinds, ModelEntry, ModelUpdate};
use dynamo_http::{Feed, Frontend, FrontendConfig, Hold, Source, Switchboard};
use futures_util::StreamExt as _;
use http::StatusCode;
use tokio::sync::{mpsc, watch};

const CHAT: &str = "/v1/chat/completions";
const SERVING: &str = r#"{"state":"serving","engine":"healthy"}"#;

/// Asks for a chat after the store has lost the worker, whose control port gives this answer when it
/// is told to. Returns the status that the client got, and how often the engine was asked.
async fn chat_in_doubt(status: StatusCode, answer: &'static str) -> (u16, usize) {
    let prompts = Arc::new(AtomicUsize::new(0));
    let seen = prompts.clone();
    let engine = listen(Router::new().route(
        CHAT,
        on_post(async move || {
            seen.fetch_add(1, Ordering::SeqCst);
            "{}"
        }),
    ))
    .await;
    let (tell, told) = watch::channel(true);
    let control = listen(Router::new().route(
        "/instance/{id}",
        get(async move || {
            told.clone().wait_for(|tells| *tells).await.unwrap();
            (status, answer).into_response()
        }),
    ))
    .await;

    let entry =
        ModelEntry::new("m", "a.backend.generate".parse().unwrap(), Kinds::parse("Chat").kinds)
            .unwrap()
            .with_url(format!("http://{engine}").parse().unwrap())
            .with_control(format!("http://{control}").parse().unwrap());
    let key = Key::from("models/a/backend/generate/1/m");
    let instance = Arc::new(Instance::new(key, Some(InstanceId(1)), entry));

    let (events, mut received) = mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx)).boxed();
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let feed = Feed::new(writer, [Source::new("etcd", stream)]);
    let frontend = Frontend::new(&switchboard, &scope("a"), feed.status(), &FrontendConfig::new());
    tokio::spawn(feed.with_hold(Hold::new(), frontend.fleet()).run());
    events.send(batch(vec![ModelUpdate::Added(instance.clone())], true)).unwrap();
    soon(switchboard.ready()).await.unwrap();
    let door = listen(frontend.router()).await;
    assert_eq!(ask(&door, post(CHAT, &chat("m"))).await.status(), 200);

    tell.send_replace(false);
    events.send(batch(vec![ModelUpdate::Removed(instance, Gone::Vanished)], false)).unwrap();
    let admin = listen(frontend.admin_router(common::local_admin())).await;
    let page = async |path| ask(&admin, common::keyed::get(path, None)).await.body().to_owned();
    soon(async {
        while !page("/health").await.contains("unroutable") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let waiting = tokio::spawn(async move { ask(&door, post(CHAT, &chat("m"))).await.status() });
    // The request has arrived when it is counted as one that is being answered.
    soon(async {
        while !page("/metrics").await.contains(
            r#"dynamo_frontend_inflight_requests{endpoint="chat_completions",model="m"} 1"#,
        ) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(prompts.load(Ordering::SeqCst), 1, "no prompt leaves while nothing is proven");
    tell.send_replace(true);
    (soon(waiting).await.unwrap(), prompts.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_request_waits_until_the_worker_has_proven_to_be_there_and_is_served() {
    assert_eq!(chat_in_doubt(StatusCode::OK, SERVING).await, (200, 2));
}

#[tokio::test]
async fn a_stranger_at_the_address_of_a_worker_that_is_gone_gets_no_prompt() {
    let (status, prompts) = chat_in_doubt(StatusCode::NOT_FOUND, "").await;
    assert_eq!((status, prompts), (503, 1));
}
