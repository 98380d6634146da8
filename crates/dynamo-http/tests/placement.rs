//! `cache-aware` through the front door: a prompt goes to the worker that has its beginning, and no
//! tenant learns from another one's prompts.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use common::keyed::{self, A, B, both, with_key};
use common::{Act, Door, Worker, post, send, soon, whole};
use dynamo_http::{FrontendConfig, RouterMode, ServeOptions};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

fn cache_aware() -> FrontendConfig {
    FrontendConfig::new().with_router_mode(RouterMode::CacheAware)
}

async fn door(config: FrontendConfig, workers: &[Worker]) -> Door {
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for worker in workers {
        door.add(&worker.instance("a", "m"));
    }
    door
}

/// An answer after which the worker closes the connection, so that none is kept.
fn last(body: &str) -> Vec<Act> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}");
    vec![send(format!("{head}\r\n\r\n{body}")), Act::Close]
}

async fn workers(names: &[&str]) -> Vec<Worker> {
    let mut workers = Vec::new();
    for name in names {
        workers.push(Worker::start([last(name)]).await);
    }
    workers
}

/// A body whose prompt begins like all prompts of this conversation; a longer one has more turns.
fn turns(conversation: usize, count: usize) -> String {
    let system = format!("You answer question {conversation} in one word. ").repeat(200);
    let turns: String = (0..count)
        .map(|turn| {
            let text = format!("conversation {conversation}, turn {turn} ").repeat(40);
            format!(r#",{{"role":"user","content":"{text}"}}"#)
        })
        .collect();
    format!(r#"{{"model":"m","messages":[{{"role":"system","content":"{system}"}}{turns}]}}"#)
}

async fn answered_by(door: &Door, body: &str) -> String {
    door.post(CHAT, body).await.body().to_owned()
}

#[tokio::test]
async fn a_conversation_stays_with_its_worker_and_conversations_spread() {
    let names = ["0", "1", "2", "3"];
    let workers = workers(&names).await;
    let door = door(cache_aware(), &workers).await;
    let mut homes = BTreeSet::new();
    for conversation in 0..24 {
        let home = answered_by(&door, &turns(conversation, 1)).await;
        for count in 2..5 {
            assert_eq!(answered_by(&door, &turns(conversation, count)).await, home);
        }
        homes.insert(home);
    }
    assert_eq!(homes.len(), names.len());
    let metrics = door.get("/metrics").await.raw;
    assert!(metrics.contains(
        "dynamo_frontend_expected_cached_tokens_count{endpoint=\"chat_completions\",model=\"m\"} 96"
    ));
}

#[tokio::test]
async fn a_worker_that_was_gone_has_lost_its_cache_and_the_next_best_gets_the_request() {
    let mut workers = workers(&["0", "1"]).await;
    let door = door(cache_aware(), &workers).await;
    let home: usize = answered_by(&door, &turns(1, 1)).await.parse().unwrap();
    let gone = workers.remove(home);
    let address = gone.url.strip_prefix("http://").unwrap().to_owned();
    drop(gone);
    // The connection is refused. A task that accepts ends a moment after it was told to.
    soon(async {
        while answered_by(&door, &turns(1, 2)).await != (1 - home).to_string() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let again = soon(async {
        loop {
            match TcpListener::bind(&address).await {
                Ok(listener) => return Worker::on(listener, [last(&home.to_string())]),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    again.until_probed(1).await;
    for count in 3..6 {
        assert_eq!(answered_by(&door, &turns(1, count)).await, (1 - home).to_string());
    }
}

#[tokio::test]
async fn at_the_limit_of_its_worker_a_prompt_goes_to_the_next_best_and_then_waits_for_any() {
    let go_on = Arc::new(Notify::new());
    let mut workers = Vec::new();
    for name in ["0", "1"] {
        let waits = [vec![Act::Await(go_on.clone())], whole(name)].concat();
        workers.push(Worker::start([waits]).await);
    }
    let config = cache_aware().with_worker_concurrency(NonZeroUsize::new(1));
    let door = door(config, &workers).await;
    let begin = |count| door.begin(post(CHAT, &turns(1, count)));
    let mut asked = vec![begin(1).await];
    soon(async {
        while workers.iter().map(Worker::asked).sum::<usize>() < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    asked.push(begin(2).await);
    for worker in &workers {
        worker.until_asked().await;
    }
    asked.push(begin(3).await);
    soon(async {
        let waits = "dynamo_frontend_queued_requests 1";
        while !door.get("/metrics").await.raw.contains(waits) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut bodies = BTreeSet::new();
    for _ in 0..3 {
        go_on.notify_one();
    }
    for stream in asked {
        // Each further answer frees a worker, which may need one more signal.
        let answer = soon(async {
            let read = common::Answer::read(stream);
            tokio::pin!(read);
            loop {
                tokio::select! {
                    answer = &mut read => return answer,
                    () = tokio::task::yield_now() => go_on.notify_waiters(),
                }
            }
        })
        .await;
        assert_eq!(answer.status(), 200);
        bodies.insert(answer.body().to_owned());
    }
    assert_eq!(bodies.len(), 2, "both workers were used");
}

#[tokio::test]
async fn a_tenant_learns_nothing_from_the_same_prompts_of_another_tenant_at_the_same_engine() {
    let engine = Worker::start([whole("{}")]).await;
    let of = |namespace: &str| engine.instance(namespace, "m");
    let door = keyed::Door::starting_as(both(), ServeOptions::default(), cache_aware()).await;
    door.synced(&[of("a"), of("b")]).await;
    let expected = async || {
        let metrics = door.metrics().await;
        let sum = "dynamo_frontend_expected_cached_tokens_sum{endpoint=\"chat_completions\",model=\"m\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(sum)).unwrap_or("0");
        line.parse::<f64>().unwrap()
    };
    let request = |key| {
        let request = post(CHAT, &turns(1, 8)).replace("host: d", "host: d\r\nx-session-id: s");
        with_key(request, key)
    };
    assert_eq!(door.ask(request(A)).await.status(), 200);
    assert_eq!(expected().await, 0.0);
    assert_eq!(door.ask(request(A)).await.status(), 200);
    let known = expected().await;
    assert!(known > 1000.0, "{known}: its own prompt is known");
    assert_eq!(door.ask(request(B)).await.status(), 200);
    assert_eq!(expected().await, known, "nothing is known of the same prompt in another scope");
    assert_eq!(door.ask(request(B)).await.status(), 200);
    assert_eq!(expected().await, 2.0 * known);
}

#[tokio::test]
async fn prompts_of_different_salts_share_no_cache() {
    let workers = workers(&["{}"]).await;
    let door = door(cache_aware(), &workers).await;
    let body = |salt: &str| turns(1, 8).replacen('{', &format!(r#"{{"cache_salt":"{salt}","#), 1);
    for salt in ["one", "two"] {
        assert_eq!(door.post(CHAT, &body(salt)).await.status(), 200);
    }
    let metrics = door.get("/metrics").await.raw;
    assert!(metrics.contains(
        "dynamo_frontend_expected_cached_tokens_sum{endpoint=\"chat_completions\",model=\"m\"} 0"
    ));
}

#[tokio::test]
async fn only_a_key_that_may_is_told_how_a_worker_was_chosen() {
    let head = "HTTP/1.1 200 OK\r\nx-dynamo-explain: forged\r\ncontent-length: 2\r\n\r\n{}";
    let engine = Worker::start([vec![send(head)]]).await;
    let mut keys = both();
    keys[0].explain = true;
    let door = keyed::Door::starting_as(keys, ServeOptions::default(), cache_aware()).await;
    door.synced(&[engine.instance("a", "m"), engine.instance("b", "m")]).await;
    let explained = async |key, asks: &str| {
        let asks = format!("host: d\r\nx-dynamo-explain: {asks}");
        let request = with_key(post(CHAT, &turns(1, 8)).replace("host: d", &asks), key);
        door.ask(request).await.header("x-dynamo-explain").map(str::to_owned)
    };
    let first = explained(A, "1").await.unwrap();
    assert!(first.starts_with("reason=cost; cost="), "{first}");
    assert!(first.contains("; expected-cached-tokens=0; prompt-tokens="), "{first}");
    assert_ne!(explained(A, "1").await, Some(first));
    assert_eq!(explained(A, "0").await, None);
    assert_eq!(explained(B, "1").await, None);
}
