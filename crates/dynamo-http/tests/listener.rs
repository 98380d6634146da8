//! The listener: how a connection begins and ends, and how many there may be.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use common::keyed;
use common::{Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, post, send, soon, stream_until};
use dynamo_http::{FrontendConfig, ServeOptions, Threads};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";
/// More than the buffers of two sockets hold.
const LARGE: usize = 24 << 20;

async fn door(config: &FrontendConfig, options: ServeOptions) -> Door {
    let mut door = Door::with("a", config, options).await;
    door.writer.stage_ready();
    door.writer.publish();
    door
}

/// The head of a request whose body is large.
fn large(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: d\r\ncontent-type: application/json\r\ncontent-length: {LARGE}\r\n\r\n"
    )
}

/// Sends everything and reads only then, as Python's `http.client` does.
async fn send_all_then_read(mut stream: TcpStream, request: &[u8]) -> Answer {
    soon(stream.write_all(request)).await.expect("the server reads on");
    soon(Answer::read(stream)).await
}

async fn refusal_of_large_body(address: &str, path: &str) -> Answer {
    let stream = soon(TcpStream::connect(address)).await.unwrap();
    let request = [large(path).into_bytes(), vec![b'x'; LARGE]].concat();
    send_all_then_read(stream, &request).await
}

#[tokio::test]
async fn a_client_that_reads_only_after_a_large_body_gets_its_early_refusal() {
    let worker = Worker::start([vec![Act::AwaitPeer]]).await;
    let config = FrontendConfig::new().with_body_limit(1000);
    let mut door = door(&config, ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    for (path, status) in [("/nowhere", 404), ("/v1/embeddings", 503), (CHAT, 413)] {
        let answer = refusal_of_large_body(&door.address, path).await;
        assert_eq!(answer.status(), status, "{path}: {}", answer.raw);
        assert!(!answer.reset, "{path}");
        assert!(answer.body().ends_with('}'), "{path}: {}", answer.raw);
    }
    assert_eq!(worker.asked(), 0);
}

#[tokio::test]
async fn a_client_without_a_key_gets_its_refusal_although_it_sends_a_large_body() {
    let door = keyed::Door::open(keyed::both(), &[]).await;
    let request = [large(CHAT).into_bytes(), vec![b'x'; LARGE]].concat();
    let answer = send_all_then_read(door.connect().await, &request).await;
    assert_eq!((answer.status(), answer.reset), (401, false), "{}", answer.raw);
}

#[tokio::test]
async fn a_client_that_sends_far_too_large_a_head_gets_its_refusal() {
    let door = door(&FrontendConfig::default(), ServeOptions::default()).await;
    let head = format!("GET /live HTTP/1.1\r\nhost: d\r\nx: {}\r\n\r\n", "y".repeat(LARGE));
    let stream = soon(TcpStream::connect(&door.address)).await.unwrap();
    let answer = send_all_then_read(stream, head.as_bytes()).await;
    assert_eq!((answer.status(), answer.reset), (431, false), "{}", answer.raw);
}

#[tokio::test]
async fn the_rest_of_a_refused_request_is_not_waited_for_for_ever() {
    let options = ServeOptions::new().with_header_timeout(Duration::from_millis(100));
    let door = door(&FrontendConfig::default(), options).await;
    let mut stream = door.begin(large("/nowhere")).await;
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    // The client's side is still open. The server closes its own side when nothing comes, and a write
    // fails from then on.
    soon(async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refused_body_that_was_small() {
    let door = door(&FrontendConfig::default(), ServeOptions::default()).await;
    let mut stream = TcpStream::connect(&door.address).await.unwrap();
    let request = post("/nowhere", "{}").replace("connection: close\r\n", "");
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(keyed::next_answer(&mut stream).await.starts_with("HTTP/1.1 404"));
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_that_keeps_an_idle_connection() {
    let options = ServeOptions::new()
        .with_drain_grace(Duration::ZERO)
        .with_drain_timeout(Duration::from_secs(600));
    let mut door = door(&FrontendConfig::default(), options).await;
    let mut stream = TcpStream::connect(&door.address).await.unwrap();
    let request = post("/nowhere", "{}").replace("connection: close\r\n", "");
    stream.write_all(request.as_bytes()).await.unwrap();
    keyed::next_answer(&mut stream).await;
    door.shut_down();
    // The client does not close its side before the server has ended.
    assert!(soon(&mut door.served).await.unwrap());
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

/// A request of a client that knows no chunks.
fn old_post(path: &str, body: &str) -> String {
    post(path, body).replace("HTTP/1.1", "HTTP/1.0")
}

#[tokio::test]
async fn a_broken_answer_to_an_http_1_0_client_ends_by_a_reset_and_a_whole_one_does_not() {
    let go_on = Arc::new(Notify::new());
    let broken = vec![send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))), Act::Close];
    let worker = Worker::start([broken, stream_until(&go_on)]).await;
    let mut door = door(&FrontendConfig::default(), ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    let answer = door.ask(old_post(CHAT, &chat("m"))).await;
    assert!(answer.reset, "{}", answer.raw);
    go_on.notify_one();
    let answer = door.ask(old_post(CHAT, &chat("m"))).await;
    assert!(!answer.reset && answer.body().ends_with("data: [DONE]\n\n"), "{}", answer.raw);
}

#[tokio::test]
async fn an_answer_to_an_http_1_0_client_that_a_drain_cuts_ends_by_a_reset() {
    let worker = Worker::start([stream_until(&Arc::default())]).await;
    let options = ServeOptions::new()
        .with_drain_grace(Duration::ZERO)
        .with_drain_timeout(Duration::ZERO)
        .with_threads(Some(Threads::start(NonZeroUsize::MIN).unwrap()));
    let mut door = door(&FrontendConfig::default(), options).await;
    door.add(&worker.instance("a", "m"));
    let mut stream = door.begin(old_post(CHAT, &chat("m"))).await;
    let mut begin = [0; 4];
    soon(stream.read_exact(&mut begin)).await.unwrap();
    door.shut_down();
    assert!(!soon(&mut door.served).await.unwrap(), "an answer was left");
    assert!(soon(Answer::read(stream)).await.reset);
}

/// A connection that has got an answer, so that the listener has taken it.
async fn taken(address: &str) -> TcpStream {
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: d\r\n\r\n").await.unwrap();
    let answer = keyed::next_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_an_answer_is_counted_and_leaves_the_others_alone() {
    let two = NonZeroUsize::new(2);
    for options in [
        ServeOptions::new().with_max_connections(two),
        ServeOptions::new().with_max_connections_per_ip(two),
    ] {
        let counts = options.connections().clone();
        let door = door(&FrontendConfig::default(), options).await;
        let mut held = [taken(&door.address).await, taken(&door.address).await];
        assert_eq!((counts.open(), counts.refused()), (2, 0));

        let answer = door.get("/live").await;
        assert_eq!((answer.status(), answer.reset), (503, false), "{}", answer.raw);
        assert_eq!(answer.code(), "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!((counts.open(), counts.refused()), (2, 1));

        held[0].write_all(b"GET /live HTTP/1.1\r\nhost: d\r\n\r\n").await.unwrap();
        assert!(keyed::next_answer(&mut held[0]).await.starts_with("HTTP/1.1 200"));
        drop(held);
        soon(async {
            while door.get("/live").await.status() != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_crowd_of_refused_connections_that_stay_does_not_stop_the_listener() {
    let options = ServeOptions::new().with_max_connections(NonZeroUsize::new(1));
    let counts = options.connections().clone();
    let door = door(&FrontendConfig::default(), options).await;
    let held = taken(&door.address).await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(soon(TcpStream::connect(&door.address)).await.unwrap());
    }
    soon(async {
        while counts.refused() < 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(held);
    soon(async {
        while door.get("/live").await.status() != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
