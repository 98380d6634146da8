//! What an access log is told of each request, and of whom.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::keyed::{self, A, B, key, with_key};
use common::{
    Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, nowhere, post, send, soon, whole,
};
use dynamo_http::{
    AccessEnd, AccessLog, AccessRecord, Alias, AliasTable, AliasTarget, Aliases, FrontendConfig,
    RouterMode, ServeOptions,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

const CHAT: &str = "/v1/chat/completions";
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;
const USAGE: &str =
    r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}"#;
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// The records that a log was told, in order.
struct Told(mpsc::UnboundedReceiver<Box<AccessRecord>>);

impl Told {
    async fn next(&mut self) -> Box<AccessRecord> {
        soon(self.0.recv()).await.unwrap()
    }

    fn is_empty(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

fn logged() -> (FrontendConfig, Told) {
    let (sender, told) = mpsc::unbounded_channel();
    let log = AccessLog::new(move |record| drop(sender.send(record)));
    (FrontendConfig::new().with_access_log(Some(log)), Told(told))
}

async fn door(config: &FrontendConfig) -> Door {
    let options = ServeOptions::default().with_client_addresses(true);
    let mut door = Door::with("a", config, options).await;
    door.writer.stage_ready();
    door.writer.publish();
    door
}

fn with(request: impl Into<String>, headers: &str) -> String {
    request.into().replacen("host: d\r\n", &format!("host: d\r\n{headers}"), 1)
}

fn content(text: &str) -> String {
    chunk(&format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"))
}

fn tokens(record: &AccessRecord) -> (Option<u64>, Option<u64>, Option<u64>, bool) {
    (record.input_tokens, record.cached_tokens, record.output_tokens, record.is_estimated)
}

#[tokio::test]
async fn a_plain_answer_is_told_with_every_fact() {
    let (config, mut told) = logged();
    let body = format!(r#"{{"choices":[],"usage":{USAGE}}}"#);
    let worker = Worker::start([whole(&body)]).await;
    let mut door = door(&config).await;
    door.add(&worker.instance("a", "m"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\nx-request-id: r-1\r\n");
    let before = SystemTime::now();
    let answer = door.ask(with(post(&format!("{CHAT}?secret=1"), &chat("m")), &headers)).await;
    assert_eq!(answer.body(), body);
    let record = told.next().await;
    assert!((before..=SystemTime::now()).contains(&record.began));
    assert_eq!(record.client, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(record.request_id.as_deref(), Some("r-1"));
    assert_eq!(record.trace_id.unwrap().as_str(), trace);
    assert_eq!(record.key, None);
    assert_eq!(record.namespace.as_ref().unwrap().as_str(), "a");
    assert_eq!(record.model_asked.as_deref(), Some("m"));
    assert_eq!(record.model_served.as_deref(), Some("m"));
    assert_eq!((&*record.method, &*record.path), ("POST", CHAT));
    assert_eq!(record.worker.as_ref().unwrap().as_str(), worker.url);
    assert_eq!((record.status.unwrap().as_u16(), &record.error), (200, &None));
    assert!(!record.stream);
    assert_eq!(record.bytes_in, chat("m").len() as u64);
    assert_eq!(record.bytes_out, body.len() as u64);
    assert_eq!((record.queued, record.attempts), (Duration::ZERO, 1));
    assert!(record.first_token.unwrap() <= record.total);
    assert_eq!(tokens(&record), (Some(9), Some(8), Some(2), false));
    assert_eq!(record.end, AccessEnd::Complete);
    assert!(told.is_empty());
}

#[tokio::test]
async fn a_stream_is_told_with_its_first_content_and_its_largest_gap() {
    let (config, mut told) = logged();
    let go_on = Arc::new(Notify::new());
    let script = vec![
        send(format!("{STREAM_HEAD}{}", content("a"))),
        Act::Await(go_on.clone()),
        send(format!("{}{}0\r\n\r\n", content("b"), chunk("data: [DONE]\n\n"))),
    ];
    let worker = Worker::start([script]).await;
    let mut door = door(&config).await;
    door.add(&worker.instance("a", "m"));
    let mut stream = door.begin(post(CHAT, STREAMED)).await;
    let mut raw = vec![0; 65536];
    let mut read = 0;
    while !String::from_utf8_lossy(&raw[..read]).contains("content\":\"a") {
        read += soon(stream.read(&mut raw[read..])).await.unwrap();
    }
    assert!(told.is_empty(), "it has not ended");
    go_on.notify_one();
    assert!(soon(Answer::read(stream)).await.is_whole());
    let record = told.next().await;
    assert!(record.stream && record.request_id.is_some());
    assert_eq!(tokens(&record), (None, None, Some(2), true));
    assert!(record.largest_gap > Duration::ZERO);
    assert!(record.first_token.unwrap() + record.largest_gap <= record.total);
    let events = [content("a"), content("b"), chunk("data: [DONE]\n\n")];
    let sizes = events.iter().map(|event| event.split_once("\r\n").unwrap().1.len() - 2);
    assert_eq!(record.bytes_out, sizes.sum::<usize>() as u64);
    assert_eq!(record.end, AccessEnd::Complete);
}

#[tokio::test]
async fn a_client_that_leaves_and_a_worker_that_breaks_are_told_apart() {
    let (config, mut told) = logged();
    let begun = send(format!("{STREAM_HEAD}{}", content("a")));
    let worker =
        Worker::start([vec![begun.clone(), Act::AwaitPeer], vec![begun, Act::Reset]]).await;
    let mut door = door(&config).await;
    door.add(&worker.instance("a", "m"));

    let mut stream = door.begin(post(CHAT, STREAMED)).await;
    let mut byte = [0];
    soon(stream.read_exact(&mut byte)).await.unwrap();
    drop(stream);
    let record = told.next().await;
    assert_eq!(record.end, AccessEnd::ClientGone);
    assert_eq!(record.status.unwrap().as_u16(), 200);
    assert_eq!(tokens(&record), (None, None, Some(1), true));

    let answer = door.post(CHAT, STREAMED).await;
    assert!(!answer.is_whole() && answer.raw.contains("bad_gateway"), "{}", answer.raw);
    let record = told.next().await;
    assert_eq!(record.end, AccessEnd::Cut);
    assert_eq!(record.status.unwrap().as_u16(), 200);
    assert_eq!(record.worker.as_ref().unwrap().as_str(), worker.url);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_has_no_status() {
    let (config, mut told) = logged();
    let worker = Worker::start([vec![Act::AwaitPeer]]).await;
    let mut door = door(&config).await;
    door.add(&worker.instance("a", "m"));
    let stream = door.begin(post(CHAT, STREAMED)).await;
    worker.until_asked().await;
    drop(stream);
    let record = told.next().await;
    assert_eq!((record.status, record.end), (None, AccessEnd::ClientGone));
    assert_eq!((record.attempts, record.model_served.as_deref()), (1, None));
    assert_eq!(record.worker.as_ref().unwrap().as_str(), worker.url);
}

#[tokio::test]
async fn a_request_that_is_sent_again_counts_its_attempts_and_names_who_answered() {
    let (config, mut told) = logged();
    let config = config.with_router_mode(RouterMode::RoundRobin);
    let (busy, sound) =
        (Worker::start([vec![send(BUSY)]]).await, Worker::start([whole("{}")]).await);
    let mut door = door(&config).await;
    door.add(&busy.instance("a", "m"));
    door.add(&sound.instance("a", "m"));
    let mut attempts = Vec::new();
    for _ in 0..2 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
        let record = told.next().await;
        assert_eq!(record.worker.as_ref().unwrap().as_str(), sound.url);
        attempts.push(record.attempts);
    }
    assert!(attempts.contains(&2), "one of two begins at the busy one: {attempts:?}");
}

#[tokio::test]
async fn a_refusal_of_a_worker_names_the_worker_whose_refusal_it_is() {
    let (config, mut told) = logged();
    let config = config.with_router_mode(RouterMode::RoundRobin);
    let refusing = |text: &str| {
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\n";
        vec![send(format!("{head}{text}"))]
    };
    let (one, two) =
        (Worker::start([refusing("one!")]).await, Worker::start([refusing("two!")]).await);
    let mut door = door(&config).await;
    door.add(&one.instance("a", "m"));
    door.add(&two.instance("a", "m"));
    let answer = door.post(CHAT, &chat("m")).await;
    let record = told.next().await;
    let expected = if answer.body() == "one!" { &one.url } else { &two.url };
    assert_eq!(record.worker.as_ref().unwrap().as_str(), expected);
    assert_eq!((record.status.unwrap().as_u16(), record.bytes_out), (503, 4));
    assert_eq!((record.attempts, &record.error), (2, &None));
    assert_eq!(record.namespace.as_ref().unwrap().as_str(), "a");
}

#[tokio::test]
async fn a_worker_that_cannot_be_reached_is_named_with_our_own_error() {
    let (config, mut told) = logged();
    let mut door = door(&config).await;
    let url = nowhere().await;
    door.add(&common::instance("a", "m", "Chat", Some(&url)));
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!(answer.status(), 502);
    let record = told.next().await;
    assert_eq!(record.worker.as_ref().unwrap().as_str(), url);
    assert_eq!(
        (record.status.unwrap().as_u16(), record.error.as_deref()),
        (502, Some("bad_gateway"))
    );
    assert_eq!((record.model_asked.as_deref(), record.model_served.as_deref()), (Some("m"), None));
    assert_eq!(record.bytes_out, answer.body().len() as u64);
}

#[tokio::test]
async fn a_request_that_waited_for_a_place_tells_how_long() {
    let (config, mut told) = logged();
    let config = config.with_worker_concurrency(NonZeroUsize::new(1));
    let go_on = Arc::new(Notify::new());
    let mut script = vec![Act::Await(go_on.clone())];
    script.extend(whole("{}"));
    let worker = Worker::start([script, whole("{}")]).await;
    let mut door = door(&config).await;
    door.add(&worker.instance("a", "m"));
    let first = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    let second = door.begin(post(CHAT, &chat("m"))).await;
    soon(async {
        let waits = "dynamo_frontend_queued_requests 1";
        while !door.get("/metrics").await.body().lines().any(|line| line == waits) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    go_on.notify_one();
    soon(Answer::read(first)).await;
    assert_eq!(told.next().await.queued, Duration::ZERO);
    assert_eq!(soon(Answer::read(second)).await.status(), 200);
    let record = told.next().await;
    assert!(record.queued > Duration::ZERO && record.queued <= record.total);
}

#[tokio::test]
async fn what_does_not_reach_a_worker_has_a_line_with_its_code() {
    let (config, mut told) = logged();
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(&config).await;

    // The route is closed.
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 503);
    let record = told.next().await;
    assert_eq!(record.error.as_deref(), Some("endpoint_disabled"));
    assert_eq!((record.status.unwrap().as_u16(), record.bytes_in), (503, 0));

    door.add(&worker.instance("a", "m"));
    for (request, status, code, path) in [
        (post(CHAT, &chat("other")), 404, Some("model_not_found"), CHAT),
        (post(CHAT, "{"), 400, None, CHAT),
        (
            format!("DELETE {CHAT}?x=1 HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n"),
            405,
            Some("method_not_allowed"),
            CHAT,
        ),
        (post("/v1/nothing?x=1", "{}"), 404, None, "/v1/nothing"),
        (keyed::get("/v1/models", None), 200, None, "/v1/models"),
    ] {
        let answer = door.ask(&request).await;
        let record = told.next().await;
        assert_eq!(record.status.unwrap().as_u16(), status, "{request}");
        assert_eq!(record.error.as_deref(), code, "{request}");
        assert_eq!(&*record.path, path);
        assert!(request.starts_with(&*record.method));
        assert_eq!(record.bytes_out, answer.body().len() as u64);
        assert_eq!((record.attempts, record.end), (0, AccessEnd::Complete));
        assert_eq!(record.worker, None);
        assert_eq!(record.client, Some("127.0.0.1".parse().unwrap()));
    }
    for page in ["/live", "/ready", "/health", "/metrics"] {
        door.get(page).await;
    }
    assert!(told.is_empty(), "machines ask for these pages all the time");
}

#[tokio::test]
async fn texts_of_clients_are_cut_and_the_rest_of_them_is_forgotten() {
    let (config, mut told) = logged();
    let worker = Worker::start([whole("{}")]).await;
    let mut door = door(&config).await;
    door.add(&worker.instance("a", "m"));
    door.post(CHAT, &chat(&format!("a{}", "/".repeat(200)))).await;
    let asked = format!("a{}", "/".repeat(127));
    assert_eq!(told.next().await.model_asked.as_deref(), Some(&*asked));
    // What can be nobody's name is not repeated.
    let hostile = "\\n\\\"}".repeat(20_000);
    assert_eq!(door.post(CHAT, &chat(&hostile)).await.status(), 400);
    assert_eq!(told.next().await.model_asked, None);

    let path = format!("/{}", "%0a".repeat(10_000));
    door.ask(with(post(&path, "{}"), "x-request-id: a b\r\n")).await;
    let record = told.next().await;
    assert_eq!((record.path.len(), &record.request_id), (128, &None));

    let method = "A".repeat(1000);
    door.ask(format!("{method} {CHAT} HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n")).await;
    let record = told.next().await;
    assert_eq!((record.method.len(), record.status.unwrap().as_u16()), (128, 405));
}

#[tokio::test]
async fn the_lines_of_two_tenants_hold_their_own_facts_and_no_key() {
    let (config, mut told) = logged();
    let (of_a, of_b) = (Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await);
    let mut limited = key("team-b", B, "b");
    limited.requests_per_minute = NonZeroU32::new(1);
    let keys = vec![key("team-a", A, "a"), limited];
    let door = keyed::Door::starting_as(keys, ServeOptions::default(), config).await;
    door.synced(&[
        of_a.instance("a", "shared"),
        of_b.instance("b", "shared"),
        of_b.instance("b", "own"),
    ])
    .await;

    door.chat("shared", A).await;
    let record = told.next().await;
    assert_eq!(record.key.as_deref(), Some("team-a"));
    assert_eq!(record.namespace.as_ref().unwrap().as_str(), "a");
    assert_eq!(record.worker.as_ref().unwrap().as_str(), of_a.url);
    assert!(!format!("{record:?}").contains(A), "no key is told");

    // A model of the other team is unknown, and names neither its namespace nor its worker.
    door.chat("own", A).await;
    let record = told.next().await;
    assert_eq!(record.error.as_deref(), Some("model_not_found"));
    assert_eq!((&record.namespace, &record.worker, &record.model_served), (&None, &None, &None));

    door.chat("shared", B).await;
    let record = told.next().await;
    assert_eq!(record.key.as_deref(), Some("team-b"));
    assert_eq!(record.namespace.as_ref().unwrap().as_str(), "b");
    assert_eq!(record.worker.as_ref().unwrap().as_str(), of_b.url);

    assert_eq!(door.chat("shared", B).await.status(), 429);
    let record = told.next().await;
    assert_eq!(record.error.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!((record.key.as_deref(), &record.model_asked), (Some("team-b"), &None));

    for request in
        [post(CHAT, &chat("shared")), post("/v1/nothing", "{}"), keyed::get("/v1/models", None)]
    {
        let wrong = "a-key-that-nobody-has-been-given";
        assert_eq!(door.ask(with_key(request, wrong)).await.status(), 401);
        let record = told.next().await;
        assert_eq!(record.error.as_deref(), Some("invalid_api_key"));
        assert_eq!((record.status.unwrap().as_u16(), &record.key), (401, &None));
        assert!(!format!("{record:?}").contains(wrong), "no key is told");
    }
}

#[tokio::test]
async fn a_server_that_was_not_asked_for_addresses_tells_none() {
    let (config, mut told) = logged();
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    let mut stream = door.begin(post(CHAT, &chat("m"))).await;
    stream.flush().await.unwrap();
    soon(Answer::read(stream)).await;
    assert_eq!(told.next().await.client, None);
}

#[tokio::test]
async fn an_alias_is_told_as_it_was_asked_for_and_as_it_was_served() {
    let (config, mut told) = logged();
    let aliases = Aliases::default();
    let target = |model: &str| AliasTarget::new(model);
    let failing = Alias::new("failing", [target("gone")]).with_fallback([target("real")]);
    let table = [Alias::new("asked", [target("real")]), failing];
    aliases.replace(AliasTable::new(table).unwrap());
    let worker = Worker::start([whole(r#"{"model":"real"}"#)]).await;
    let mut door = door(&config.with_aliases(aliases)).await;
    door.add(&worker.instance("a", "real"));
    let nobody = nowhere().await;
    door.add(&common::instance("a", "gone", "Chat", Some(&nobody)));
    for (asked, attempts) in [("asked", 1), ("failing", 2)] {
        assert_eq!(door.post(CHAT, &chat(asked)).await.status(), 200);
        let record = told.next().await;
        assert_eq!(record.model_asked.as_deref(), Some(asked));
        assert_eq!(record.model_served.as_deref(), Some("real"));
        assert_eq!(record.worker.as_ref().unwrap().as_str(), worker.url);
        assert_eq!(record.attempts, attempts, "{asked}");
    }
}
