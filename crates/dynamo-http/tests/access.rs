//! Keys: who gets in, what they see, and what nobody else learns.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::keyed::{A, B, Door, ask, bare, both, get, key, next_answer, sorted, with_key};
use common::{
    Act, Answer, STREAM_HEAD, Worker, batch, chat, chunk, instance, post, send, soon, whole,
};
use dynamo_discovery::ModelUpdate;
use dynamo_http::Route;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn every_key_sees_its_own_models_on_every_path_and_nothing_of_the_others() {
    let worker = Worker::start([whole("{}")]).await;
    let (one, two) = (worker.instance("a", "of-a"), worker.instance("b", "of-b"));
    let vectors = instance("b", "vectors", "Embedding", Some(&worker.url));
    let door = Door::open(both(), &[one, two, vectors]).await;

    for (key, mine, theirs) in [(A, "of-a", "of-b"), (B, "of-b", "of-a")] {
        let list = door.get("/v1/models", Some(key)).await;
        assert!(list.raw.contains(mine) && !list.raw.contains(theirs), "{}", list.raw);
        assert_eq!(door.get(&format!("/v1/models/{mine}"), Some(key)).await.status(), 200);
        assert_eq!(door.chat(mine, key).await.status(), 200);

        // Another team's model is as unknown as nobody's, to the byte.
        let theirs_by_id = door.get(&format!("/v1/models/{theirs}"), Some(key)).await;
        let nobodys_by_id = door.get("/v1/models/of-c", Some(key)).await;
        assert_eq!(theirs_by_id.status(), 404);
        assert_eq!(bare(&theirs_by_id, theirs), bare(&nobodys_by_id, "of-c"));
        for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"] {
            let unknown = async |name: &str| {
                let answer = door.ask(with_key(post(path, &chat(name)), key)).await;
                assert_eq!(answer.status(), 404);
                bare(&answer, name)
            };
            assert_eq!(unknown(theirs).await, unknown("of-c").await, "{path}");
        }
    }
    // A route that is open for one team only is closed for the other.
    let embed = async |key| door.ask(with_key(post("/v1/embeddings", &chat("vectors")), key)).await;
    assert_eq!(embed(B).await.status(), 200);
    let closed = embed(A).await;
    assert_eq!((closed.status(), closed.code().as_str()), (503, "endpoint_disabled"));
    assert_eq!(worker.asked(), 3);
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_told_but_that() {
    let worker = Worker::start([whole("{}")]).await;
    let door = Door::open(both(), &[worker.instance("a", "m")]).await;

    let mut requests = vec![
        get("/v1/models", None),
        get("/v1/models/m", None),
        get("/v1/models/nobodys", None),
        get("/v1/nothing", None),
        get("/health", None),
        get("/metrics", None),
        get("/", None),
        get(CHAT, None),
        get("/live/", None),
        get("/%6cive", None),
        get("//live", None),
        get("/live", None).replace("/live", "http://d/v1/models"),
        get("/live", None).replacen("GET", "OPTIONS", 1).replace("/live", "*"),
        post("/v1/models", "{}"),
        post(CHAT, &chat("m")).replace("application/json", "text/plain"),
        post(CHAT, "x"),
        post(CHAT, &chat("m")).replacen("POST", "TRACE", 1),
    ];
    for route in Route::ALL.iter().copied().filter(|route| *route != Route::Messages) {
        requests.push(post(route.path(), &chat("m")));
        // Announced and never sent.
        requests.push(post(route.path(), "").replace("length: 0", "length: 1000000000"));
    }
    let nobodys = "key-of-nobody-that-nobody-guesses";
    let prefix = &A[..A.len() - 1];
    let mut refused = HashSet::new();
    for request in &requests {
        for request in [
            with_key(request.as_str(), nobodys),
            with_key(request.as_str(), prefix),
            with_key(request.as_str(), &format!("{A}x")),
            with_key(request.as_str(), &"long".repeat(1000)),
            with_key(request.as_str(), "short"),
        ] {
            let answer = door.ask(&request).await;
            assert_eq!(answer.status(), 401, "{request}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            refused.insert(sorted(&answer));
        }
        for request in [
            request.clone(),
            with_key(with_key(request.as_str(), A), B),
            request.replacen("host: d\r\n", &format!("host: d\r\nauthorization: {A}\r\n"), 1),
            request.replacen("host: d\r\n", &format!("host: d\r\ncookie: key={A}\r\n"), 1),
        ] {
            let answer = door.ask(&request).await;
            assert_eq!((answer.status(), answer.code().as_str()), (401, "invalid_api_key"));
            assert_eq!(answer.json()["error"]["type"], "authentication_error");
            refused.insert(sorted(&answer));
        }
    }
    assert_eq!(refused.len(), 2, "one text for none, one for a wrong one: {refused:#?}");
    assert_eq!(worker.asked(), 0);
    for path in ["/live", "/ready"] {
        assert_eq!(door.get(path, None).await.status(), 200);
        assert_eq!(door.get(path, Some("wrong")).await.status(), 200);
    }
}

#[tokio::test]
async fn with_a_valid_key_the_answers_are_those_of_the_table() {
    let door = Door::open(both(), &[]).await;
    for (path, status) in [("/v1/nothing", 404), (CHAT, 405), ("/health", 404), ("/metrics", 404)] {
        assert_eq!(door.get(path, Some(A)).await.status(), status, "{path}");
    }
    assert_eq!(door.chat("m", A).await.code(), "endpoint_disabled");
    let door = Door::starting(both()).await;
    assert_eq!(door.chat("m", A).await.code(), "discovery_not_ready");
    assert_eq!(door.get("/ready", None).await.status(), 503);
    assert_eq!(door.get("/v1/models/m", None).await.status(), 401);
}

#[tokio::test]
async fn clients_of_messages_may_use_their_own_header_and_get_errors_in_their_own_shape() {
    let worker = Worker::start([whole("{}")]).await;
    let door = Door::open(both(), &[worker.instance("a", "m")]).await;
    let request = post("/v1/messages", &chat("m"));
    let answer = door.ask(&request).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.json()["type"], "error");
    assert_eq!(answer.json()["error"]["type"], "authentication_error");
    let request = request.replace("host: d", &format!("host: d\r\nx-api-key: {A}"));
    assert_eq!(door.ask(&request).await.status(), 200);
    let head = worker.requests.lock().unwrap()[0].to_ascii_lowercase();
    assert!(!head.contains("x-api-key") && !head.contains(A), "{head}");
}

#[tokio::test]
async fn the_clients_key_stops_here_and_the_worker_gets_ours() {
    let worker = Worker::start([whole("{}")]).await;
    let door = Door::open(both(), &[worker.instance("a", "m")]).await;
    let request = with_key(post(CHAT, &chat("m")), A)
        .replace("host: d", &format!("host: d\r\nx-api-key: {B}\r\nx-own: 1"));
    assert_eq!(door.ask(&request).await.status(), 200);
    door.config.worker_key().set("for-workers").unwrap();
    assert_eq!(door.ask(&request).await.status(), 200);

    let seen = worker.requests.lock().unwrap().clone();
    assert!(!seen[0].contains("authorization"), "{}", seen[0]);
    assert!(seen[1].contains("authorization: Bearer for-workers\r\n"), "{}", seen[1]);
    for request in seen {
        assert!(!request.contains("key-of-") && !request.contains("x-api-key"), "{request}");
        assert!(request.contains("x-own: 1"));
    }
}

#[tokio::test]
async fn on_one_connection_every_request_counts_by_its_own_key() {
    let door = Door::open(
        both(),
        &[instance("a", "of-a", "Chat", None), instance("b", "of-b", "Chat", None)],
    )
    .await;
    let list = |key: Option<&str>| get("/v1/models", key).replace("connection: close\r\n", "");
    let expect = |answer: &str, key: Option<&str>| {
        let (status, mine, theirs) = match key {
            Some(A) => (200, "of-a", "of-b"),
            Some(B) => (200, "of-b", "of-a"),
            _ => (401, "API key", "of-"),
        };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(mine) && !answer.contains(theirs), "{answer}");
    };
    let order = [Some(A), Some(B), None, Some(A), Some("wrong"), Some(B), Some(B), None, Some(A)];

    let mut stream = door.connect().await;
    for key in order {
        stream.write_all(list(key).as_bytes()).await.unwrap();
        expect(&next_answer(&mut stream).await, key);
    }
    // All at once, before any answer.
    let pipelined: String = order.into_iter().map(list).collect();
    stream.write_all(pipelined.as_bytes()).await.unwrap();
    for key in order {
        expect(&next_answer(&mut stream).await, key);
    }
}

#[tokio::test]
async fn a_key_that_is_removed_opens_nothing_from_then_on_and_what_has_begun_ends_well() {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([vec![
        send(STREAM_HEAD.to_owned() + &chunk("data: 1\n\n")),
        Act::Await(go_on.clone()),
        send(chunk("data: [DONE]\n\n") + "0\r\n\r\n"),
    ]])
    .await;
    let door = Door::open(both(), &[worker.instance("a", "m")]).await;
    let mut kept = door.connect().await;
    let list = get("/v1/models", Some(A)).replace("connection: close\r\n", "");
    kept.write_all(list.as_bytes()).await.unwrap();
    assert!(next_answer(&mut kept).await.starts_with("HTTP/1.1 200"));
    let mut streaming = door.connect().await;
    streaming.write_all(with_key(post(CHAT, &chat("m")), A).as_bytes()).await.unwrap();
    worker.until_asked().await;

    door.replace(vec![key("team-b", B, "b")]).await;
    kept.write_all(list.as_bytes()).await.unwrap();
    assert!(next_answer(&mut kept).await.starts_with("HTTP/1.1 401"));
    assert_eq!(door.chat("m", A).await.status(), 401);
    go_on.notify_one();
    let streamed = soon(Answer::read(streaming)).await;
    assert!(streamed.status() == 200 && streamed.is_whole(), "{}", streamed.raw);
    assert!(!door.metrics().await.contains("team-a"), "no series outlives its key");
}

#[tokio::test]
async fn a_key_that_is_changed_shows_its_new_namespace_at_once() {
    let (one, two) = (instance("a", "of-a", "Chat", None), instance("b", "of-b", "Chat", None));
    let door = Door::open(vec![key("team", A, "a")], &[one, two]).await;
    assert!(door.get("/v1/models", Some(A)).await.raw.contains("of-a"));
    door.replace(vec![key("team", A, "b")]).await;
    let list = door.get("/v1/models", Some(A)).await;
    assert!(list.raw.contains("of-b") && !list.raw.contains("of-a"), "{}", list.raw);
    // Views that keys have opened follow what is discovered.
    let late = instance("b", "late", "Chat", None);
    door.events.send(batch(vec![ModelUpdate::Added(late)], false)).unwrap();
    soon(async {
        while !door.get("/v1/models", Some(A)).await.raw.contains("late") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    door.replace(vec![]).await;
    assert_eq!(door.get("/v1/models", Some(A)).await.status(), 401);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_a_key_may_have() {
    let go_on = Arc::new(Notify::new());
    let held = vec![
        send(STREAM_HEAD.to_owned() + &chunk("data: 1\n\n")),
        Act::Await(go_on.clone()),
        send("0\r\n\r\n"),
    ];
    let worker = Worker::start([held, whole("{}")]).await;
    let mut limited = key("team-a", A, "a");
    limited.concurrent = Some(1.try_into().unwrap());
    let instances = [worker.instance("a", "m"), worker.instance("b", "m")];
    let door = Door::open(vec![limited.clone(), key("team-b", B, "b")], &instances).await;

    let mut streaming = door.connect().await;
    streaming.write_all(with_key(post(CHAT, &chat("m")), A).as_bytes()).await.unwrap();
    worker.until_asked().await;
    let answer = door.chat("m", A).await;
    assert_eq!((answer.status(), answer.code().as_str()), (429, "concurrency_limit_exceeded"));
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(door.get("/v1/models", Some(A)).await.status(), 200, "a list is no such request");
    assert_eq!(door.chat("m", B).await.status(), 200, "every key has a limit of its own");
    // A change of the list forgets nothing.
    door.replace(vec![limited, key("team-b", B, "b")]).await;
    assert_eq!(door.chat("m", A).await.status(), 429);

    go_on.notify_one();
    soon(Answer::read(streaming)).await;
    soon(async {
        while door.chat("m", A).await.status() != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn no_more_requests_begin_in_a_minute_than_a_key_may_begin() {
    let worker = Worker::start([whole("{}")]).await;
    let mut limited = key("team-a", A, "a");
    limited.requests_per_minute = Some(3.try_into().unwrap());
    let instances = [worker.instance("a", "m"), worker.instance("b", "m")];
    let keys = || vec![limited.clone(), key("team-b", B, "b")];
    let door = Door::open(keys(), &instances).await;

    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(door.chat("m", A).await.status(), 200);
    }
    door.replace(keys()).await;
    let request = with_key(post("/v1/messages", &chat("m")), A);
    for answer in [door.chat("m", A).await, door.ask(request).await] {
        // On a machine that is busy enough a share of the minute may be over.
        if began.elapsed() < Duration::from_secs(20) {
            assert_eq!(answer.status(), 429);
            assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
            let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=20).contains(&wait), "{wait}");
        }
    }
    assert_eq!(door.chat("m", B).await.status(), 200);
}

#[tokio::test]
async fn operators_see_every_key_and_every_model_on_a_port_of_their_own() {
    let worker = Worker::start([whole("{}")]).await;
    let mut limited = key("team-b", B, "b");
    limited.requests_per_minute = Some(1.try_into().unwrap());
    let instances = [worker.instance("a", "of-a"), worker.instance("b", "of-b")];
    let door = Door::open(vec![key("team-a", A, "a"), limited], &instances).await;
    door.chat("of-a", A).await;
    door.chat("of-b", A).await;
    door.chat("of-b", B).await;
    door.chat("of-b", B).await;
    door.chat("of-b", "wrong").await;

    let metrics = door.metrics().await;
    for line in [
        r#"dynamo_frontend_key_requests_total{key="team-a",status="success"} 1"#,
        r#"dynamo_frontend_key_requests_total{key="team-a",status="error"} 1"#,
        r#"dynamo_frontend_key_limited_total{key="team-b",limit="rate"} 1"#,
        r#"dynamo_frontend_key_limited_total{key="team-b",limit="concurrency"} 0"#,
        r#"dynamo_frontend_key_inflight_requests{key="team-a"} 0"#,
        "dynamo_frontend_unauthorized_total 1",
        "dynamo_frontend_discovery_revision{",
        "dynamo_frontend_discovery_out_of_scope_total{",
        r#"model="of-a""#,
        r#"model="of-b""#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let health = ask(&door.admin, get("/health", None)).await.json();
    assert_eq!(health["instances"].as_array().unwrap().len(), 2);
    assert!(health["discovery"][0]["revision"].is_u64());
    for path in ["/live", "/ready"] {
        assert_eq!(ask(&door.admin, get(path, None)).await.status(), 200);
    }
    assert_eq!(ask(&door.admin, get("/v1/models", None)).await.status(), 404);
}
