//! What strangers send: ambiguous framing, foreign hosts, bodies that never end.

mod common;

use common::{Answer, Door, Worker, chat, chunk, post, soon, whole};
use dynamo_http::{FrontendConfig, ServeOptions};
use futures_util::future::{join_all, select_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_length_beside_chunks_is_dropped_and_the_worker_sees_one_framing() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let body = chat("m");
    // Who goes by the length takes what follows the chunks for a part of the body; who goes by the
    // chunks takes it for a request.
    let smuggled = post(CHAT, &chat("smuggled"));
    let chunks = format!("{}0\r\n\r\n", chunk(&body));
    for (first, second) in
        [("content-length", "transfer-encoding"), ("transfer-encoding", "content-length")]
    {
        let value = |name: &str| match name {
            "content-length" => (chunks.len() + smuggled.len()).to_string(),
            _ => "chunked".to_owned(),
        };
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-type: application/json\r\n{first}: {}\r\n{second}: {}\r\n\r\n{chunks}{smuggled}",
            value(first),
            value(second),
        );
        let before = worker.asked();
        let answer = door.ask(request).await;
        assert_eq!(answer.raw.matches("HTTP/1.1 ").count(), 1, "one answer: {}", answer.raw);
        assert_eq!(answer.status(), 200, "{}", answer.raw);
        assert_eq!(worker.asked(), before + 1);
        let seen = worker.requests.lock().unwrap()[before].to_ascii_lowercase();
        assert!(seen.ends_with(&format!("\r\n\r\n{body}")), "{seen}");
        assert_eq!(seen.matches("content-length:").count(), 1, "{seen}");
        assert!(seen.contains(&format!("content-length: {}\r\n", body.len())), "{seen}");
        assert!(!seen.contains("transfer-encoding") && !seen.contains("smuggled"), "{seen}");
    }
}

#[tokio::test]
async fn neither_the_host_nor_the_authority_of_a_client_reaches_a_worker() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let request = post(&format!("http://elsewhere.example:81{CHAT}"), &chat("m"))
        .replace("host: d", "host: another.example");
    assert_eq!(door.ask(request).await.status(), 200);
    let seen = worker.requests.lock().unwrap()[0].clone();
    assert!(seen.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{seen}");
    let own = format!("host: {}\r\n", worker.url.strip_prefix("http://").unwrap());
    assert!(seen.contains(&own) && !seen.contains("example"), "{seen}");
}

#[tokio::test]
async fn bodies_of_many_slow_clients_are_bounded_in_sum_and_give_back_what_they_took() {
    let worker = Worker::start([whole("{}")]).await;
    let config = FrontendConfig::new().with_bodies_limit(96 << 10);
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.add(&worker.instance("a", "m"));

    let padded = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(30 << 10));
    let unfinished = post(CHAT, &padded);
    let unfinished = &unfinished[..unfinished.len() - 1];
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(door.begin(unfinished).await);
    }
    // There is room for two, and for the first piece of a third. The client whose bytes come last is
    // refused, and its memory is free again.
    let readable = slow.iter().map(|stream| Box::pin(stream.readable()));
    let (_, refused, _) = soon(select_all(readable)).await;
    let answer = soon(Answer::read(slow.remove(refused))).await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    for mut stream in slow {
        stream.write_all(b"}").await.unwrap();
        assert_eq!(soon(Answer::read(stream)).await.status(), 200);
    }
    // Now there is room for two again.
    let both = [door.post(CHAT, &padded), door.post(CHAT, &padded)];
    assert!(join_all(both).await.iter().all(|answer| answer.status() == 200));
}

#[tokio::test]
async fn a_name_with_control_or_bidirectional_characters_or_too_long_is_no_name() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let long = "evil".repeat(2500);
    for name in [r"evil\r\nx: y", r"\u001b[31mevil", r"\u202eevil", &long] {
        let answer = door.post(CHAT, &chat(name)).await;
        assert_eq!(answer.status(), 400, "{name:.40}: {}", answer.raw);
        assert!(!answer.raw.contains("evil"), "{}", answer.raw);
    }
    let metrics = door.get("/metrics").await;
    assert!(!metrics.raw.contains("evil"), "{}", metrics.raw);
    assert_eq!(worker.asked(), 0);
}

#[tokio::test]
async fn no_one_is_asked_to_go_on_with_a_body_that_will_not_be_read() {
    let door = Door::open("a").await;
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: d\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
    );
    let mut stream = door.begin(request).await;
    let mut head = [0; 12];
    soon(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 503", "closed, which is said before the body is asked for");
}
