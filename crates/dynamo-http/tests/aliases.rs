//! Aliases: who answers, under which name, and what nobody learns of targets elsewhere.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;

use common::keyed::{self, A, B, both, sorted};
use common::{
    Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, instance, nowhere, post, send, soon, whole,
};
use dynamo_discovery::Instance;
use dynamo_http::{
    Alias, AliasTable, AliasTarget, Aliases, AnswerAs, FrontendConfig, ServeOptions, UsageMode,
};
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

fn target(model: &str) -> AliasTarget {
    AliasTarget::new(model)
}

fn within(model: &str, namespace: &str) -> AliasTarget {
    target(model).with_namespace(namespace.parse().unwrap())
}

fn aliases(all: impl IntoIterator<Item = Alias>) -> Aliases {
    let aliases = Aliases::default();
    aliases.replace(AliasTable::new(all).unwrap());
    aliases
}

fn config(all: impl IntoIterator<Item = Alias>) -> FrontendConfig {
    FrontendConfig::new().with_aliases(aliases(all))
}

/// A door of the namespace `a` with these instances.
async fn door(config: FrontendConfig, instances: &[Arc<Instance>]) -> Door {
    door_of("a", config, instances).await
}

async fn door_of(namespace: &str, config: FrontendConfig, instances: &[Arc<Instance>]) -> Door {
    let mut door = Door::with(namespace, &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for instance in instances {
        door.add(instance);
    }
    door
}

fn status(status: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    vec![send(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    ))]
}

fn seen(worker: &Worker) -> Vec<String> {
    let requests = worker.requests.lock().unwrap();
    requests.iter().map(|request| request.split_once("\r\n\r\n").unwrap().1.to_owned()).collect()
}

#[tokio::test]
async fn the_engine_gets_its_own_name_and_every_other_byte_as_it_came() {
    let answer = r#"{"id":"1","model":"Qwen/Q\"3","choices":[{"message":{"content":"model"}}]}"#;
    let worker = Worker::start([whole(answer)]).await;
    let asked = Alias::new("gpt-\u{e9}", [target("Qwen/Q\"3")]);
    let served = Alias::new("s", [target("Qwen/Q\"3")]).with_answer_as(AnswerAs::Served);
    let door = door(config([asked, served]), &[worker.instance("a", "Qwen/Q\"3")]).await;

    let body = "{ \"a\":{\"model\":\"gpt-é\"},\n\"m\\u006fdel\" : \"gpt-\\u00e9\", \"b\":\"\\\"model\\\":1\", \"é\":1.50 }";
    let request =
        post(CHAT, body).replacen("host: d\r\n", "host: d\r\naccept-encoding: gzip\r\n", 1);
    let got = door.ask(&request).await;
    assert_eq!(got.status(), 200, "{got:?}");
    let expected = body.replace("\"gpt-\\u00e9\"", "\"Qwen/Q\\\"3\"");
    assert_eq!(seen(&worker), [expected], "byte for byte");
    let head = worker.requests.lock().unwrap()[0].clone();
    assert!(!head.to_ascii_lowercase().contains("accept-encoding"), "the answer must be readable");
    assert_eq!(got.header("x-dynamo-model"), Some("Qwen/Q\"3"));
    assert_eq!(got.header("x-dynamo-fallback"), None);
    assert_eq!(got.header("content-length"), None, "it is not known before the body");
    assert!(got.body().contains(&answer.replacen("Qwen/Q\\\"3", "gpt-é", 1)), "{got:?}");
    assert!(got.is_whole());

    let request =
        post(CHAT, &chat("s")).replacen("host: d\r\n", "host: d\r\naccept-encoding: gzip\r\n", 1);
    let got = door.ask(&request).await;
    assert_eq!((got.body(), got.header("x-dynamo-model")), (answer, Some("Qwen/Q\"3")));
    let head = worker.requests.lock().unwrap()[1].clone();
    assert!(head.to_ascii_lowercase().contains("accept-encoding: gzip"), "nothing is edited");
}

#[tokio::test]
async fn each_event_carries_the_name_that_was_asked_for_and_nothing_else_changes() {
    let event = |model: &str, text: &str| {
        format!(
            "data: {{\"id\":\"1\",\"model\":\"{model}\",\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
        )
    };
    let events = |model: &str| {
        ["a", "b", "model", "c"].map(|text| event(model, text)).concat() + "data: [DONE]\n\n"
    };
    let stream = events("m");
    // The first piece ends in the middle of an event.
    let (one, other) = stream.split_at(70);
    let script = vec![send(format!("{STREAM_HEAD}{}{}0\r\n\r\n", chunk(one), chunk(other)))];
    for usage in [UsageMode::Observe, UsageMode::Off] {
        let worker = Worker::start([script.clone()]).await;
        let config = config([
            Alias::new("asked", [target("m")]),
            Alias::new("served", [target("m")]).with_answer_as(AnswerAs::Served),
        ])
        .with_usage(usage);
        let door = door(config, &[worker.instance("a", "m")]).await;
        for (name, model) in [("asked", "asked"), ("served", "m"), ("m", "m")] {
            let body = format!(r#"{{"model":"{name}","stream":true,"messages":[]}}"#);
            let got = door.post(CHAT, &body).await;
            assert_eq!(unchunked(&got), events(model), "{name} {usage:?}");
            let told = got.header("x-dynamo-model");
            assert_eq!(told, (name != "m").then_some("m"), "{name} {usage:?}");
        }
    }
}

/// The body of an answer without its chunks.
fn unchunked(answer: &Answer) -> String {
    let (mut rest, mut body) = (answer.body(), String::new());
    while let Some((length, behind)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body += &behind[..length];
        rest = behind.get(length + 2..).unwrap_or_default();
    }
    body
}

#[tokio::test]
async fn other_routes_have_the_name_where_their_clients_read_it() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"m\"}}\n\n";
    for (path, stream) in [("/v1/messages", start), ("/v1/responses", created)] {
        let worker =
            Worker::start([vec![send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(stream)))]]).await;
        let door =
            door(config([Alias::new("x", [target("m")])]), &[worker.instance("a", "m")]).await;
        let got = door.post(path, r#"{"model":"x","stream":true}"#).await;
        assert_eq!(unchunked(&got), stream.replace("\"m\"", "\"x\""));
    }
}

#[tokio::test]
async fn an_event_that_is_too_long_passes_as_it_is_and_is_counted() {
    let long = format!("data: {{\"model\":\"m\",\"x\":\"{}\"}}\n\n", "y".repeat(70_000));
    let worker =
        Worker::start([vec![send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(&long)))]]).await;
    let config = config([Alias::new("x", [target("m")])]).with_usage(UsageMode::Off);
    let door = door(config, &[worker.instance("a", "m")]).await;
    let got = door.post(CHAT, r#"{"model":"x","stream":true}"#).await;
    assert_eq!(unchunked(&got), long);
    let metrics = door.get("/metrics").await.raw;
    assert!(metrics.contains("dynamo_frontend_unread_events_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn what_a_worker_says_in_our_headers_is_replaced() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-dynamo-model: forged\r\nx-dynamo-fallback: 1\r\ncontent-length: 2\r\n\r\n{}";
    let worker = Worker::start([vec![send(answer)]]).await;
    let door = door(config([Alias::new("x", [target("m")])]), &[worker.instance("a", "m")]).await;
    let got = door.post(CHAT, &chat("x")).await;
    assert_eq!(got.raw.matches("x-dynamo-model").count(), 1);
    assert_eq!((got.header("x-dynamo-model"), got.header("x-dynamo-fallback")), (Some("m"), None));
    let got = door.post(CHAT, &chat("m")).await;
    assert_eq!((got.header("x-dynamo-model"), got.header("x-dynamo-fallback")), (None, None));
}

#[tokio::test]
async fn a_target_with_a_namespace_is_asked_at_that_namespaces_servers_only() {
    let [old, new] = [Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await];
    let [a, b] = ["a-0f3c9a1b", "a-77ab01cd"];
    let aliases = aliases([Alias::new("a", [within("m", a)]), Alias::new("b", [within("m", b)])]);
    let config = FrontendConfig::new().with_aliases(aliases.clone());
    let instances = [old.instance(a, "m"), new.instance(b, "m")];
    let mut door = door_of("global", config, &instances).await;
    for _ in 0..10 {
        assert_eq!(door.post(CHAT, &chat("a")).await.status(), 200);
    }
    assert_eq!((old.asked(), new.asked()), (10, 0));
    assert_eq!(door.post(CHAT, &chat("b")).await.status(), 200);
    assert_eq!((old.asked(), new.asked()), (10, 1));
    door.remove(&instances[1]);
    assert_eq!(door.post(CHAT, &chat("b")).await.code(), "model_unavailable");
    door.add(&instances[1]);

    // An alias of the model's own name hides the model.
    let shares = [within("m", b), within("m", a).with_weight(0)];
    aliases.replace(AliasTable::new([Alias::new("m", shares)]).unwrap());
    for _ in 0..9 {
        let got = door.post(CHAT, &chat("m")).await;
        assert_eq!((got.status(), got.body()), (200, "{}"), "nothing is edited");
    }
    assert_eq!((old.asked(), new.asked()), (10, 10));
    door.remove(&instances[1]);
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200, "the model is there again");
    assert_eq!(old.asked(), 11);
}

#[tokio::test]
async fn sessions_stay_with_their_share_and_a_share_without_a_server_in_rotation_goes_to_the_others()
 {
    let [one, other] = [Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await];
    let config = config([Alias::new("x", [target("m"), target("n")])]);
    let gone = instance("a", "n", "Chat", Some(&nowhere().await));
    let door = door(config, &[one.instance("a", "m"), other.instance("a", "n")]).await;
    let ask = async |door: &Door, session: usize| {
        let header = format!("host: d\r\nx-session-id: s{session}\r\n");
        let got = door.ask(post(CHAT, &chat("x")).replacen("host: d\r\n", &header, 1)).await;
        assert_eq!(got.status(), 200);
        got.header("x-dynamo-model").unwrap().to_owned()
    };
    let mut models = Vec::new();
    for session in 0..20 {
        models.push(ask(&door, session).await);
    }
    assert!(models.contains(&"m".to_owned()) && models.contains(&"n".to_owned()), "{models:?}");
    for (session, model) in models.iter().enumerate() {
        assert_eq!(&ask(&door, session).await, model);
    }

    let mut door = door;
    door.remove(&other.instance("a", "n"));
    door.add(&gone);
    for session in 0..20 {
        assert_eq!(ask(&door, session).await, "m");
    }
}

#[tokio::test]
async fn a_fallback_answers_where_no_target_can() {
    let spare = Worker::start([whole(r#"{"model":"n"}"#)]).await;
    let failing = Worker::start([status("500 Internal Server Error", "{}")]).await;
    let full = Worker::start([status("503 Service Unavailable", "{}")]).await;
    let lost = Worker::start([vec![Act::Close]]).await;
    let alias = || Alias::new("x", [target("m")]).with_fallback([target("n")]);
    let dead = nowhere().await;
    for (what, url) in [
        ("no instance", None),
        ("nobody listens", Some(&dead)),
        ("500", Some(&failing.url)),
        ("503", Some(&full.url)),
        ("the connection is lost before the head", Some(&lost.url)),
    ] {
        let mut instances = vec![spare.instance("a", "n")];
        instances.extend(url.map(|url| instance("a", "m", "Chat", Some(url))));
        let door = door(config([alias()]), &instances).await;
        let got = door.post(CHAT, &chat("x")).await;
        assert_eq!(got.status(), 200, "{what}: {got:?}");
        assert_eq!(got.header("x-dynamo-fallback"), Some("1"), "{what}");
        assert_eq!(got.header("x-dynamo-model"), Some("n"), "{what}");
        assert!(got.body().contains(r#"{"model":"x"}"#), "{what}: {got:?}");
        assert_eq!(seen(&spare).last().unwrap(), &chat("n"), "{what}");
    }
}

#[tokio::test]
async fn no_answer_below_500_makes_a_fallback_be_asked_unless_the_alias_says_so() {
    let too_long = r#"{"error":{"code":"context_length_exceeded"}}"#;
    for (line, body, on_429, on_length, falls) in [
        ("200 OK", "{}", true, true, false),
        ("404 Not Found", "{}", true, true, false),
        ("400 Bad Request", "{}", true, true, false),
        ("400 Bad Request", too_long, true, false, false),
        ("400 Bad Request", too_long, false, true, true),
        ("429 Too Many Requests", "{}", false, true, false),
        ("429 Too Many Requests", "{}", true, false, true),
    ] {
        let worker = Worker::start([status(line, body)]).await;
        let spare = Worker::start([whole("{}")]).await;
        let alias = Alias::new("x", [target("m")])
            .with_fallback([target("n")])
            .with_fallback_on_too_many_requests(on_429)
            .with_fallback_on_context_length(on_length);
        let instances = [worker.instance("a", "m"), spare.instance("a", "n")];
        let door = door(config([alias]), &instances).await;
        let got = door.post(CHAT, &chat("x")).await;
        assert_eq!(spare.asked(), usize::from(falls), "{line} {body}");
        let model = if falls { "n" } else { "m" };
        assert_eq!(got.header("x-dynamo-model"), Some(model), "{line} {body}");
        if !falls {
            assert!(got.raw.starts_with(&format!("HTTP/1.1 {line}")), "{got:?}");
            assert!(got.body().contains(body), "{got:?}");
        }
    }
}

#[tokio::test]
async fn where_all_targets_fail_the_first_answer_is_passed_on() {
    let first = Worker::start([status("500 Internal Server Error", r#"{"first":1}"#)]).await;
    let second = Worker::start([status("503 Service Unavailable", r#"{"second":1}"#)]).await;
    let third = nowhere().await;
    let alias = Alias::new("x", [target("m")]).with_fallback([target("n"), target("o")]);
    let instances = [
        first.instance("a", "m"),
        second.instance("a", "n"),
        instance("a", "o", "Chat", Some(&third)),
    ];
    let door = door(config([alias]), &instances).await;
    let got = door.post(CHAT, &chat("x")).await;
    assert_eq!((got.status(), got.body()), (500, r#"{"first":1}"#));
    assert_eq!((got.header("x-dynamo-model"), got.header("x-dynamo-fallback")), (Some("m"), None));
    assert_eq!((first.asked(), second.asked()), (1, 1));
    let metrics = door.get("/metrics").await.raw;
    let counted = "dynamo_frontend_resent_requests_total{outcome=\"sent\",reason=\"fallback\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    let inflight =
        metrics.lines().filter(|line| line.starts_with("dynamo_frontend_inflight_requests{"));
    assert!(
        inflight.clone().all(|line| line.ends_with(" 0")),
        "{:?}",
        inflight.collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn after_a_loss_there_is_one_further_send_in_all_and_without_a_budget_none() {
    let lost = Worker::start([vec![Act::Close]]).await;
    let second = Worker::start([status("500 Internal Server Error", "{}")]).await;
    let spare = Worker::start([whole("{}")]).await;
    let alias = || Alias::new("x", [target("m")]).with_fallback([target("n"), target("o")]);
    let instances = [lost.instance("a", "m"), second.instance("a", "n"), spare.instance("a", "o")];
    let door_with =
        async |budget| door(config([alias()]).with_retry_budget(budget), &instances).await;
    let got = door_with(20).await.post(CHAT, &chat("x")).await;
    assert_eq!((got.status(), spare.asked()), (500, 0), "{got:?}");
    assert_eq!((lost.asked(), second.asked()), (1, 1));

    let got = door_with(0).await.post(CHAT, &chat("x")).await;
    assert_eq!((got.status(), got.code().as_str()), (502, "bad_gateway"));
    assert_eq!((lost.asked(), second.asked(), spare.asked()), (2, 1, 0));
}

#[tokio::test]
async fn nothing_is_sent_again_after_the_first_byte() {
    let broken = vec![send(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))), Act::Close];
    let worker = Worker::start([broken]).await;
    let spare = Worker::start([whole("{}")]).await;
    let alias = Alias::new("x", [target("m")]).with_fallback([target("n")]);
    let door = door(config([alias]), &[worker.instance("a", "m"), spare.instance("a", "n")]).await;
    let got = door.post(CHAT, r#"{"model":"x","stream":true}"#).await;
    assert_eq!(got.status(), 200);
    assert!(
        !got.is_whole() && got.body().contains("data: 1") && got.body().contains("bad_gateway")
    );
    assert_eq!(spare.asked(), 0);
}

#[tokio::test]
async fn a_full_line_leads_to_the_fallback() {
    let go_on = Arc::new(Notify::new());
    let slow = Worker::start([common::stream_until(&go_on)]).await;
    let spare = Worker::start([whole("{}")]).await;
    let alias = Alias::new("x", [target("m")]).with_fallback([target("n")]);
    let config =
        config([alias]).with_worker_concurrency(std::num::NonZeroUsize::new(1)).with_queue_depth(0);
    let door = door(config, &[slow.instance("a", "m"), spare.instance("a", "n")]).await;
    let first = door.begin(post(CHAT, r#"{"model":"x","stream":true}"#)).await;
    slow.until_asked().await;
    let got = door.post(CHAT, &chat("x")).await;
    assert_eq!((got.status(), got.header("x-dynamo-fallback")), (200, Some("1")));
    go_on.notify_one();
    assert!(soon(Answer::read(first)).await.is_whole());
}

#[tokio::test]
async fn a_table_for_two_teams_shows_each_its_own_targets_and_no_trace_of_the_others() {
    let [a, b] = [Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await];
    let table = [
        Alias::new("shared", [within("m", "a"), within("n", "b")]),
        Alias::new("only-a", [within("m", "a")]).with_fallback([within("m", "a-2")]),
        Alias::new("first-a", [within("m", "a")]).with_fallback([within("n", "b")]),
    ];
    let instances = [a.instance("a", "m"), b.instance("b", "n")];
    let door = keyed::Door::starting_as(both(), ServeOptions::default(), config(table)).await;
    door.synced(&instances).await;

    let list = async |key| {
        let answer = door.get("/v1/models", Some(key)).await.json();
        let ids = answer["data"].as_array().unwrap().iter();
        ids.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(A).await, ["first-a", "m", "only-a", "shared"]);
    assert_eq!(list(B).await, ["first-a", "n", "shared"]);
    for _ in 0..5 {
        let (one, other) = (door.chat("shared", A).await, door.chat("shared", B).await);
        assert_eq!(
            (one.header("x-dynamo-model"), other.header("x-dynamo-model")),
            (Some("m"), Some("n"))
        );
    }
    // To the other team its fallback is the only target there is, so nothing tells it of another.
    let got = door.chat("first-a", B).await;
    assert_eq!((got.header("x-dynamo-model"), got.header("x-dynamo-fallback")), (Some("n"), None));
    // Names of one length, so that the answers have one length as well.
    for (ask, nobodys) in [("only-a", "nobody")] {
        let (theirs, none) = (door.chat(ask, B).await, door.chat(nobodys, B).await);
        assert_eq!(keyed::bare(&theirs, ask), keyed::bare(&none, nobodys));
        let path = |name: &str| format!("/v1/models/{name}");
        let (theirs, none) =
            (door.get(&path(ask), Some(B)).await, door.get(&path(nobodys), Some(B)).await);
        assert_eq!(keyed::bare(&theirs, ask), keyed::bare(&none, nobodys));
    }
    assert_eq!(door.get("/v1/models/only-a", Some(A)).await.json()["id"], "only-a");
}

#[tokio::test]
async fn on_a_closed_route_an_alias_elsewhere_is_like_any_unknown_model() {
    let a = Worker::start([whole("{}")]).await;
    let table = [Alias::new("x", [within("m", "a")])];
    let door = keyed::Door::starting_as(both(), ServeOptions::default(), config(table)).await;
    door.synced(&[a.instance("a", "m")]).await;
    let (theirs, none) = (door.chat("x", B).await, door.chat("nobodys", B).await);
    assert_eq!(theirs.code(), "endpoint_disabled");
    assert_eq!(sorted(&theirs), sorted(&none));
}

#[tokio::test]
async fn an_alias_serves_the_routes_of_its_targets_and_is_called_by_its_own_name_in_errors() {
    let worker = Worker::start([whole("{}")]).await;
    let config = config([
        Alias::new("x", [target("m")]).with_listed(false),
        Alias::new("e", [target("e2")]),
        Alias::new("y", [target("e2"), target("m")]),
    ]);
    let embeds = instance("a", "e2", "Embedding", Some(&worker.url));
    let mut door = door(config, &[worker.instance("a", "m"), embeds]).await;
    let got = door.post("/v1/embeddings", &chat("x")).await;
    assert_eq!(got.status(), 404);
    let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("The model 'x' does not serve /v1/embeddings; it serves"),
        "{message}"
    );
    for _ in 0..5 {
        // Of two targets, only one serves the route.
        assert_eq!(door.post(CHAT, &chat("y")).await.header("x-dynamo-model"), Some("m"));
        assert_eq!(
            door.post("/v1/embeddings", &chat("y")).await.header("x-dynamo-model"),
            Some("e2")
        );
    }
    let list = door.get("/v1/models").await.json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["e", "e2", "m", "y"]);
    assert_eq!(door.get("/v1/models/x").await.json()["id"], "x", "it is known, and not listed");

    door.remove(&worker.instance("a", "m"));
    door.add(&instance("a", "m", "Chat", None));
    let got = door.post(CHAT, &chat("x")).await;
    assert_eq!((got.status(), got.code().as_str()), (503, "no_instances"));
    assert!(got.raw.contains("The model 'x' cannot be served"), "{got:?}");
}

#[tokio::test]
async fn a_new_table_holds_from_the_next_request_on_and_loses_no_request() {
    let [one, other] = [Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await];
    let aliases = Aliases::default();
    let config = FrontendConfig::new().with_aliases(aliases.clone());
    let door = door(config, &[one.instance("a", "m"), other.instance("a", "n")]).await;
    assert_eq!(door.post(CHAT, &chat("x")).await.code(), "model_not_found");
    for model in ["m", "n", "m"] {
        aliases.replace(AliasTable::new([Alias::new("x", [target(model)])]).unwrap());
        assert_eq!(door.post(CHAT, &chat("x")).await.header("x-dynamo-model"), Some(model));
    }
    let swapping = async {
        for round in 0..200 {
            let model = if round % 2 == 0 { "m" } else { "n" };
            aliases.replace(AliasTable::new([Alias::new("x", [target(model)])]).unwrap());
            tokio::task::yield_now().await;
        }
    };
    let asking = async {
        for _ in 0..100 {
            let got = door.post(CHAT, &chat("x")).await;
            assert_eq!(got.status(), 200, "{got:?}");
        }
    };
    tokio::join!(swapping, asking);
    aliases.replace(AliasTable::default());
    assert_eq!(door.post(CHAT, &chat("x")).await.code(), "model_not_found");
}
