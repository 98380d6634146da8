//! Proxying: what passes, what breaks, and what a client is told then.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{
    Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, instance, nowhere, post, send, soon,
    stream_until, whole,
};
use dynamo_http::{FrontendConfig, ServeOptions};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

async fn door(worker: &Worker) -> Door {
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    door
}

#[tokio::test]
async fn body_and_headers_reach_the_worker_and_hop_by_hop_ones_do_not() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker).await;
    let body = "{ \"model\" :\t\"m\", \"x\": [1.50, \"\\u0041\"] }";
    let request = post(&format!("{CHAT}?a=b"), body).replace(
        "host: d\r\n",
        "host: d\r\nauthorization: Bearer k\r\nx-own: 1\r\nte: trailers\r\nkeep-alive: 9\r\nx-request-id: abc-1\r\n",
    );
    let answer = door.ask(request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));

    let seen = worker.requests.lock().unwrap()[0].clone();
    let (head, seen_body) = seen.split_once("\r\n\r\n").unwrap();
    assert_eq!(seen_body, body, "byte for byte");
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /v1/chat/completions?a=b HTTP/1.1");
    lines.sort_unstable();
    let id =
        lines.remove(lines.iter().position(|line| line.starts_with("x-request-id: ")).unwrap());
    assert_ne!(id, "x-request-id: abc-1", "an engine may refuse an id that is in use");
    let via = lines.remove(lines.iter().position(|line| line.starts_with("via: ")).unwrap());
    assert!(via.starts_with("via: 1.1 dynamo-"), "{via}");
    let host = format!("host: {}", worker.url.strip_prefix("http://").unwrap());
    let length = format!("content-length: {}", body.len());
    let mut expected = vec![
        "authorization: Bearer k",
        "content-type: application/json",
        length.as_str(),
        host.as_str(),
        "x-own: 1",
        "x-client-request-id: abc-1",
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_chunked_request_is_framed_anew_by_exactly_one_length() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&worker).await;
    let body = chat("m");
    let (first, second) = body.split_at(5);
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
        chunk(first),
        chunk(second)
    );
    assert_eq!(door.ask(request).await.status(), 200);
    let seen = worker.requests.lock().unwrap()[0].to_ascii_lowercase();
    assert!(seen.ends_with(&body) && !seen.contains("transfer-encoding"), "{seen}");
    assert_eq!(seen.matches("content-length").count(), 1);
}

#[tokio::test]
async fn the_workers_own_answer_is_passed_through_errors_included() {
    let worker = Worker::start([vec![send(
        "HTTP/1.1 422 Unprocessable\r\nx-engine: e\r\nkeep-alive: timeout=5\r\ncontent-length: 5\r\n\r\nwrong",
    )]])
    .await;
    let answer = door(&worker).await.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.body()), (422, "wrong"));
    assert_eq!(answer.header("x-engine"), Some("e"));
    assert_eq!(answer.header("keep-alive"), None);
}

#[tokio::test]
async fn the_first_byte_of_a_stream_arrives_before_the_last_is_sent() {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([stream_until(&go_on)]).await;
    let door = door(&worker).await;
    let mut stream = door.begin(post(CHAT, &chat("m"))).await;
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("data: 1") {
        let n = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert!(!seen.contains("DONE"));
    go_on.notify_one();
    let rest = soon(Answer::read(stream)).await;
    assert!(rest.raw.contains("[DONE]") && rest.is_whole(), "{}", rest.raw);
}

#[tokio::test]
async fn what_is_readable_together_leaves_together() {
    let chunks: String = (0..50).map(|n| chunk(&format!("data: {n}\n\n"))).collect();
    let worker = Worker::start([vec![send(format!("{STREAM_HEAD}{chunks}0\r\n\r\n"))]]).await;
    let answer = door(&worker).await.post(CHAT, &chat("m")).await;
    let frames = answer.body().matches("\r\n").count() / 2;
    assert!(frames < 25, "{frames} frames for 50 chunks that came in one piece");
    for n in 0..50 {
        assert!(answer.body().contains(&format!("data: {n}\n\n")));
    }
    assert!(answer.is_whole());
}

/// The data of a chunked answer, as far as it has come. An event may be in two chunks.
fn data_of(raw: &str) -> String {
    let mut data = String::new();
    let mut rest = raw.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    while let Some((size, later)) = rest.split_once("\r\n")
        && let Ok(size) = usize::from_str_radix(size, 16)
    {
        let size = size.min(later.len());
        data.push_str(&later[..size]);
        rest = later.get(size + 2..).unwrap_or_default();
    }
    data
}

#[tokio::test]
async fn no_chunk_ever_waits_for_another() {
    // The worker sends so many chunks in one piece, and no more before the client has all of them.
    const GROUPS: [usize; 12] = [1, 1, 3, 1, 7, 2, 1, 64, 1, 1, 5, 1];
    let go_on = Arc::new(Notify::new());
    let mut script = vec![send(STREAM_HEAD)];
    let mut groups = Vec::new();
    for (number, size) in GROUPS.into_iter().enumerate() {
        // The largest is more than what is joined at most.
        let token = "x".repeat(size * 40);
        let events: Vec<_> = (0..size).map(|n| format!("data: {number}.{n} {token}\n\n")).collect();
        script.push(send(events.iter().map(|event| chunk(event)).collect::<String>()));
        script.push(Act::Await(go_on.clone()));
        groups.push(events);
    }
    script.push(send("0\r\n\r\n"));
    let worker = Worker::start([script]).await;
    let door = door(&worker).await;
    let mut stream = door.begin(post(CHAT, &chat("m"))).await;
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    for group in groups {
        while !group.iter().all(|event| data_of(&seen).contains(event)) {
            let n = soon(stream.read(&mut buffer)).await.unwrap();
            assert!(n > 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        go_on.notify_one();
    }
    assert!(soon(Answer::read(stream)).await.is_whole());
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_request_at_the_worker() {
    for script in [
        vec![send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))), Act::AwaitPeer],
        // Also one that has not begun to answer.
        vec![Act::AwaitPeer],
    ] {
        let worker = Worker::start([script]).await;
        let door = door(&worker).await;
        let stream = door.begin(post(CHAT, &chat("m"))).await;
        worker.until_asked().await;
        let left = std::time::Instant::now();
        drop(stream);
        soon(worker.closed.notified()).await;
        println!("cancelled after {:?}", left.elapsed());
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_whole_answer() {
    let chunked = format!("{STREAM_HEAD}{}0\r\n\r\n", chunk("data: [DONE]\n\n"));
    for script in [whole("{}"), vec![send(chunked)]] {
        let worker = Worker::start([script]).await;
        let door = door(&worker).await;
        for _ in 0..5 {
            assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
        }
        assert_eq!(worker.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_engine_that_closes_after_every_answer_costs_no_request() {
    for end in [Act::Close, Act::Reset] {
        let mut script = whole("{}");
        script.push(end);
        let worker = Worker::start([script]).await;
        let door = door(&worker).await;
        for n in 0..20 {
            let answer = door.post(CHAT, &chat("m")).await;
            assert_eq!(answer.status(), 200, "request {n}: {}", answer.raw);
        }
    }
}

#[tokio::test]
async fn a_reused_connection_that_is_reset_before_an_answer_is_tried_again_on_a_new_one() {
    // The connection lives until the second request was read, so no look at it could have told.
    let worker = Worker::start([whole("{}"), vec![Act::Reset], whole("{}")]).await;
    let door = door(&worker).await;
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    assert_eq!(worker.asked(), 3);
}

#[tokio::test]
async fn a_connect_error_is_always_tried_on_another_instance() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(&worker).await;
    for _ in 0..3 {
        door.add(&instance("a", "m", "Chat", Some(&nowhere().await)));
    }
    for _ in 0..8 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
}

#[tokio::test]
async fn without_another_instance_a_connect_error_is_a_bad_gateway_that_names_no_worker() {
    let mut door = Door::open("a").await;
    let url = nowhere().await;
    door.add(&instance("a", "m", "Chat", Some(&url)));
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"));
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert!(!answer.raw.contains(url.strip_prefix("http://").unwrap()), "{}", answer.raw);
}

#[tokio::test]
async fn a_request_whose_connection_is_lost_before_an_answer_is_sent_once_elsewhere() {
    let mut door = Door::open("a").await;
    let losers = [
        Worker::start([vec![Act::Close]]).await,
        Worker::start([vec![Act::Reset]]).await,
        Worker::start([vec![Act::Close]]).await,
    ];
    for loser in &losers {
        door.add(&loser.instance("a", "m"));
    }
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"));
    assert_eq!(losers.iter().map(Worker::asked).sum::<usize>(), 2);

    let winner = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&losers[0].instance("a", "m"));
    door.add(&winner.instance("a", "m"));
    for _ in 0..4 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
}

#[tokio::test]
async fn a_redirect_or_a_broken_head_is_a_bad_gateway_and_never_followed() {
    for head in [
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 nonsense\r\n\r\n".to_owned(),
        "SSH-2.0-server\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
    ] {
        let worker = Worker::start([vec![send(head.clone()), Act::AwaitPeer]]).await;
        let answer = door(&worker).await.post(CHAT, &chat("m")).await;
        assert_eq!(answer.status(), 502, "{head:.40}: {}", answer.raw);
        assert_eq!(worker.asked(), 1);
    }
}

#[tokio::test]
async fn a_worker_that_does_not_begin_in_time_is_a_gateway_timeout() {
    let worker = Worker::start([vec![Act::AwaitPeer]]).await;
    let config = FrontendConfig::new().with_first_byte_timeout(Duration::from_millis(50));
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    soon(worker.closed.notified()).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_told_in_the_routes_dialect_and_cut() {
    for (path, event) in [
        (CHAT, "data: {\"error\":{"),
        ("/v1/completions", "data: {\"error\":{"),
        ("/v1/responses", "event: error\ndata: {\"code\":\"bad_gateway\""),
        ("/v1/messages", "event: error\ndata: {\"error\":{"),
    ] {
        for end in [Act::Close, Act::Reset] {
            let head = send(format!("{STREAM_HEAD}{}", chunk("data: {\"sequence_number\":4}\n\n")));
            let worker = Worker::start([vec![head, end.clone()]]).await;
            let answer = door(&worker).await.post(path, &chat("m")).await;
            assert_eq!(answer.status(), 200);
            assert!(answer.body().contains(event), "{path} {end:?}: {}", answer.raw);
            assert!(!answer.is_whole(), "{path}: a cut, not an end: {}", answer.raw);
            assert!(!answer.raw.contains("[DONE]"));
        }
    }
}

#[tokio::test]
async fn in_the_middle_of_an_event_or_in_an_encoded_stream_a_break_is_only_a_cut() {
    let gzip = STREAM_HEAD.replace("\r\n\r\n", "\r\ncontent-encoding: gzip\r\n\r\n");
    let json = STREAM_HEAD.replace("text/event-stream", "application/json");
    for (head, data) in [(STREAM_HEAD, "data: {\"a"), (&gzip, "data: 1\n\n"), (&json, "{\n\n")] {
        let script = vec![send(format!("{head}{}", chunk(data))), Act::Close];
        let worker = Worker::start([script]).await;
        let answer = door(&worker).await.post(CHAT, &chat("m")).await;
        assert!(!answer.body().contains("error") && !answer.is_whole(), "{}", answer.raw);
    }
    // A body with a length is short, and its end says so.
    let short = send("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}");
    let worker = Worker::start([vec![short, Act::Close]]).await;
    let answer = door(&worker).await.post(CHAT, &chat("m")).await;
    assert_eq!((answer.header("content-length"), answer.body()), (Some("50"), "{}"));
}

#[tokio::test]
async fn a_clean_end_is_passed_on_as_it_is_with_or_without_an_end_marker() {
    let script = vec![send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk("data: 1\n\n")))];
    let worker = Worker::start([script]).await;
    let answer = door(&worker).await.post(CHAT, &chat("m")).await;
    assert!(answer.is_whole() && !answer.raw.contains("error"), "{}", answer.raw);
}

#[tokio::test]
async fn a_stream_that_only_its_end_ends_is_judged_by_its_end_marker() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    for (path, data, is_whole) in [
        (CHAT, "data: 1\n\ndata: [DONE]\n\n", true),
        (CHAT, "data: 1\n\n", false),
        ("/v1/responses", "event: response.completed\ndata: {}\n\n", true),
        ("/v1/responses", "event: response.created\ndata: {}\n\n", false),
        ("/v1/messages", "event: message_stop\ndata: {}\n\n", true),
        ("/v1/messages", "event: ping\ndata: {}\n\n", false),
    ] {
        let worker = Worker::start([vec![send(format!("{head}{data}")), Act::Close]]).await;
        let answer = door(&worker).await.post(path, &chat("m")).await;
        assert_eq!(answer.is_whole(), is_whole, "{path} {data}: {}", answer.raw);
        assert_eq!(answer.raw.contains("\"error\""), !is_whole, "{}", answer.raw);
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_for_too_long_is_broken_off() {
    let script = vec![send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))), Act::AwaitPeer];
    let worker = Worker::start([script]).await;
    let config = FrontendConfig::new().with_idle_stream_timeout(Duration::from_millis(50));
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.add(&worker.instance("a", "m"));
    let answer = door.post(CHAT, &chat("m")).await;
    assert!(answer.body().contains("data: {\"error\"") && !answer.is_whole(), "{}", answer.raw);
    soon(worker.closed.notified()).await;
}

#[tokio::test]
async fn an_instance_that_leaves_ends_no_stream() {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([stream_until(&go_on)]).await;
    let mut door = Door::open("a").await;
    let instance = worker.instance("a", "m");
    door.add(&instance);
    let stream = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    door.remove(&instance);
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 503);
    go_on.notify_one();
    let answer = soon(Answer::read(stream)).await;
    assert!(answer.raw.contains("[DONE]") && answer.is_whole(), "{}", answer.raw);
}

#[tokio::test]
async fn a_base_path_of_the_worker_is_kept() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&instance("a", "m", "Chat", Some(&format!("{}/llm/", worker.url))));
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    assert!(worker.requests.lock().unwrap()[0].starts_with("POST /llm/v1/chat/completions "));
}

#[tokio::test]
async fn a_large_body_passes_whole_in_both_directions() {
    let large = "x".repeat(3 << 20);
    let worker = Worker::start([whole(&large)]).await;
    let door = door(&worker).await;
    let body = format!(r#"{{"model":"m","prompt":"{large}"}}"#);
    let answer = door.post("/v1/completions", &body).await;
    assert_eq!(answer.body().len(), large.len());
    assert!(worker.requests.lock().unwrap()[0].ends_with(&body));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_https_worker_is_greeted_in_tls_and_not_trusted_blindly() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut door = Door::open("a").await;
    door.add(&instance("a", "m", "Chat", Some(&url)));
    let greeted = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut record = [0; 3];
        stream.read_exact(&mut record).await.unwrap();
        record
    });
    let answer = door.post(CHAT, &chat("m")).await;
    // The handshake fails, so nothing was sent: the request may go elsewhere.
    assert_eq!((answer.status(), answer.code().as_str()), (502, "bad_gateway"));
    // A handshake record of TLS 1.x (RFC 8446 section 5.1).
    assert_eq!(soon(greeted).await.unwrap(), [22, 3, 1]);
}
