//! Models that have left a moment ago, and requests that wait for one.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::keyed::{self, A, B, both, sorted};
use common::{Answer, Door, SOON, Worker, batch, chat, instance, post, soon, whole};
use dynamo_discovery::{Gone, Instance, ModelUpdate};
use dynamo_http::{Alias, AliasTable, AliasTarget, Aliases, FrontendConfig, ServeOptions};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";

fn aliases(all: impl IntoIterator<Item = Alias>) -> Aliases {
    let aliases = Aliases::default();
    aliases.replace(AliasTable::new(all).unwrap());
    aliases
}

fn target(model: &str, namespace: &str) -> AliasTarget {
    AliasTarget::new(model).with_namespace(namespace.parse().unwrap())
}

async fn door(config: FrontendConfig, instances: &[Arc<Instance>]) -> Door {
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    instances.iter().for_each(|instance| door.add(instance));
    door
}

fn patient(config: FrontendConfig) -> FrontendConfig {
    config.with_wait_for_model(SOON)
}

/// Waits until the front door has the body of a request in memory, so that the request waits.
async fn until_read(door: &Door) {
    soon(async {
        loop {
            let metrics = door.get("/metrics").await.raw;
            if !metrics.contains("\ndynamo_frontend_body_memory_bytes 0\n") {
                return;
            }
        }
    })
    .await;
}

async fn begin(door: &Door, model: &str) -> TcpStream {
    let stream = door.begin(post(CHAT, &chat(model))).await;
    until_read(door).await;
    stream
}

#[tokio::test]
async fn a_model_that_has_just_left_is_unavailable_and_one_that_never_was_is_unknown() {
    let worker = Worker::start([whole("{}")]).await;
    let config = FrontendConfig::new()
        .with_aliases(aliases([Alias::new("x", [target("m", "a"), target("k", "a")])]));
    let mut door = door(config, &[worker.instance("a", "m"), worker.instance("a", "n")]).await;
    assert_eq!(door.post(CHAT, &chat("x")).await.status(), 200);
    door.remove(&worker.instance("a", "m"));
    for name in ["m", "x"] {
        let got = door.post(CHAT, &chat(name)).await;
        assert_eq!((got.status(), got.code().as_str()), (503, "model_unavailable"), "{name}");
        assert_eq!(got.header("retry-after"), Some("5"));
        assert!(got.raw.contains(&format!("The model '{name}' is not available")), "{got:?}");
    }
    for name in ["k", "o"] {
        let got = door.post(CHAT, &chat(name)).await;
        assert_eq!((got.status(), got.code().as_str()), (404, "model_not_found"), "{name}");
    }
    assert_eq!(door.get("/v1/models/m").await.status(), 404, "a page says what there is");
    door.add(&worker.instance("a", "m"));
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
}

#[tokio::test]
async fn a_model_that_left_another_scope_is_unknown() {
    let worker = Worker::start([whole("{}")]).await;
    let table = [
        Alias::new("x", [target("m", "a")]),
        Alias::new("y", [AliasTarget::new("m")]),
        Alias::new("z", [target("m", "a"), target("n", "b")]),
    ];
    let config = FrontendConfig::new().with_aliases(aliases(table));
    let door = keyed::Door::starting_as(both(), ServeOptions::default(), config).await;
    let [m, n] = [worker.instance("a", "m"), worker.instance("b", "n")];
    let k = worker.instance("a", "k");
    door.synced(&[m.clone(), n, k]).await;
    assert_eq!(door.chat("m", A).await.status(), 200);
    let gone = ModelUpdate::Removed(m, Gone::Withdrawn);
    door.events.send(batch(vec![gone], false)).unwrap();
    soon(async { while door.chat("m", A).await.status() == 200 {} }).await;
    for name in ["m", "x", "y", "z"] {
        assert_eq!(door.chat(name, A).await.code(), "model_unavailable", "{name}");
    }
    for name in ["m", "x", "y"] {
        let (theirs, none) = (door.chat(name, B).await, door.chat("q", B).await);
        assert_eq!(none.code(), "model_not_found");
        let text = |answer: &Answer, name: &str| {
            let quoted = format!("'{name}'");
            keyed::bare(answer, &quoted)
        };
        assert_eq!(text(&theirs, name), text(&none, "q"), "{name}");
    }
    assert_eq!(door.chat("z", B).await.status(), 200);
}

#[tokio::test]
async fn a_request_waits_for_a_model_that_was_here_even_if_its_route_is_closed() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(patient(FrontendConfig::new()), &[worker.instance("a", "m")]).await;
    door.remove(&worker.instance("a", "m"));
    let waiting = begin(&door, "m").await;
    // Changes that are none for it.
    door.add(&worker.instance("a", "n"));
    door.add(&instance("a", "e", "Embedding", Some(&worker.url)));
    door.add(&worker.instance("a", "m"));
    let got = soon(Answer::read(waiting)).await;
    assert_eq!((got.status(), got.body()), (200, "{}"));
    assert_eq!(worker.asked(), 1);
}

#[tokio::test]
async fn a_request_waits_for_an_alias_whose_target_may_come() {
    let worker = Worker::start([whole(r#"{"model":"m"}"#)]).await;
    let table = aliases([Alias::new("x", [target("m", "a")])]);
    let config = patient(FrontendConfig::new().with_aliases(table));
    let mut door = door(config, &[]).await;
    let waiting = begin(&door, "x").await;
    door.add(&worker.instance("a", "m"));
    let got = soon(Answer::read(waiting)).await;
    assert_eq!((got.status(), got.header("x-dynamo-model")), (200, Some("m")));
    assert!(got.body().contains(r#"{"model":"x"}"#), "{got:?}");
}

#[tokio::test]
async fn who_waits_in_vain_is_told_that_the_model_is_unavailable() {
    let worker = Worker::start([whole("{}")]).await;
    let table = aliases([Alias::new("x", [target("o", "a")])]);
    let config =
        FrontendConfig::new().with_aliases(table).with_wait_for_model(Duration::from_millis(50));
    let mut door = door(config, &[worker.instance("a", "m")]).await;
    door.remove(&worker.instance("a", "m"));
    for name in ["m", "x"] {
        let got = door.post(CHAT, &chat(name)).await;
        assert_eq!((got.status(), got.code().as_str()), (503, "model_unavailable"), "{name}");
        assert!(got.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn nobody_waits_for_a_model_that_cannot_come() {
    let worker = Worker::start([whole("{}")]).await;
    // A wait would end the test.
    let config = || patient(FrontendConfig::new());
    let closed = door(config(), &[]).await;
    let usual = door(FrontendConfig::new(), &[]).await;
    let (one, other) = (closed.post(CHAT, &chat("q")).await, usual.post(CHAT, &chat("q")).await);
    assert_eq!(one.code(), "endpoint_disabled");
    assert_eq!(sorted(&one), sorted(&other), "an unknown model on a closed route");

    let embeds = instance("a", "e", "Embedding", Some(&worker.url));
    let door = door(config(), &[embeds, worker.instance("a", "m")]).await;
    assert_eq!(door.post(CHAT, &chat("q")).await.code(), "model_not_found");
    let got = door.post(CHAT, &chat("e")).await;
    assert!(got.raw.contains("does not serve"), "{got:?}");
}

#[tokio::test]
async fn no_caller_waits_for_a_model_or_an_alias_of_another_scope() {
    let worker = Worker::start([whole("{}")]).await;
    let table = aliases([Alias::new("x", [target("m", "a")])]);
    let config = patient(FrontendConfig::new().with_aliases(table));
    let door = keyed::Door::starting_as(both(), ServeOptions::default(), config).await;
    let m = worker.instance("a", "m");
    door.synced(&[m.clone(), worker.instance("b", "n")]).await;
    door.events.send(batch(vec![ModelUpdate::Removed(m.clone(), Gone::Withdrawn)], false)).unwrap();
    soon(async { while door.get("/v1/models/m", Some(A)).await.status() == 200 {} }).await;
    let waiting = {
        let mut stream = door.connect().await;
        let request = keyed::with_key(post(CHAT, &chat("x")), A);
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        stream
    };
    for name in ["m", "x"] {
        let (theirs, none) = (door.chat(name, B).await, door.chat("q", B).await);
        assert_eq!(none.code(), "model_not_found");
        assert_eq!(keyed::bare(&theirs, &format!("'{name}'")), keyed::bare(&none, "'q'"), "{name}");
    }
    door.events.send(batch(vec![ModelUpdate::Added(m)], false)).unwrap();
    assert_eq!(soon(Answer::read(waiting)).await.status(), 200);
}
