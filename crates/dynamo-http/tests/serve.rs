//! The server itself: deadlines, limits, drain.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use common::{Act, Answer, Door, STREAM_HEAD, Worker, chat, post, send, soon, stream_until, whole};
use dynamo_http::{FrontendConfig, ServeOptions, Threads, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

async fn door(options: ServeOptions) -> Door {
    door_by(&FrontendConfig::default(), options).await
}

async fn door_by(config: &FrontendConfig, options: ServeOptions) -> Door {
    let mut door = Door::with("a", config, options).await;
    door.writer.stage_ready();
    door.writer.publish();
    door
}

/// A head may take this long. Where one must come in time, it is long enough for any machine.
fn head_within(time: Duration) -> ServeOptions {
    ServeOptions::new().with_header_timeout(time)
}

/// Drains without a grace.
fn at_once() -> ServeOptions {
    ServeOptions::new().with_drain_grace(Duration::ZERO)
}

/// Reads until the server closes.
async fn end(mut stream: TcpStream) -> String {
    let mut raw = Vec::new();
    let _ = soon(stream.read_to_end(&mut raw)).await;
    String::from_utf8_lossy(&raw).into_owned()
}

#[tokio::test]
async fn silent_and_slow_heads_are_closed_by_a_deadline() {
    let door = door(head_within(Duration::from_millis(100))).await;
    for part in ["", "G", "GET /live HTTP/1.1\r\nhost: d\r\nx: "] {
        let stream = door.begin(part).await;
        assert_eq!(end(stream).await, "", "{part:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let door = door(head_within(Duration::from_millis(500))).await;
    let mut stream = TcpStream::connect(&door.address).await.unwrap();
    let request = b"GET /live HTTP/1.1\r\nhost: d\r\n\r\n";
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        let n = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(buffer[..n].starts_with(b"HTTP/1.1 200"));
        // Longer than the head's deadline: nothing must happen, so there is nothing to wait for.
        let idle = tokio::time::timeout(Duration::from_millis(1200), stream.read(&mut buffer));
        assert!(idle.await.is_err(), "closed while idle");
    }
    // The next head is on the clock again.
    stream.write_all(b"GET /live").await.unwrap();
    assert_eq!(end(stream).await, "");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let mut options = head_within(Duration::from_secs(1));
    options = options.with_keep_alive_timeout(Duration::from_millis(300));
    let door = door(options).await;
    let mut stream = TcpStream::connect(&door.address).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: d\r\n\r\n").await.unwrap();
    assert!(end(stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408() {
    let worker = Worker::start([whole("{}")]).await;
    let config = FrontendConfig::new().with_body_stall_timeout(Duration::from_millis(100));
    let mut door = door_by(&config, ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    let request = post(CHAT, &chat("m")).replace("content-length: ", "content-length: 1");
    let answer = door.ask(request).await;
    assert_eq!(answer.status(), 408, "{}", answer.raw);
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let door = door(ServeOptions::default()).await;
    let get = |extra: String| {
        door.ask(format!("GET /live HTTP/1.1\r\nhost: d\r\nconnection: close\r\n{extra}\r\n"))
    };
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    assert_eq!(get(fields(90)).await.status(), 200);
    assert_eq!(get(fields(150)).await.status(), 431);
    assert_eq!(get(format!("x: {}\r\n", "y".repeat(30_000))).await.status(), 200);
    assert_eq!(get(format!("x: {}\r\n", "y".repeat(1 << 20))).await.status(), 431);
}

#[tokio::test]
async fn ambiguous_framing_never_reaches_a_worker_twice() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    let body = chat("m");
    let head = |framing: &str| {
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-type: application/json\r\n{framing}\r\n\r\n{body}"
        )
    };
    let length = body.len();
    for framing in [
        format!("content-length: {length}\r\ncontent-length: {}", length + 1),
        format!("content-length: +{length}"),
        "transfer-encoding: gzip".to_owned(),
        format!("content-length : {length}"),
        format!("x: y\r\n z\r\ncontent-length: {length}"),
    ] {
        let answer = door.ask(head(&framing)).await;
        assert_eq!(answer.status(), 400, "{framing}: {}", answer.raw);
    }
    assert_eq!(worker.asked(), 0);
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_new_connections() {
    for options in [at_once(), on_threads()] {
        let go_on = Arc::new(Notify::new());
        let worker = Worker::start([stream_until(&go_on)]).await;
        let mut door = door(options).await;
        door.add(&worker.instance("a", "m"));
        let idle = TcpStream::connect(&door.address).await.unwrap();
        let stream = door.begin(post(CHAT, &chat("m"))).await;
        worker.until_asked().await;

        door.shut_down();
        assert_eq!(end(idle).await, "");
        assert!(TcpStream::connect(&door.address).await.is_err());
        go_on.notify_one();
        let answer = soon(Answer::read(stream)).await;
        assert!(answer.raw.contains("[DONE]") && answer.is_whole(), "{}", answer.raw);
        assert!(soon(&mut door.served).await.unwrap(), "everything ended in time");
    }
}

/// Served by two threads of their own.
fn on_threads() -> ServeOptions {
    let mut options = at_once();
    options = options.with_threads(Some(Threads::start(NonZeroUsize::new(2).unwrap()).unwrap()));
    options
}

/// Says which thread answers.
async fn thread_of(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: d\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    let n = soon(stream.read(&mut buffer)).await.unwrap();
    let answer = String::from_utf8_lossy(&buffer[..n]).into_owned();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn connections_are_spread_over_threads_and_stay_where_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = || async { std::thread::current().name().unwrap().to_owned() };
    let router = Router::new().route("/", get(name));
    tokio::spawn(serve(listener, router, on_threads(), std::future::pending()));

    let mut threads = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let thread = thread_of(&mut stream).await;
        assert_eq!(thread_of(&mut stream).await, thread);
        threads.push(thread);
        streams.push(stream);
    }
    assert_eq!(threads, ["serve-1", "serve-2", "serve-1", "serve-2"]);

    // What has become free is given away next.
    streams.remove(3);
    streams.remove(1);
    soon(async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if thread_of(&mut stream).await == "serve-2" {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_core_uses_its_own_connections_to_a_worker_again() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(on_threads()).await;
    door.add(&worker.instance("a", "m"));
    let kept = post(CHAT, &chat("m")).replace("connection: close\r\n", "");
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(TcpStream::connect(&door.address).await.unwrap());
    }
    let mut buffer = [0; 4096];
    for _ in 0..3 {
        for stream in &mut streams {
            stream.write_all(kept.as_bytes()).await.unwrap();
            let n = soon(stream.read(&mut buffer)).await.unwrap();
            assert!(buffer[..n].starts_with(b"HTTP/1.1 200"));
        }
    }
    assert_eq!((worker.asked(), worker.connections.load(Ordering::SeqCst)), (6, 2));
}

/// Drains while a stream is under way that never ends; returns its client's side.
async fn outlasted(mut options: ServeOptions) -> TcpStream {
    let worker = Worker::start([vec![send(STREAM_HEAD), Act::AwaitPeer]]).await;
    options = options.with_drain_timeout(Duration::from_millis(100));
    let mut door = door(options).await;
    door.add(&worker.instance("a", "m"));
    let stream = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    let begun = Instant::now();
    door.shut_down();
    assert!(!soon(&mut door.served).await.unwrap(), "a stream was left");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    stream
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    outlasted(at_once()).await;
}

#[tokio::test]
async fn what_threads_still_serve_after_a_drain_ends_with_them() {
    let stream = outlasted(on_threads()).await;
    assert!(!soon(Answer::read(stream)).await.is_whole());
}

#[tokio::test]
async fn during_the_grace_all_is_served_and_clients_are_asked_to_connect_anew() {
    let worker = Worker::start([whole("{}")]).await;
    let options = ServeOptions::new().with_drain_grace(Duration::from_secs(600));
    let mut door = door(options).await;
    door.add(&worker.instance("a", "m"));
    let kept = post(CHAT, &chat("m")).replace("connection: close\r\n", "");
    let mut before = TcpStream::connect(&door.address).await.unwrap();
    let mut buffer = [0; 4096];
    before.write_all(kept.as_bytes()).await.unwrap();
    let n = soon(before.read(&mut buffer)).await.unwrap();
    assert!(!String::from_utf8_lossy(&buffer[..n]).contains("connection: close"));

    door.shut_down();
    // A connection from before, and new ones: answered, and then closed.
    soon(async {
        loop {
            let answer = door.ask(&kept).await;
            assert_eq!(answer.status(), 200, "{}", answer.raw);
            if answer.header("connection") == Some("close") {
                break;
            }
        }
    })
    .await;
    before.write_all(kept.as_bytes()).await.unwrap();
    assert!(end(before).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    let request = post(CHAT, &chat("m")).replace("connection: close\r\n", "");
    for hosts in ["", "host: a\r\nhost: a\r\n", "host: a\r\nhost: b\r\n"] {
        // The connection ends although the client would keep it.
        let answer = door.ask(request.replace("host: d\r\n", hosts)).await;
        assert_eq!(answer.status(), 400, "{hosts:?}: {}", answer.raw);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("Host"));
    }
    assert_eq!(worker.asked(), 0);
    // HTTP/1.0 knew none.
    let old = door.ask("GET /live HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status(), 200);
}
