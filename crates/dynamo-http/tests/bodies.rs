//! Request bodies that come packed.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::io::Write as _;

use common::{Answer, Door, Worker, chat, whole};

const CHAT: &str = "/v1/chat/completions";

async fn ask(door: &Door, encoding: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    door.ask([head.as_bytes(), body].concat()).await
}

#[tokio::test]
async fn a_packed_body_is_forwarded_unpacked() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(chat("m").as_bytes()).unwrap();
    let answer = ask(&door, "gzip", &packer.finish().unwrap()).await;
    assert_eq!(answer.status(), 200, "{}", answer.raw);
    let seen = worker.requests.lock().unwrap()[0].clone();
    assert!(seen.ends_with(&format!("\r\n\r\n{}", chat("m"))), "{seen}");
    assert!(seen.contains(&format!("content-length: {}\r\n", chat("m").len())), "{seen}");
    assert!(!seen.contains("content-encoding"), "{seen}");
}

#[tokio::test]
async fn an_unknown_coding_is_refused_with_those_that_are_taken_and_a_wrong_type_without() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let answer = ask(&door, "compress", b"?").await;
    assert_eq!((answer.status(), &*answer.code()), (415, "unsupported_encoding"));
    assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate, zstd, br"));
    let answer = ask(&door, "gzip", b"{}").await;
    assert_eq!((answer.status(), answer.header("accept-encoding")), (400, None));
    let typed = common::post(CHAT, &chat("m")).replace("application/json", "text/plain");
    let answer = door.ask(typed).await;
    assert_eq!((answer.status(), answer.header("accept-encoding")), (415, None));
    assert_eq!(worker.asked(), 0);
}
