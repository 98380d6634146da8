//! Comments in silent event streams: where they may be, and what they do not hide.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;
#[path = "common/http2.rs"]
mod http2;

use std::sync::Arc;
use std::time::Duration;

use common::{Act, Answer, Door, STREAM_HEAD, Worker, chunk, post, send, soon, whole};
use dynamo_http::{FrontendConfig, ServeOptions};
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;
const COMMENT: &str = ": keep-alive\n\n";
const SILENCE: Duration = Duration::from_millis(5);

async fn door(config: FrontendConfig, worker: &Worker) -> Door {
    let config = config.with_sse_keepalive(Some(SILENCE));
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    door.add(&worker.instance("a", "m"));
    door
}

/// Sends these bytes, and those once the test says so.
fn in_two(first: &str, go_on: &Arc<Notify>, then: &str) -> Vec<Act> {
    vec![send(first), Act::Await(go_on.clone()), send(then)]
}

/// Reads until so many comments were read.
async fn until_comments(stream: &mut TcpStream, count: usize) -> String {
    let mut raw = String::new();
    soon(async {
        while raw.matches(COMMENT).count() < count {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the connection ended: {raw}");
            raw.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    })
    .await;
    raw
}

/// The body of a chunked answer, without the frames.
fn unchunked(raw: &str) -> String {
    let (_, mut rest) = raw.split_once("\r\n\r\n").unwrap();
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&more[..size]);
        rest = &more[size + 2..];
    }
    body
}

#[tokio::test]
async fn a_silent_stream_gets_comments_between_its_events_and_ends_as_it_would() {
    let go_on = Arc::new(Notify::new());
    let first = format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"));
    let then = format!("{}0\r\n\r\n", chunk("data: [DONE]\n\n"));
    let worker = Worker::start([in_two(&first, &go_on, &then)]).await;
    let door = door(FrontendConfig::new(), &worker).await;
    let mut stream = door.begin(post(CHAT, STREAMED)).await;
    let mut raw = until_comments(&mut stream, 3).await;
    go_on.notify_one();
    raw.push_str(&soon(Answer::read(stream)).await.raw);
    let body = unchunked(&raw);
    assert!(body.starts_with(&format!("data: 1\n\n{COMMENT}{COMMENT}{COMMENT}")), "{body}");
    assert_eq!(body.replace(COMMENT, ""), "data: 1\n\ndata: [DONE]\n\n");
    assert!(raw.ends_with("\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_stream_of_http2_gets_them_as_well() {
    let go_on = Arc::new(Notify::new());
    let first = format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"));
    let then = format!("{}0\r\n\r\n", chunk("data: [DONE]\n\n"));
    let worker = Worker::start([in_two(&first, &go_on, &then)]).await;
    let door = door(FrontendConfig::new(), &worker).await;
    let mut client = http2::Client::connect(&door.address).await;
    let mut body = client.begin(http2::post(CHAT, STREAMED)).await.unwrap().into_body();
    let mut text = String::new();
    while !text.contains(&COMMENT.repeat(3)) {
        let data = soon(body.frame()).await.unwrap().unwrap().into_data().unwrap();
        text.push_str(std::str::from_utf8(&data).unwrap());
    }
    go_on.notify_one();
    let (rest, ended) = http2::read(&mut body).await;
    ended.unwrap();
    assert_eq!((text + &rest).replace(COMMENT, ""), "data: 1\n\ndata: [DONE]\n\n");
}

/// What a client has got of an answer that stood still until the worker was given up. Without comments
/// that would be all that was sent, and the break.
async fn stands_still(first: &str) -> String {
    let idle = Duration::from_millis(100);
    let worker = Worker::start([vec![send(first), Act::AwaitPeer]]).await;
    let door = door(FrontendConfig::new().with_idle_stream_timeout(idle), &worker).await;
    let raw = door.post(CHAT, STREAMED).await.raw;
    soon(worker.closed.notified()).await;
    raw
}

#[tokio::test]
async fn a_comment_is_no_sign_of_life_of_the_worker() {
    let raw = stands_still(&format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))).await;
    assert!(raw.contains(COMMENT) && raw.contains("bad_gateway"), "{raw}");
    assert!(!raw.ends_with("\r\n0\r\n\r\n"), "{raw}");
    // A stream that has begun with its head alone is between two events as well.
    let raw = stands_still(STREAM_HEAD).await;
    assert!(raw.contains(COMMENT) && raw.contains("bad_gateway"), "{raw}");
}

#[tokio::test]
async fn nothing_is_put_into_an_event_or_into_a_body_that_is_counted_packed_or_no_stream() {
    let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
    let events = "content-type: text/event-stream";
    let chunked = "transfer-encoding: chunked";
    for first in [
        format!("{STREAM_HEAD}{}", chunk("data: 1\n\ndata: 2\n")),
        format!("{STREAM_HEAD}{}", chunk("data: {\"choices\"")),
        head(&format!("{events}\r\ncontent-length: 1000")) + "data: 1\n\n",
        head(&format!("{events}\r\ncontent-encoding: gzip\r\n{chunked}")) + &chunk("\u{1f}8\n\n"),
        head(&format!("content-type: application/json\r\n{chunked}")) + &chunk("\n\n"),
    ] {
        let raw = stands_still(&first).await;
        assert!(!raw.contains(": keep-alive"), "{first:?}: {raw:?}");
    }
}

#[tokio::test]
async fn before_the_head_of_the_answer_nothing_is_sent() {
    let first_byte = Duration::from_millis(100);
    let worker = Worker::start([vec![Act::AwaitPeer]]).await;
    let door = door(FrontendConfig::new().with_first_byte_timeout(first_byte), &worker).await;
    let answer = door.post(CHAT, STREAMED).await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
}

#[tokio::test]
async fn a_client_that_has_left_a_silent_stream_is_noticed() {
    let worker = Worker::start([vec![
        send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))),
        Act::AwaitPeer,
    ]])
    .await;
    let door = door(FrontendConfig::new(), &worker).await;
    let mut stream = door.begin(post(CHAT, STREAMED)).await;
    until_comments(&mut stream, 1).await;
    drop(stream);
    soon(worker.closed.notified()).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_a_silent_stream_is_cut() {
    let options = ServeOptions::default().with_write_stall_timeout(Duration::from_millis(200));
    // More than the sockets in between take.
    let events = chunk(&"data: 1\n\n".repeat(4 << 20));
    let worker =
        Worker::start([vec![send(format!("{STREAM_HEAD}{events}")), Act::AwaitPeer]]).await;
    let config = FrontendConfig::new().with_sse_keepalive(Some(SILENCE));
    let mut door = Door::with("a", &config, options).await;
    door.writer.stage_ready();
    door.writer.publish();
    door.add(&worker.instance("a", "m"));
    let _stream = door.begin(post(CHAT, STREAMED)).await;
    soon(worker.closed.notified()).await;
}

#[tokio::test]
async fn a_stream_that_is_not_silent_passes_as_it_came() {
    let worker = Worker::start([
        vec![send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk("data: 1\n\ndata: [DONE]\n\n")))],
        whole("{}"),
    ])
    .await;
    let config = FrontendConfig::new().with_sse_keepalive(Some(Duration::from_secs(600)));
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    door.add(&worker.instance("a", "m"));
    let raw = door.post(CHAT, STREAMED).await.raw;
    assert_eq!(unchunked(&raw), "data: 1\n\ndata: [DONE]\n\n");
}
