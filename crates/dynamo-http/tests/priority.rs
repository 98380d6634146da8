//! Priorities: who goes first among those that wait, who may name one, and what engines are told.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;

use common::keyed::{self, A, B, key, with_key};
use common::{Act, Answer, Door, Worker, chat, post, soon, whole};
use dynamo_discovery::{Accepts, Instance, RequestField};
use dynamo_http::{
    Alias, AliasTable, AliasTarget, Aliases, ApiKey, FrontendConfig, Isolation, Priority,
    PriorityMode, ServeOptions, UsageMode,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";

fn prioritizing(mode: PriorityMode) -> FrontendConfig {
    FrontendConfig::new().with_priority(mode)
}

/// The same instance, whose worker accepts these fields.
fn accepting<const N: usize>(instance: &Instance, fields: [RequestField; N]) -> Arc<Instance> {
    let entry = instance.entry().clone().with_accepts(Accepts::from_iter(fields));
    Arc::new(Instance::new(instance.key().clone(), None, entry))
}

fn told(worker: &Worker) -> Arc<Instance> {
    accepting(&worker.instance("a", "m"), [RequestField::Priority])
}

async fn door(config: &FrontendConfig, instances: &[Arc<Instance>]) -> Door {
    let mut door = Door::with("a", config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for instance in instances {
        door.add(instance);
    }
    door
}

/// A request that names a class, or several.
fn naming(classes: &[&str], body: &str) -> String {
    let headers = classes.iter().fold(String::from("host: d\r\n"), |headers, class| {
        format!("{headers}X-Dynamo-Priority: {class}\r\n")
    });
    post(CHAT, body).replacen("host: d\r\n", &headers, 1)
}

fn requests(worker: &Worker) -> Vec<String> {
    worker.requests.lock().unwrap().clone()
}

/// The bodies that the worker got.
fn bodies(worker: &Worker) -> Vec<String> {
    let body = |request: String| request.split_once("\r\n\r\n").unwrap().1.to_owned();
    requests(worker).into_iter().map(body).collect()
}

/// A worker that answers each request when it is told to.
async fn slow() -> (Worker, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let worker = Worker::start([vec![Act::Await(go_on.clone()), whole("{}").remove(0)]]).await;
    (worker, go_on)
}

/// Begins a request that has to wait in line.
async fn waits(door: &Door, request: String, waiting: &mut Vec<TcpStream>) {
    waiting.push(door.begin(request).await);
    let line = format!("dynamo_frontend_queued_requests {}\n", waiting.len());
    soon(async { while !door.get("/metrics").await.raw.contains(&line) {} }).await;
}

#[tokio::test]
async fn those_that_wait_go_by_class_and_then_in_the_order_in_which_they_came() {
    let (worker, go_on) = slow().await;
    let config = prioritizing(PriorityMode::Header).with_worker_concurrency(NonZeroUsize::new(1));
    let door = door(&config, &[told(&worker)]).await;
    let runs = door.begin(naming(&["bulk"], &chat("m"))).await;
    worker.until_asked().await;
    let mut waiting = Vec::new();
    let classes = ["bulk", "default", "bulk", "interactive", "", "interactive"];
    for (place, class) in classes.into_iter().enumerate() {
        let classes: &[&str] = if class.is_empty() { &[] } else { &[class] };
        let body = format!(r#"{{"model":"m","n":{place}}}"#);
        waits(&door, naming(classes, &body), &mut waiting).await;
    }
    let metrics = door.get("/metrics").await.raw;
    for class in Priority::ALL {
        let line = format!("queued_requests_by_priority{{priority=\"{class}\"}} 2\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    release(&worker, &go_on, 7).await;
    assert_eq!(numbers(&worker), "351402");
    for stream in std::iter::once(runs).chain(waiting) {
        assert_eq!(soon(Answer::read(stream)).await.status(), 200);
    }
    let metrics = door.get("/metrics").await.raw;
    assert!(metrics.contains("queued_requests_by_priority{priority=\"bulk\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn without_the_setting_those_that_wait_go_in_the_order_in_which_they_came() {
    let (worker, go_on) = slow().await;
    let config = FrontendConfig::new().with_worker_concurrency(NonZeroUsize::new(1));
    let door = door(&config, &[told(&worker)]).await;
    let _runs = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    let mut waiting = Vec::new();
    for (place, class) in ["bulk", "default", "interactive"].into_iter().enumerate() {
        let body = format!(r#"{{"model":"m","n":{place},"priority":-{place}}}"#);
        waits(&door, naming(&[class], &body), &mut waiting).await;
    }
    release(&worker, &go_on, 4).await;
    assert_eq!(numbers(&worker), "012");
    assert_eq!(bodies(&worker)[2], r#"{"model":"m","n":1,"priority":-1}"#, "as it came");
    assert!(requests(&worker)[1].contains("x-dynamo-priority: bulk"), "{:?}", requests(&worker));
    assert!(!door.get("/metrics").await.raw.contains("by_priority"));
}

#[tokio::test]
async fn a_request_that_runs_is_never_cut_for_another_one() {
    let (worker, go_on) = slow().await;
    let config = prioritizing(PriorityMode::Header).with_worker_concurrency(NonZeroUsize::new(1));
    let door = door(&config, &[told(&worker)]).await;
    let runs = door.begin(naming(&["bulk"], &chat("m"))).await;
    worker.until_asked().await;
    let mut waiting = Vec::new();
    waits(&door, naming(&["interactive"], &chat("m")), &mut waiting).await;
    assert_eq!(worker.asked(), 1);
    go_on.notify_one();
    assert_eq!(soon(Answer::read(runs)).await.status(), 200);
    go_on.notify_one();
    assert_eq!(soon(Answer::read(waiting.remove(0))).await.status(), 200);
}

/// Has the worker answer requests until it has got so many.
async fn release(worker: &Worker, go_on: &Notify, all: usize) {
    for answered in 1..=all {
        go_on.notify_one();
        soon(async {
            while worker.asked() < all.min(answered + 1) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// The members `n` of the bodies that the worker got.
fn numbers(worker: &Worker) -> String {
    let number = |body: &String| Some(body.split_once("\"n\":")?.1[..1].to_owned());
    bodies(worker).iter().filter_map(number).collect()
}

fn keys() -> Vec<ApiKey> {
    let mut bulk = key("nightly", A, "a");
    bulk.priority = Priority::Bulk;
    let mut chooses = key("desk", B, "a");
    chooses.priority_header = true;
    vec![bulk, chooses]
}

async fn keyed(mode: PriorityMode, instances: &[Arc<Instance>]) -> keyed::Door {
    let door = keyed::Door::starting_as(keys(), ServeOptions::default(), prioritizing(mode)).await;
    door.synced(instances).await;
    door
}

#[tokio::test]
async fn a_key_has_its_class_and_only_a_key_that_may_do_so_names_another_one() {
    for mode in [PriorityMode::Keys, PriorityMode::Header] {
        let worker = Worker::start([whole("{}")]).await;
        let door = keyed(mode, &[told(&worker)]).await;
        for (key, classes, number) in [
            (A, &[][..], "10"),
            (A, &["interactive"], "10"),
            (A, &["nonsense"], "10"),
            (B, &[], "0"),
            (B, &["interactive"], "-10"),
            (B, &["bulk"], "10"),
        ] {
            let request = with_key(naming(classes, r#"{"model":"m","priority":-99}"#), key);
            assert_eq!(door.ask(request).await.status(), 200);
            let body = bodies(&worker).pop().unwrap();
            assert_eq!(body, format!(r#"{{"model":"m","priority":{number}}}"#), "{classes:?}");
            assert!(!requests(&worker).pop().unwrap().contains("x-dynamo-priority"));
        }
        let asked = worker.asked();
        for classes in
            [&["urgent"][..], &["Bulk"], &["bulk, interactive"], &["bulk", "bulk"], &[""]]
        {
            let answer = door.ask(with_key(naming(classes, &chat("m")), B)).await;
            assert_eq!(answer.status(), 400, "{classes:?}");
            assert!(answer.body().contains("must be interactive, default or bulk"), "{answer:?}");
        }
        assert_eq!(worker.asked(), asked);
    }
}

#[tokio::test]
async fn without_keys_the_header_counts_only_where_the_setting_says_so() {
    for (mode, number) in [(PriorityMode::Keys, "0"), (PriorityMode::Header, "-10")] {
        let worker = Worker::start([whole("{}")]).await;
        let door = door(&prioritizing(mode), &[told(&worker)]).await;
        assert_eq!(door.ask(naming(&["interactive"], &chat("m"))).await.status(), 200);
        let body = bodies(&worker).remove(0);
        assert!(body.starts_with(&format!("{{\"priority\":{number},")), "{body}");
    }
}

#[tokio::test]
async fn no_priority_of_a_client_reaches_an_engine_however_it_is_written() {
    let (hears, deaf) = (Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await);
    let other = accepting(&deaf.instance("a", "other"), [RequestField::IncludeUsage]);
    let door = door(&prioritizing(PriorityMode::Keys), &[told(&hears), other]).await;
    let nested = r#""x":{"priority":-1},"y":[{"priority":-2}]"#;
    for own in [
        r#""priority":-99"#,
        r#""priorit\u0079" : -99"#,
        r#""\u0070\u0072\u0069\u006f\u0072\u0069\u0074\u0079":"-99""#,
        r#""priority":{"priority":-99}"#,
    ] {
        for model in ["m", "other"] {
            let body = format!(r#"{{{own},"model":"{model}",{nested}}}"#);
            assert_eq!(door.post(CHAT, &body).await.status(), 200);
        }
        let name = own.rsplit_once(':').map_or(own, |(name, _)| name);
        let name = if own.ends_with('}') { r#""priority""# } else { name };
        let colon = if own.contains(" : ") { ": " } else { ":" };
        let sent = bodies(&hears).pop().unwrap();
        assert_eq!(sent, format!(r#"{{{name}{colon}0,"model":"m",{nested}}}"#));
        let sent = bodies(&deaf).pop().unwrap();
        assert_eq!(sent, format!(r#"{{"model":"other",{nested}}}"#));
    }
    // An engine takes one of several, and nobody can know which.
    for second in ["priority", "priorit\\u0079"] {
        let body = format!(r#"{{"priority":0,"model":"m","{second}":-99}}"#);
        let refused = door.post(CHAT, &body).await;
        assert_eq!(refused.status(), 400, "{body}");
        assert!(refused.body().contains("'priority' appears more than once"), "{refused:?}");
    }
    // A body without one is as it came where the engine does not accept one.
    let body = r#" {"model" : "other"} "#;
    assert_eq!(door.post(CHAT, body).await.status(), 200);
    assert_eq!(bodies(&deaf).pop().unwrap(), body);
    assert_eq!(hears.asked(), 4);
}

#[tokio::test]
async fn each_attempt_has_the_body_that_its_worker_accepts_beside_all_other_edits() {
    let deaf = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    let deaf = Worker::start([vec![common::send(deaf)]]).await;
    let hears = Worker::start([whole("{}")]).await;
    let fields = [RequestField::CacheSalt, RequestField::IncludeUsage, RequestField::Priority];
    let instances = [
        accepting(&deaf.instance("a", "first"), [RequestField::CacheSalt]),
        accepting(&hears.instance("a", "second"), fields),
    ];
    let alias =
        Alias::new("gpt", [AliasTarget::new("first")]).with_fallback([AliasTarget::new("second")]);
    let aliases = Aliases::default();
    aliases.replace(AliasTable::new([alias]).unwrap());
    let config = prioritizing(PriorityMode::Header)
        .with_isolation(Some(Isolation::new(&[7; 32]).unwrap()))
        .with_aliases(aliases)
        .with_usage(UsageMode::Ask);
    let door = door(&config, &instances).await;
    let body = r#"{"priority":1,"model":"gpt","stream":true,"cache_salt":""}"#;
    assert_eq!(door.ask(naming(&["bulk"], body)).await.status(), 200);
    let salt = |body: &str| body.split_once("\"cache_salt\":\"").unwrap().1[..43].to_owned();
    let (first, second) = (bodies(&deaf).remove(0), bodies(&hears).remove(0));
    let expected = format!(r#"{{"model":"first","stream":true,"cache_salt":"{}"}}"#, salt(&first));
    assert_eq!(first, expected);
    let expected = format!(
        r#"{{"stream_options":{{"include_usage":true}},"priority":10,"model":"second","stream":true,"cache_salt":"{}"}}"#,
        salt(&second)
    );
    assert_eq!(second, expected);
}
