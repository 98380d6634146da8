//! Engines as they are: what real ones were seen to do, played by workers that do the same.
//!
//! What is told here of one engine's habit, `proxy.rs` and `resilience.rs` tell in general.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{
    Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, instance, post, read_request, send, soon,
    whole,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::sleep;

const CHAT: &str = "/v1/chat/completions";

async fn door(worker: &Worker) -> Door {
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    door
}

/// An answer with a status and a length.
fn answer(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers with these events, chunked and to a clean end.
fn streams(events: &str) -> Vec<Act> {
    vec![send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(events)))]
}

#[tokio::test]
async fn closing_after_every_stream_in_spite_of_an_announced_keep_alive_costs_no_request() {
    // llama.cpp's server.
    let head = STREAM_HEAD.replace("\r\n\r\n", "\r\nkeep-alive: timeout=5, max=100\r\n\r\n");
    let stream = format!("{head}{}0\r\n\r\n", chunk("data: 1\n\ndata: [DONE]\n\n"));
    let worker = Worker::start([vec![send(stream), Act::Close]]).await;
    let door = door(&worker).await;
    for n in 0..20 {
        let answer = door.post(CHAT, &chat("m")).await;
        assert!(answer.status() == 200 && answer.is_whole(), "request {n}: {}", answer.raw);
        assert!(!answer.raw.contains("error"), "request {n}: {}", answer.raw);
    }
}

#[tokio::test]
async fn a_connection_that_is_good_for_so_many_requests_only_costs_none() {
    // llama.cpp's server closes after 100 requests, whatever it said; here it is 3.
    let mut scripts = Vec::new();
    for _ in 0..10 {
        scripts.extend([whole("{}"), whole("{}"), [whole("{}"), vec![Act::Close]].concat()]);
    }
    let worker = Worker::start(scripts).await;
    let door = door(&worker).await;
    for n in 0..30 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200, "request {n}");
    }
    assert_eq!(worker.connections.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn a_request_that_waits_for_a_slot_without_any_header_is_waited_for() {
    // llama.cpp's server sends nothing, no headers either, until a slot is free.
    let free = Arc::new(Notify::new());
    let script = vec![Act::Await(free.clone()), streams("data: [DONE]\n\n").remove(0)];
    let worker = Worker::start([script]).await;
    let door = door(&worker).await;
    let waiting = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    // Each answer to a probe is a sign of life, so the request is never given up.
    worker.until_probed(8).await;
    free.notify_one();
    let answer = soon(Answer::read(waiting)).await;
    assert!(answer.status() == 200 && answer.is_whole(), "{}", answer.raw);
    assert_eq!(worker.asked(), 1);
}

#[tokio::test]
async fn a_health_page_that_hangs_while_bytes_flow_puts_no_one_out_of_rotation() {
    // llama.cpp's server, under a burst of connections.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let done = Arc::new(Notify::new());
    tokio::spawn({
        let done = done.clone();
        async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let done = done.clone();
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await.unwrap_or_default();
                    if !request.starts_with("POST") {
                        return done.notified().await;
                    }
                    stream.write_all(STREAM_HEAD.as_bytes()).await.unwrap();
                    while stream.write_all(chunk("data: 1\n\n").as_bytes()).await.is_ok() {
                        sleep(Duration::from_millis(100)).await;
                    }
                });
            }
        }
    });
    let mut door = Door::open("a").await;
    door.add(&instance("a", "m", "Chat", Some(&url)));
    let mut flowing = door.begin(post(CHAT, &chat("m"))).await;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while matches!(flowing.read(&mut buffer).await, Ok(n) if n > 0) {}
    });
    // Longer than the silence that puts a server out: nothing must happen, and nothing tells of it.
    sleep(Duration::from_secs(18)).await;
    let health = door.get("/health").await.json();
    assert_eq!(health["instances"][0].get("out_of_rotation"), None, "{health}");
    done.notify_waiters();
}

#[tokio::test]
async fn a_stream_without_done_and_one_with_done_after_an_error_pass_as_they_are() {
    for events in [
        // transformers: never an end marker.
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        // vLLM, when its core dies.
        "data: 1\n\ndata: {\"error\": {\"message\": \"core\", \"code\": 500}}\n\ndata: [DONE]\n\n",
        // mistral.rs, for a prompt that is too long.
        "data: prompt too long\n\ndata: [DONE]\n\n",
        // llama.cpp's server, while nothing comes.
        ": ping\n\ndata: 1\n\n: ping\n\ndata: [DONE]\n\n",
    ] {
        let worker = Worker::start([streams(events)]).await;
        let answer = door(&worker).await.post(CHAT, &chat("m")).await;
        assert!(answer.is_whole(), "{}", answer.raw);
        let (_length, passed) = answer.body().split_once("\r\n").unwrap();
        assert_eq!(passed, format!("{events}\r\n0\r\n\r\n"));
    }
}

#[tokio::test]
async fn done_and_then_a_cut_is_a_cut() {
    // llama-cpp-python, on SIGTERM.
    let cut = send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\ndata: [DONE]\n\n")));
    let worker = Worker::start([vec![cut, Act::Close]]).await;
    let answer = door(&worker).await.post(CHAT, &chat("m")).await;
    assert!(!answer.is_whole(), "{}", answer.raw);
}

#[tokio::test]
async fn errors_of_every_shape_pass_as_they_are() {
    for (status, content_type, body) in [
        // vLLM, llama.cpp: the code is a number.
        ("404 Not Found", "application/json", r#"{"error":{"message":"no","code":404}}"#),
        // vLLM without its key.
        ("401 Unauthorized", "application/json", r#"{"error":"Unauthorized"}"#),
        // Everything on FastAPI.
        ("422 Unprocessable Entity", "application/json", r#"{"detail":[{"loc":["body"]}]}"#),
        // mistral.rs, shimmy.
        ("400 Bad Request", "text/plain; charset=utf-8", "Failed to parse the request body"),
        ("500 Internal Server Error", "application/json", r#"{"message":"no such model"}"#),
        // llama.cpp without --embeddings, and while it loads.
        ("501 Not Implemented", "application/json", r#"{"error":{"code":501}}"#),
        ("503 Service Unavailable", "application/json", r#"{"error":{"message":"Loading"}}"#),
        ("502 Bad Gateway", "text/plain", ""),
    ] {
        let worker = Worker::start([vec![send(answer(status, content_type, body))]]).await;
        let answer = door(&worker).await.post(CHAT, &chat("m")).await;
        assert!(answer.raw.starts_with(&format!("HTTP/1.1 {}", &status[..3])), "{}", answer.raw);
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.body(), body);
        assert_eq!(worker.asked(), 1, "{status}: what a worker answered is not asked again");
    }
}

#[tokio::test]
async fn a_redirect_to_the_engines_own_address_is_never_shown() {
    // Everything on uvicorn, for a trailing slash, which is no route here.
    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://10.0.0.5:8001/v1/chat\r\n\
                    content-length: 0\r\n\r\n";
    let worker = Worker::start([vec![send(redirect)]]).await;
    let door = door(&worker).await;
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"));
    assert!(!answer.raw.contains("10.0.0.5"), "{}", answer.raw);
    assert_eq!(worker.asked(), 1);
    let answer = door.post(&format!("{CHAT}/"), &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (404, "not_found"));
    assert_eq!(worker.asked(), 1);
}

#[tokio::test]
async fn a_request_without_an_id_gets_one_that_every_engine_takes() {
    // llama-cpp-python answers 400 unless it is a UUID.
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker).await;
    let answer = door.post(CHAT, &chat("m")).await;
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
    assert!(worker.requests.lock().unwrap()[0].contains(&format!("x-request-id: {id}\r\n")));
}

#[tokio::test]
async fn a_stream_that_nobody_asked_for_streams_and_breaks_like_any_other() {
    // transformers, on /v1/responses.
    let event = "event: response.created\ndata: {\"sequence_number\":0}\n\n";
    let go_on = Arc::new(Notify::new());
    let begins = send(format!("{STREAM_HEAD}{}", chunk(event)));
    let worker = Worker::start([vec![begins, Act::Await(go_on.clone()), Act::Close]]).await;
    let door = door(&worker).await;
    let mut stream = door.begin(post("/v1/responses", &chat("m"))).await;
    let mut seen = String::new();
    while !seen.contains("response.created") {
        let mut buffer = [0; 4096];
        let n = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    go_on.notify_one();
    let rest = soon(Answer::read(stream)).await;
    assert!(rest.raw.contains("event: error\n") && !rest.is_whole(), "{}", rest.raw);
}

#[tokio::test]
async fn a_stream_that_was_asked_for_and_is_none_passes_as_it_is() {
    // shimmy, on /v1/completions.
    let worker = Worker::start([whole(r#"{"object":"text_completion"}"#)]).await;
    let request = r#"{"model":"m","prompt":"x","stream":true}"#;
    let answer = door(&worker).await.post("/v1/completions", request).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.body(), r#"{"object":"text_completion"}"#);
}
