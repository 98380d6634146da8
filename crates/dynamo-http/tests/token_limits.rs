//! Limits on tokens: what a key may use, what its client is told, and what nobody else learns.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;

use common::keyed::{A, B, Door, ask, bare, key, with_key};
use common::{Act, Answer, STREAM_HEAD, Worker, chat, chunk, post, send, soon, whole};
use dynamo_discovery::{Accepts, Instance, RequestField};
use dynamo_http::{
    Alias, AliasTable, AliasTarget, Aliases, ApiKey, Counted, FrontendConfig, KeyHash, KeyHashes,
    ModelNames, ServeOptions, Span, TokenLimits, UsageMode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;

fn most(tokens: u64) -> NonZeroU64 {
    NonZeroU64::new(tokens).unwrap()
}

fn a_day(tokens: u64) -> TokenLimits {
    TokenLimits::default().with(Counted::All, Span::Day, most(tokens))
}

fn limited(tokens: TokenLimits) -> ApiKey {
    let mut key = key("team-a", A, "a");
    key.tokens = tokens;
    key
}

fn told(input: u64, output: u64) -> Vec<Act> {
    let usage = format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output}}}"#);
    whole(&format!(r#"{{"choices":[],"usage":{usage}}}"#))
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

fn content(text: &str) -> String {
    event(&format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#))
}

/// A door with a key of team A that has these limits, and one of team B that has none.
async fn door(limits: TokenLimits, worker: &Worker) -> Door {
    let instances = [worker.instance("a", "m"), worker.instance("b", "m")];
    Door::open(vec![limited(limits), key("team-b", B, "b")], &instances).await
}

/// How many tokens the limit has left, by the headers of a request that uses none.
async fn left(door: &Door) -> u64 {
    let answer = door.get("/v1/models", Some(A)).await;
    answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap()
}

/// Waits until so many tokens are left: a request is settled when its connection lets go of it.
async fn until_left(door: &Door, expected: u64) {
    soon(async {
        while left(door).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The same by the metrics, where another limit may have less left.
async fn until_left_of_day(door: &Door, expected: u64) {
    let left = expected as f64 / 3200.0;
    let line =
        format!(r#"key_limit_remaining_ratio{{key="team-a",limit="tokens_per_day"}} {left}"#);
    soon(async {
        while !door.metrics().await.lines().any(|one| one.ends_with(&line)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_reserves_its_longest_answer_and_pays_what_it_used() {
    let go_on = Arc::new(Notify::new());
    let mut slow = vec![Act::Await(go_on.clone())];
    slow.extend(told(9, 30));
    let worker = Worker::start([slow, told(9, 30)]).await;
    let door = door(a_day(2000), &worker).await;

    let mut first = door.connect().await;
    first.write_all(with_key(post(CHAT, &chat("m")), A).as_bytes()).await.unwrap();
    worker.until_asked().await;
    assert_eq!(left(&door).await, 976, "1,024 tokens of output are reserved");
    let refused = door.chat("m", A).await;
    assert_eq!((refused.status(), refused.code().as_str()), (429, "insufficient_quota"));
    assert_eq!(door.chat("m", B).await.status(), 200, "the limit is of one key");

    go_on.notify_one();
    let answer = soon(Answer::read(first)).await;
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("2000"));
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("976"));
    assert_eq!(answer.header("x-ratelimit-limit-requests"), None);
    let resets = answer.header("x-ratelimit-reset-tokens").unwrap();
    assert!(resets.ends_with('s') && !resets.contains('.'), "{resets}");
    until_left(&door, 1961).await;
    assert_eq!(door.chat("m", A).await.status(), 200);
    until_left(&door, 1922).await;
}

#[tokio::test]
async fn every_refusal_says_whether_waiting_helps() {
    let worker = Worker::start([told(60, 40)]).await;
    let small = r#"{"model":"m","messages":[],"max_tokens":40}"#;
    let ask =
        async |door: &Door, path: &str, body: &str| door.ask(with_key(post(path, body), A)).await;
    let minute = TokenLimits::default().with(Counted::Output, Span::Minute, most(60));
    let per_minute = door(minute, &worker).await;
    assert_eq!(ask(&per_minute, CHAT, small).await.status(), 200);
    let refused = ask(&per_minute, CHAT, small).await;
    assert_eq!((refused.status(), refused.code().as_str()), (429, "rate_limit_exceeded"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(refused.header("x-should-retry"), None);
    assert_eq!(
        refused.json()["error"]["message"],
        "This API key may use 60 output tokens per minute."
    );

    for span in [Span::Day, Span::Month] {
        let limits = TokenLimits::default().with(Counted::All, span, most(120));
        let door = door(limits, &worker).await;
        assert_eq!(ask(&door, CHAT, small).await.status(), 200);
        until_left(&door, 20).await;
        let refused = ask(&door, CHAT, small).await;
        assert_eq!((refused.status(), refused.code().as_str()), (429, "insufficient_quota"));
        assert_eq!(refused.header("retry-after"), None);
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert_eq!(refused.header("x-ratelimit-remaining-tokens"), Some("20"));
        let refused = ask(&door, "/v1/messages", small).await;
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
        assert_eq!(refused.header("anthropic-ratelimit-tokens-limit"), Some("120"));
        assert_eq!(refused.header("anthropic-ratelimit-tokens-remaining"), Some("20"));
        let resets = refused.header("anthropic-ratelimit-tokens-reset").unwrap();
        assert!(resets.ends_with("T00:00:00Z"), "{resets}");
        assert!(!refused.raw.contains("x-ratelimit"));

        let refused = ask(&door, CHAT, r#"{"model":"m","messages":[],"n":9}"#).await;
        assert_eq!((refused.status(), refused.code().as_str()), (429, "request_too_large"));
        assert_eq!(refused.header("retry-after"), None);
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    // A model that the key does not see is unknown before any token is counted.
    let unknown = per_minute.chat("other", A).await;
    assert_eq!((unknown.status(), unknown.code().as_str()), (404, "model_not_found"));
    assert!(unknown.header("x-ratelimit-remaining-tokens").is_some());
}

#[tokio::test]
async fn the_usage_of_a_stream_is_asked_for_also_with_usage_off_and_the_client_sees_none() {
    let stream = [
        content("a"),
        event(r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#),
    ];
    let chunks: String = stream.iter().map(|event| chunk(event)).collect();
    let worker = Worker::start([vec![send(format!("{STREAM_HEAD}{chunks}0\r\n\r\n"))]]).await;
    let instance = worker.instance("a", "m");
    let accepts = Accepts::from_iter([RequestField::IncludeUsage]);
    let entry = instance.entry().clone().with_accepts(accepts);
    let accepting = Arc::new(Instance::new(instance.key().clone(), None, entry));

    let config = FrontendConfig::new().with_usage(UsageMode::Off);
    let keys = vec![limited(a_day(5000)), key("team-b", B, "a")];
    let door = Door::starting_as(keys, ServeOptions::default(), config).await;
    door.synced(&[accepting]).await;
    let gzip = |key| {
        with_key(post(CHAT, STREAMED), key).replacen(
            "host: d",
            "host: d\r\naccept-encoding: gzip",
            1,
        )
    };
    let answer = door.ask(gzip(A)).await;
    assert!(answer.is_whole() && !answer.raw.contains("usage"), "{}", answer.raw);
    until_left(&door, 4988).await;
    let answer = door.ask(gzip(B)).await;
    assert!(answer.raw.contains("usage"), "{}", answer.raw);
    let requests = worker.requests.lock().unwrap().clone();
    assert!(requests[0].contains(r#""include_usage":true"#), "{}", requests[0]);
    assert!(!requests[0].contains("accept-encoding"), "it must be readable");
    assert!(
        !requests[1].contains("include_usage") && requests[1].contains("accept-encoding: gzip")
    );
    let metrics = door.metrics().await;
    for line in [
        r#"key_tokens_total{direction="input",key="team-a"} 7"#,
        r#"key_tokens_total{direction="output",key="team-a"} 5"#,
        r#"key_tokens_total{direction="output",key="team-b"} 0"#,
        r#"key_estimated_tokens_total{direction="output",key="team-a"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(!metrics.contains("frontend_output_tokens_total"), "nothing else is counted");
}

#[tokio::test]
async fn an_answer_without_usage_costs_its_estimate() {
    let text = "x".repeat(400);
    let streams = |events: &[String]| {
        let chunks: String = events.iter().map(|event| chunk(event)).collect();
        vec![send(format!("{STREAM_HEAD}{chunks}0\r\n\r\n"))]
    };
    let many: Vec<_> = (0..50).map(|_| content("a")).collect();
    let plain = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}]}}"#);
    let worker = Worker::start([streams(&many), streams(&[content(&text)]), whole(&plain)]).await;
    let door = door(a_day(5000), &worker).await;
    let prompt = format!(r#"{{"model":"m","prompt":"{}","stream":true}}"#, "y".repeat(398));
    let chat = prompt.replace("prompt", "messages");
    // 100 tokens of input each: 50 events, then 400 bytes, then a plain answer.
    assert_eq!(door.ask(with_key(post(CHAT, &chat), A)).await.status(), 200);
    until_left(&door, 5000 - 150).await;
    assert_eq!(door.ask(with_key(post(CHAT, &chat), A)).await.status(), 200);
    until_left(&door, 5000 - 350).await;
    assert_eq!(door.ask(with_key(post(CHAT, &chat), A)).await.status(), 200);
    until_left(&door, 5000 - 450 - plain.len() as u64 / 4).await;
    let metrics = door.metrics().await;
    let line = r#"key_estimated_tokens_total{direction="input",key="team-a"} 300"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn what_no_engine_took_costs_nothing() {
    let refusal = |status: &str| {
        vec![send(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        ))]
    };
    let worker = Worker::start([
        refusal("400 Bad Request"),
        refusal("503 Service Unavailable"),
        vec![send("this is no HTTP\r\n\r\n"), Act::Close],
        told(1, 1),
    ])
    .await;
    let door = door(a_day(5000), &worker).await;
    for expected in [400, 503, 502] {
        assert_eq!(door.chat("m", A).await.status(), expected);
        until_left(&door, 5000).await;
    }
    assert_eq!(door.chat("m", A).await.status(), 200);
    until_left(&door, 4998).await;
}

/// Sends a request, reads until the text has come, and leaves.
async fn leave_at(door: &Door, body: &str, text: &str) {
    let mut stream: TcpStream = door.connect().await;
    stream.write_all(with_key(post(CHAT, body), A).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    soon(async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..read]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_pays_for_what_was_made_until_then() {
    let begins = vec![
        send(format!("{STREAM_HEAD}{}{}", chunk(&content("one")), chunk(&content("two")))),
        Act::AwaitPeer,
    ];
    let worker = Worker::start([begins, vec![Act::AwaitPeer]]).await;
    let door = door(a_day(5000), &worker).await;
    let body = format!(r#"{{"model":"m","messages":"{}","stream":true}}"#, "y".repeat(398));
    leave_at(&door, &body, "two").await;
    until_left(&door, 5000 - 102).await;

    // Before the answer began: the engine has read the prompt.
    let mut waiting = door.connect().await;
    waiting.write_all(with_key(post(CHAT, &body), A).as_bytes()).await.unwrap();
    soon(async {
        while worker.asked() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(waiting);
    until_left(&door, 5000 - 202).await;
}

#[tokio::test]
async fn a_workers_own_limits_are_told_to_nobody_with_a_key() {
    let body = r#"{"choices":[]}"#;
    let own = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-ratelimit-remaining-tokens: of-the-worker\r\n\
         x-ratelimit-limit-project: of-the-worker\r\nanthropic-ratelimit-requests-limit: of-the-worker\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let worker = Worker::start([vec![send(own)]]).await;
    let door = door(a_day(5000), &worker).await;
    let with_limits = door.chat("m", A).await;
    assert_eq!(with_limits.header("x-ratelimit-remaining-tokens"), Some("3976"));
    assert!(!with_limits.raw.contains("of-the-worker"), "{}", with_limits.raw);
    let without = door.chat("m", B).await;
    assert!(!without.raw.contains("ratelimit"), "{}", without.raw);

    // Where nobody has a key, all callers are one.
    let mut open = common::Door::open("a").await;
    open.add(&worker.instance("a", "m"));
    assert!(
        open.post(CHAT, &chat("m")).await.raw.contains("x-ratelimit-limit-project: of-the-worker")
    );
}

#[tokio::test]
async fn a_key_keeps_its_counts_when_its_hash_or_its_limit_changes_or_it_comes_back() {
    const NEXT: &str = "next-key-of-team-a-that-nobody-guesses";
    let worker = Worker::start([told(60, 40)]).await;
    let door = door(a_day(5000), &worker).await;
    assert_eq!(door.chat("m", A).await.status(), 200);
    until_left(&door, 4900).await;

    let hash = |key| KeyHash::of(key).unwrap();
    let mut rotating = limited(a_day(6000));
    rotating.credential =
        dynamo_http::Credential::Key(KeyHashes::new([hash(A), hash(NEXT)]).unwrap());
    door.replace(vec![rotating]).await;
    assert_eq!(door.chat("m", NEXT).await.status(), 200);
    until_left(&door, 5800).await;
    assert_eq!(door.chat("m", A).await.status(), 200, "both are good while it rotates");
    until_left(&door, 5700).await;
    let metrics = door.metrics().await;
    assert_eq!(metrics.matches("key_inflight_requests{").count(), 1, "it is one key");

    door.replace(vec![]).await;
    assert_eq!(door.chat("m", A).await.status(), 401);
    door.replace(vec![limited(a_day(1100))]).await;
    assert_eq!(left(&door).await, 800);
    let refused = door.chat("m", A).await;
    assert_eq!((refused.status(), refused.code().as_str()), (429, "insufficient_quota"));
}

#[tokio::test]
async fn an_answer_to_one_key_does_not_depend_on_what_another_one_used() {
    let worker = Worker::start([told(600, 400)]).await;
    let mut other = key("team-b", B, "b");
    other.tokens = a_day(1_000_000);
    other.requests_per_minute = Some(1_000_000.try_into().unwrap());
    let instances = [worker.instance("a", "m"), worker.instance("b", "m")];
    let door = Door::open(vec![limited(a_day(3000)), other], &instances).await;
    let seen = async || {
        let mut lines: Vec<String> = Vec::new();
        for path in [CHAT, "/v1/messages", "/v1/completions"] {
            let body = r#"{"model":"none","messages":[]}"#;
            let answer = door.ask(with_key(post(path, body), B)).await;
            lines.extend(bare(&answer, "none").lines().map(str::to_owned));
        }
        let list = door.get("/v1/models", Some(B)).await;
        lines.extend(bare(&list, "none").lines().map(str::to_owned));
        // The time goes on, and the bucket of requests with it.
        lines.retain(|line| !line.contains("reset") && !line.contains("-requests"));
        lines
    };
    let before = seen().await;
    assert!(before.iter().any(|line| line == "x-ratelimit-remaining-tokens: 1000000"));
    for _ in 0..4 {
        door.chat("m", A).await;
    }
    until_left(&door, 1000).await;
    assert_eq!(door.chat("m", A).await.code(), "insufficient_quota");
    assert_eq!(seen().await, before);
}

#[tokio::test]
async fn operators_see_who_is_close_to_a_limit_from_the_start() {
    let worker = Worker::start([told(600, 400)]).await;
    let mut limited = limited(a_day(3200).with(Counted::Output, Span::Minute, most(20_000)));
    limited.requests_per_minute = Some(60.try_into().unwrap());
    limited.concurrent = Some(2.try_into().unwrap());
    let door = Door::open(vec![limited], &[worker.instance("a", "m")]).await;
    let metrics = door.metrics().await;
    for limit in ["tokens_per_day", "output_tokens_per_minute", "requests_per_minute", "concurrent"]
    {
        let line = format!(r#"key_limit_remaining_ratio{{key="team-a",limit="{limit}"}} 1"#);
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    for limit in ["tokens", "quota", "size", "rate", "concurrency"] {
        let line = format!(r#"key_limited_total{{key="team-a",limit="{limit}"}} 0"#);
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert_eq!(door.chat("m", A).await.status(), 200);
    until_left_of_day(&door, 2200).await;
    let metrics = door.metrics().await;
    let line = r#"key_limit_remaining_ratio{key="team-a",limit="tokens_per_day"} 0.6875"#;
    assert!(metrics.contains(line), "{metrics}");
    let status = async || {
        let answer = ask(&door.admin, common::keyed::get("/status.json", None)).await;
        let status = answer.json();
        let problems = status["problems"].to_string();
        (status["keys"][0].clone(), problems.contains("% of tokens_per_day left"))
    };
    let (key, is_close) = status().await;
    assert_eq!((&key["input_tokens"], &key["output_tokens"]), (&600.into(), &400.into()));
    let day = serde_json::json!({ "limit": "tokens_per_day", "left": 0.6875 });
    assert!(key["limits"].as_array().unwrap().contains(&day), "{key}");
    assert!(!is_close);
    for left in [1200, 200] {
        door.chat("m", A).await;
        until_left_of_day(&door, left).await;
    }
    assert!(status().await.1, "6 % are left");
    let health = ask(&door.address, with_key(common::keyed::get("/metrics", None), A)).await;
    assert_eq!(health.status(), 404, "clients see none of it");
}

#[tokio::test]
async fn a_model_that_a_key_may_not_use_is_as_unknown_as_nobodys() {
    let worker = Worker::start([told(1, 1)]).await;
    let mut some = key("team-a", A, "a");
    some.models = Some(ModelNames::new(["gpt-4o", "Qwen/*"]).unwrap());
    let names = ["gpt-4o", "gpt-4o-mini", "Qwen/8B"];
    let instances = names.map(|name| worker.instance("a", name));
    let door = Door::open(vec![some, key("team-b", B, "a")], &instances).await;
    let list = door.get("/v1/models", Some(A)).await;
    assert!(list.raw.contains("Qwen/8B") && !list.raw.contains("gpt-4o-mini"), "{}", list.raw);
    assert_eq!(door.chat("gpt-4o", A).await.status(), 200);
    assert_eq!(door.chat("Qwen/8B", A).await.status(), 200);
    assert_eq!(door.chat("gpt-4o-mini", B).await.status(), 200);
    let (theirs, nobodys) = (door.chat("gpt-4o-mini", A).await, door.chat("gpt-5o-mini", A).await);
    assert_eq!(theirs.status(), 404);
    assert_eq!(bare(&theirs, "gpt-4o-mini"), bare(&nobodys, "gpt-5o-mini"));
    let by_id = door.get("/v1/models/gpt-4o-mini", Some(A)).await;
    assert_eq!(by_id.status(), 404);
    // With no model of its own on a route, the route is closed.
    let mut none = key("team-a", A, "a");
    none.models = Some(ModelNames::new(["other"]).unwrap());
    door.replace(vec![none]).await;
    let closed = door.chat("gpt-4o", A).await;
    assert_eq!((closed.status(), closed.code().as_str()), (503, "endpoint_disabled"));
}

#[tokio::test]
async fn a_request_for_an_alias_counts_as_one_for_a_model() {
    let body = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
    let chunks: String = [content("four"), content("five")].iter().map(|one| chunk(one)).collect();
    let stream = vec![send(format!("{STREAM_HEAD}{chunks}0\r\n\r\n"))];
    let worker = Worker::start([whole(body), stream]).await;
    let aliases = Aliases::default();
    let named = |name: &str, model: &str| Alias::new(name, [AliasTarget::new(model)]);
    aliases.replace(AliasTable::new([named("gpt", "m"), named("gone", "none")]).unwrap());
    let config = FrontendConfig::new().with_aliases(aliases);
    let keys = vec![limited(a_day(5000))];
    let door = Door::starting_as(keys, ServeOptions::default(), config).await;
    door.synced(&[worker.instance("a", "m")]).await;
    let answer = door.chat("gpt", A).await;
    assert!(answer.raw.contains(r#""model":"gpt""#), "{}", answer.raw);
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("3976"));
    until_left(&door, 4988).await;
    let streamed = STREAMED.replace("\"m\"", "\"gpt\"");
    assert_eq!(door.ask(with_key(post(CHAT, &streamed), A)).await.status(), 200);
    until_left(&door, 4986).await;
    let unknown = door.chat("gone", A).await;
    assert_eq!((unknown.status(), unknown.code().as_str()), (404, "model_not_found"));
    assert_eq!(left(&door).await, 4986);
}
