//! The tokens of answers: what is counted of them, and what clients see of that.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::io::Write as _;
use std::sync::Arc;

use common::{Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, post, send, soon, whole};
use dynamo_discovery::{Accepts, Instance, RequestField};
use dynamo_http::{FrontendConfig, ServeOptions, UsageMode};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;
const USAGE: &str =
    r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}"#;

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

fn content(text: &str) -> String {
    event(&format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#))
}

fn usage_event() -> String {
    event(&format!(r#"{{"choices":[],"usage":{USAGE}}}"#))
}

/// An answer of these events, each in a chunk of its own.
fn streams(events: &[String]) -> Vec<Act> {
    let chunks: String = events.iter().map(|event| chunk(event)).collect();
    vec![send(format!("{STREAM_HEAD}{chunks}0\r\n\r\n"))]
}

/// The body of a chunked answer, without the frames.
fn unchunked(answer: &Answer) -> String {
    let (mut rest, mut body) = (answer.body(), String::new());
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&more[..size]);
        rest = &more[size + 2..];
    }
    body
}

/// The instance of a worker that accepts `include_usage`.
fn accepting(worker: &Worker, namespace: &str) -> Arc<Instance> {
    let instance = worker.instance(namespace, "m");
    let accepts = Accepts::from_iter([RequestField::IncludeUsage]);
    let entry = instance.entry().clone().with_accepts(accepts);
    Arc::new(Instance::new(instance.key().clone(), None, entry))
}

async fn door(mode: UsageMode) -> Door {
    let config = FrontendConfig::new().with_usage(mode);
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    door
}

/// The value of a sample. A request is counted when its connection lets go of it, which may be after
/// the client has the answer.
async fn sample(door: &Door, sample: &str, expected: &str) {
    let line = format!("dynamo_frontend_{sample} {expected}");
    soon(async {
        while !door.get("/metrics").await.body().lines().any(|one| one == line) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// All metrics of an operator.
async fn operators_page(door: &Door) -> String {
    let request = http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let answer =
        tower::ServiceExt::oneshot(door.frontend.admin_router(common::local_admin()), request)
            .await
            .unwrap();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn the_tokens_of_a_plain_answer_are_counted_by_model_route_and_namespace() {
    let body = format!(r#"{{"choices":[{{"usage":3}}],"usage":{USAGE},"x":null}}"#);
    let worker = Worker::start([whole(&body)]).await;
    let mut door = door(UsageMode::Observe).await;
    door.add(&worker.instance("a", "m"));
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!(answer.body(), body);
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!(r#"input_tokens_total{{{by},namespace="a"}}"#), "9").await;
    sample(&door, &format!(r#"output_tokens_total{{{by},namespace="a"}}"#), "2").await;
    sample(&door, &format!("input_sequence_tokens_sum{{{by}}}"), "9").await;
    sample(&door, &format!("output_sequence_tokens_sum{{{by}}}"), "2").await;
    sample(&door, &format!("cached_tokens_sum{{{by}}}"), "8").await;
    sample(&door, &format!("time_to_first_token_seconds_count{{{by}}}"), "1").await;
    sample(&door, &format!(r#"answer_usage_total{{{by},usage="told"}}"#), "1").await;
}

#[tokio::test]
async fn the_first_token_is_the_first_content_and_not_the_head_or_the_role() {
    let go_on = Arc::new(Notify::new());
    let role = event(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#);
    let script = vec![
        send(format!("{STREAM_HEAD}{}", chunk(&role))),
        Act::Await(go_on.clone()),
        send(format!(
            "{}{}{}{}0\r\n\r\n",
            chunk(&content("a")),
            chunk(&content("b")),
            chunk(&usage_event()),
            chunk(&event("[DONE]"))
        )),
    ];
    let worker = Worker::start([script]).await;
    let mut door = door(UsageMode::Observe).await;
    door.add(&worker.instance("a", "m"));
    let waiting = door.begin(post(CHAT, STREAMED)).await;
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!("time_to_first_byte_seconds_count{{{by}}}"), "1").await;
    let page = door.get("/metrics").await;
    assert!(!page.body().contains("time_to_first_token_seconds_count"), "{}", page.body());
    go_on.notify_one();
    let answer = soon(Answer::read(waiting)).await;
    assert!(answer.is_whole());
    sample(&door, &format!("time_to_first_token_seconds_count{{{by}}}"), "1").await;
    sample(&door, &format!("inter_token_latency_seconds_count{{{by}}}"), "1").await;
    sample(&door, &format!("output_sequence_tokens_sum{{{by}}}"), "2").await;
}

#[tokio::test]
async fn a_stream_without_usage_counts_its_content_as_an_estimate() {
    let stream = [content("a"), content("b"), content("c"), event("[DONE]")];
    let worker = Worker::start([streams(&stream)]).await;
    let mut door = door(UsageMode::Observe).await;
    door.add(&worker.instance("a", "m"));
    assert_eq!(unchunked(&door.post(CHAT, STREAMED).await), stream.concat());
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!(r#"estimated_output_tokens_total{{{by},namespace="a"}}"#), "3").await;
    sample(&door, &format!(r#"output_tokens_total{{{by},namespace="a"}}"#), "3").await;
    sample(&door, &format!(r#"answer_usage_total{{{by},usage="estimated"}}"#), "1").await;
}

#[tokio::test]
async fn an_answer_that_is_compressed_or_of_another_type_passes_unread() {
    let plain = format!(r#"{{"choices":[],"usage":{USAGE}}}"#);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(plain.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let answer = |headers: &str, body: &[u8]| {
        let head =
            format!("HTTP/1.1 200 OK\r\n{headers}\r\ncontent-length: {}\r\n\r\n", body.len());
        vec![send([head.as_bytes(), body].concat())]
    };
    let packed_json = "content-type: application/json\r\ncontent-encoding: gzip";
    let answers = [
        answer(packed_json, &packed),
        answer(&packed_json.replace("application/json", "text/event-stream"), &packed),
        answer("content-type: text/plain", plain.as_bytes()),
    ];
    let worker = Worker::start(answers).await;
    let mut door = door(UsageMode::Observe).await;
    door.add(&worker.instance("a", "m"));
    let by = r#"endpoint="chat_completions",model="m""#;
    for (count, expected) in [("1", &packed[..]), ("2", &packed), ("3", plain.as_bytes())] {
        let request = post(CHAT, &chat("m")).replace("host: d", "host: d\r\naccept-encoding: gzip");
        let mut answer = Vec::new();
        let mut stream = door.begin(request).await;
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(&answer[body..], expected, "no byte is changed");
        sample(&door, &format!(r#"answer_usage_total{{{by},usage="unknown"}}"#), count).await;
    }
    sample(&door, &format!(r#"input_tokens_total{{{by},namespace="a"}}"#), "0").await;
    let requests = worker.requests.lock().unwrap().join("");
    assert_eq!(requests.matches("accept-encoding: gzip").count(), 3);
}

#[tokio::test]
async fn wrong_usage_breaks_no_answer_and_counts_as_untold() {
    for usage in ["7", r#"{"prompt_tokens":-1}"#, r#"{"prompt_tokens":99999999999}"#, "{"] {
        let body = format!(r#"{{"choices":[],"usage":{usage}}}"#);
        let worker = Worker::start([whole(&body)]).await;
        let mut door = door(UsageMode::Observe).await;
        door.add(&worker.instance("a", "m"));
        assert_eq!(door.post(CHAT, &chat("m")).await.body(), body);
        let by = r#"endpoint="chat_completions",model="m""#;
        sample(&door, &format!(r#"answer_usage_total{{{by},usage="untold"}}"#), "1").await;
    }
}

#[tokio::test]
async fn with_usage_off_nothing_is_read_or_asked_for() {
    let worker = Worker::start([streams(&[content("a"), usage_event()])]).await;
    let mut door = door(UsageMode::Off).await;
    door.add(&accepting(&worker, "a"));
    door.post(CHAT, STREAMED).await;
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!("request_duration_seconds_count{{{by}}}"), "1").await;
    let page = door.get("/metrics").await;
    for name in
        ["sequence_tokens", "tokens_total", "answer_usage", "inter_token", "time_to_first_token"]
    {
        assert!(!page.body().contains(name), "{name}: {}", page.body());
    }
    assert!(worker.requests.lock().unwrap()[0].ends_with(STREAMED));
}

#[tokio::test]
async fn a_client_that_did_not_ask_sees_what_an_engine_would_say_that_was_not_asked() {
    let without = [content("a"), content("b"), event("[DONE]")];
    let with = [content("a"), content("b"), usage_event(), event("[DONE]")];
    let worker = Worker::start([streams(&with)]).await;
    let mut door = door(UsageMode::Ask).await;
    door.add(&accepting(&worker, "a"));
    let request = post(CHAT, STREAMED).replace("host: d", "host: d\r\naccept-encoding: gzip");
    let answer = door.ask(request).await;
    assert!(answer.is_whole(), "{}", answer.raw);
    assert_eq!(unchunked(&answer), without.concat());
    let asked = worker.requests.lock().unwrap()[0].clone();
    assert!(asked.ends_with(
        r#"{"stream_options":{"include_usage":true},"model":"m","messages":[],"stream":true}"#
    ));
    assert!(!asked.contains("accept-encoding"), "{asked}");
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!(r#"output_tokens_total{{{by},namespace="a"}}"#), "2").await;

    let own =
        r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#;
    let answer = door.post(CHAT, own).await;
    assert_eq!(unchunked(&answer), with.concat(), "a client that asks gets its event");
    assert!(worker.requests.lock().unwrap()[1].ends_with(own));
}

#[tokio::test]
async fn a_stream_with_a_length_that_gets_shorter_has_no_length() {
    let body = [content("a"), usage_event(), event("[DONE]")].concat();
    let head = STREAM_HEAD
        .replace("transfer-encoding: chunked", &format!("content-length: {}", body.len()));
    let worker = Worker::start([vec![send(format!("{head}{body}"))]]).await;
    let mut door = door(UsageMode::Ask).await;
    door.add(&accepting(&worker, "a"));
    let answer = door.post(CHAT, STREAMED).await;
    assert_eq!(answer.header("content-length"), None);
    assert!(answer.is_whole(), "{}", answer.raw);
    assert_eq!(unchunked(&answer), [content("a"), event("[DONE]")].concat());
}

#[tokio::test]
async fn only_workers_that_accept_it_are_asked_and_only_for_streams() {
    let worker = Worker::start([streams(&[usage_event()])]).await;
    let mut door = door(UsageMode::Ask).await;
    let silent = worker.instance("a", "m");
    door.add(&silent);
    assert_eq!(unchunked(&door.post(CHAT, STREAMED).await), usage_event());
    assert!(worker.requests.lock().unwrap()[0].ends_with(STREAMED));
    door.remove(&silent);
    door.add(&accepting(&worker, "a"));
    for (path, body) in [
        (CHAT, chat("m")),
        ("/v1/responses", STREAMED.to_owned()),
        ("/v1/messages", STREAMED.to_owned()),
    ] {
        door.post(path, &body).await;
        assert!(worker.requests.lock().unwrap().last().unwrap().ends_with(&body), "{path}");
    }
    door.post("/v1/completions", STREAMED).await;
    assert!(worker.requests.lock().unwrap().last().unwrap().contains("include_usage"));
}

#[tokio::test]
async fn no_metric_shows_the_tokens_or_the_worker_of_another_namespace() {
    let body = format!(r#"{{"usage":{USAGE}}}"#);
    let (mine, theirs) = (Worker::start([whole(&body)]).await, Worker::start([whole(&body)]).await);
    let mut door = door(UsageMode::Observe).await;
    door.add(&mine.instance("a", "m"));
    door.add(&theirs.instance("b-secret", "m"));
    for _ in 0..3 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
    assert_eq!(theirs.asked(), 0);
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!(r#"input_tokens_total{{{by},namespace="a"}}"#), "27").await;
    let page = operators_page(&door).await;
    let client = door.get("/metrics").await;
    for page in [page.as_str(), client.body()] {
        assert!(!page.contains("b-secret") && !page.contains(&theirs.url), "{page}");
    }
}

#[tokio::test]
async fn operators_see_which_worker_fails_and_clients_see_no_worker() {
    let good = Worker::start([whole("{}")]).await;
    let bad = Worker::start([
        vec![send("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}")],
        vec![send("HTTP/1.1 404 Oh\r\ncontent-length: 2\r\n\r\n{}")],
        vec![send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"), Act::Close],
        vec![send("nonsense\r\n\r\n"), Act::Close],
    ])
    .await;
    let mut door = door(UsageMode::Observe).await;
    door.add(&good.instance("a", "good"));
    door.add(&bad.instance("a", "bad"));
    door.post(CHAT, &chat("good")).await;
    for _ in 0..4 {
        door.post(CHAT, &chat("bad")).await;
    }
    for (worker, status) in [
        (&good, "success"),
        (&bad, "server_error"),
        (&bad, "client_error"),
        (&bad, "broken"),
        (&bad, "no_answer"),
    ] {
        let line = format!(
            r#"dynamo_frontend_worker_requests_total{{status="{status}",worker="{}"}} 1"#,
            worker.url
        );
        soon(async {
            while !operators_page(&door).await.contains(&line) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let page = operators_page(&door).await;
    let inflight = format!(r#"worker_inflight_requests{{worker="{}"}} 0"#, good.url);
    assert!(page.contains(&inflight), "{page}");
    let first = format!(r#"worker_time_to_first_token_seconds_count{{worker="{}"}} 1"#, good.url);
    assert!(page.contains(&first), "{page}");
    assert!(!door.get("/metrics").await.body().contains("worker="));
}

#[tokio::test]
async fn an_event_that_is_too_long_to_be_held_passes_unread_and_is_counted() {
    let long = content(&"x".repeat(70_000));
    let stream = [content("a"), long, usage_event(), event("[DONE]")];
    let worker = Worker::start([streams(&stream)]).await;
    let mut door = door(UsageMode::Ask).await;
    door.add(&accepting(&worker, "a"));
    let answer = door.post(CHAT, STREAMED).await;
    assert_eq!(unchunked(&answer), [&stream[0], &stream[1], &stream[3]].map(|one| &**one).concat());
    sample(&door, "unread_events_total", "1").await;
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_with_what_was_made_until_then() {
    let script = vec![
        send(format!("{STREAM_HEAD}{}{}", chunk(&content("a")), chunk(&content("b")))),
        Act::AwaitPeer,
    ];
    let worker = Worker::start([script]).await;
    let mut door = door(UsageMode::Observe).await;
    door.add(&worker.instance("a", "m"));
    let stream = door.begin(post(CHAT, STREAMED)).await;
    let by = r#"endpoint="chat_completions",model="m""#;
    sample(&door, &format!("time_to_first_token_seconds_count{{{by}}}"), "1").await;
    drop(stream);
    soon(worker.closed.notified()).await;
    sample(&door, &format!(r#"answer_usage_total{{{by},usage="estimated"}}"#), "1").await;
}
