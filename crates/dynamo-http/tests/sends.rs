//! How often a request is sent, to which workers, and which answer the client gets then.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Act, Answer, Door, Worker, chat, instance, read_request, send, soon, whole};
use dynamo_http::{FrontendConfig, ServeOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const CHAT: &str = "/v1/chat/completions";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

async fn door(config: &FrontendConfig, urls: &[&str]) -> Door {
    let mut door = Door::with("a", config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for url in urls {
        door.add(&instance("a", "m", "Chat", Some(url)));
    }
    door
}

async fn ask(door: &Door) -> Answer {
    door.post(CHAT, &chat("m")).await
}

fn no_budget() -> FrontendConfig {
    FrontendConfig::new().with_retry_budget(0)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// An engine that answers one request and that the second one ends. Returns its URL.
async fn mortal(ended: &Arc<AtomicUsize>) -> String {
    let (listener, url) = listen().await;
    let ended = ended.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(OK).await.unwrap();
        if read_request(&mut stream).await.is_some() {
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    url
}

async fn ended_by_one_request(config: &FrontendConfig) -> usize {
    let ended = Arc::default();
    let urls = [mortal(&ended).await, mortal(&ended).await, mortal(&ended).await];
    let door = door(config, &urls.each_ref().map(String::as_str)).await;
    for _ in &urls {
        assert_eq!(ask(&door).await.status(), 200);
    }
    assert_eq!(ask(&door).await.status(), 502);
    ended.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_request_that_ends_engines_on_reused_connections_ends_two_of_them_at_most() {
    assert_eq!(ended_by_one_request(&FrontendConfig::new()).await, 2);
}

#[tokio::test]
async fn without_a_retry_budget_a_request_that_ends_engines_ends_one() {
    assert_eq!(ended_by_one_request(&no_budget()).await, 1);
}

#[tokio::test]
async fn without_a_retry_budget_no_request_is_sent_twice() {
    let breaks = [Worker::start([vec![Act::Reset]]).await, Worker::start([vec![Act::Reset]]).await];
    let door = door(&no_budget(), &breaks.each_ref().map(|one| &*one.url)).await;
    for _ in 0..100 {
        assert_eq!(ask(&door).await.status(), 502);
    }
    assert_eq!(breaks.iter().map(Worker::asked).sum::<usize>(), 100);
    let metrics = door.get("/metrics").await.raw;
    let line = r#"resent_requests_total{outcome="over_budget",reason="lost"} 100"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_request_that_is_lost_on_a_reused_connection_is_sent_to_the_same_worker_once_more() {
    let worker = Worker::start([whole("1"), vec![Act::Close], whole("2"), vec![Act::Close]]).await;
    let door = door(&FrontendConfig::new(), &[&worker.url]).await;
    assert_eq!(ask(&door).await.body(), "1");
    assert_eq!(ask(&door).await.body(), "2");
    assert_eq!(ask(&door).await.status(), 502, "lost on a reused connection and on a new one");
    assert_eq!(worker.asked(), 5);
    let metrics = door.get("/metrics").await.raw;
    let line = r#"resent_requests_total{outcome="sent",reason="reused_connection"} 2"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_costs_no_budget() {
    let (listener, url) = listen().await;
    let (close, may_close) = oneshot::channel::<()>();
    let (closed, is_closed) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        read_request(&mut first).await.unwrap();
        first.write_all(OK).await.unwrap();
        may_close.await.unwrap();
        drop(first);
        closed.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        read_request(&mut second).await.unwrap();
        second.write_all(OK).await.unwrap();
    });
    let door = door(&no_budget(), &[&url]).await;
    assert_eq!(ask(&door).await.status(), 200);
    close.send(()).unwrap();
    soon(is_closed).await.unwrap();
    assert_eq!(ask(&door).await.status(), 200);
    let metrics = door.get("/metrics").await.raw;
    let line = r#"resent_requests_total{outcome="over_budget",reason="reused_connection"} 0"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[allow(dead_code, reason = "used by the rows below")]
fn status(status: &str, headers: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    vec![send(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"))]
}
