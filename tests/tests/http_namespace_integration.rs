//! Front doors of several namespaces over one etcd, with real engines behind and real clients before.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use std::sync::Arc;
use std::thread;

use dynamo_discovery::{Kind, ModelEntry, WatchScope};
use dynamo_http::Route;
use dynamo_namespace::NamespaceScope;
use dynamo_tests::{
    Frontend, Load, Logs, Space, create_test_model_entry, eventually, flat_key, lists, native_key,
    soon,
};
use serde_json::json;

const EVERY_KIND: &str = "Chat | Completions | Embedding | Images | Audios | Classify | Pooling";

fn entry(namespace: &str, model: &str) -> ModelEntry {
    create_test_model_entry(model, namespace, "backend", "generate", "Chat")
}

/// An answer without what is different each time.
fn constant(answer: &str, model: &str) -> String {
    let value = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("\0").trim().to_owned()
    };
    let (date, id) = (value("date:"), value("x-request-id:"));
    answer.replace(model, "MODEL").replace(&date, "DATE").replace(&id, "ID")
}

#[tokio::test]
async fn a_frontend_in_one_namespace_never_shows_anything_of_another() {
    let space = Space::new().await;
    let a = space.worker_of("team-a", "model-of-a", "Chat", "engine-of-a").await;
    let b = space.worker_of("team-b", "model-of-b", "Embedding", "engine-of-b").await;
    let (frontend_a, frontend_b) = (space.frontend("team-a").await, space.frontend("team-b").await);

    assert_eq!(frontend_a.chat("model-of-a").await.engine().unwrap(), "engine-of-a");
    let embed = json!({ "model": "model-of-b", "input": "x" });
    let embedded = frontend_b.post("/v1/embeddings", &embed).await;
    assert_eq!(embedded.engine().unwrap(), "engine-of-b");

    assert_eq!(
        frontend_a.routes().await,
        ["/v1/chat/completions", "/v1/responses", "/v1/messages"]
    );
    assert_eq!(frontend_b.routes().await, ["/v1/embeddings"]);
    let closed =
        [frontend_a.post("/v1/embeddings", &embed).await, frontend_b.chat("model-of-a").await];
    for answer in closed {
        assert_eq!((answer.status, &*answer.code()), (503, "endpoint_disabled"));
    }

    for (frontend, own, [namespace, model, url]) in [
        (&frontend_a, "model-of-a", ["team-b", "model-of-b", b.engine.url()]),
        (&frontend_b, "model-of-b", ["team-a", "model-of-a", a.engine.url()]),
    ] {
        assert_eq!(frontend.models().await, [own]);
        for path in ["/v1/models", "/health", "/metrics", "/ready", "/live"] {
            let answer = frontend.get(path).await;
            assert_eq!(answer.status, 200, "{path}");
            for foreign in [namespace, model, url.trim_start_matches("http://")] {
                assert!(!answer.body.contains(foreign), "{path}: {}", answer.body);
            }
        }
    }
    assert_eq!((a.engine.asked(), b.engine.asked()), (1, 1));
}

#[tokio::test]
async fn a_model_of_another_namespace_is_answered_like_an_unknown_one_to_the_byte() {
    let space = Space::new().await;
    let theirs = space.worker_of("team-b", "theirs", EVERY_KIND, "engine-of-b").await;
    let frontend = space.frontend("team-a").await;
    let ask = async |method, path: &str, model: &str| {
        let body = json!({ "model": model, "messages": [], "input": "x" }).to_string();
        constant(&frontend.raw(method, path, &body).await, model)
    };

    // Names of one length: the length of an answer tells nothing but that of the question.
    for status in ["HTTP/1.1 503 ", "HTTP/1.1 404 "] {
        for path in Route::ALL.iter().map(|route| route.path()) {
            let answer = ask("POST", path, "theirs").await;
            assert!(answer.starts_with(status), "{path}: {answer}");
            assert_eq!(answer, ask("POST", path, "nobody").await, "{path}");
        }
        for name in ["theirs", "nobody"] {
            let answer = ask("GET", &format!("/v1/models/{name}"), name).await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
        assert_eq!(
            ask("GET", "/v1/models/theirs", "theirs").await,
            ask("GET", "/v1/models/nobody", "nobody").await
        );
        // The second time with all of our own routes open.
        space.worker_of("team-a", "ours", EVERY_KIND, "engine-of-a").await;
        lists(&frontend, &["ours"]).await;
    }
    assert_eq!(theirs.engine.asked(), 0);
}

#[tokio::test]
async fn the_logs_of_a_frontend_never_name_anything_of_another_namespace() {
    let space = Space::new().await;
    let logs = Logs::capture();
    let listed = space.worker("team-b", "model-of-b").await;
    let (flat, broken) = (flat_key(), native_key(&entry("team-b", "model-of-b")));
    space.put(&flat, entry("team-b", "model-of-b").to_json()).await;
    space.put(&broken, "{").await;
    let frontend = space.frontend("team-a").await;

    // What the neighbour does, right and wrong.
    let watched = space.worker("team-b", "model-of-b").await;
    space.put(&flat, entry("team-b", "model-of-b").with_created(1).to_json()).await;
    space.put(&broken, "{}").await;
    space.put("team-b/backend/generate/NOHEX/model-of-b", "x").await;
    for worker in [listed, watched] {
        worker.leave().await;
    }
    space.delete(&broken).await;
    space.delete(&flat).await;
    for path in Route::ALL.iter().map(|route| route.path()) {
        frontend.post(path, &json!({ "model": "model-of-b" })).await;
    }
    frontend.get("/v1/models/model-of-b").await;

    // All of the above was heard when this is.
    let ours = space.worker("team-a", "model-of-a").await;
    lists(&frontend, &["model-of-a"]).await;
    frontend.chat("model-of-a").await;
    frontend.chat("model-of-b").await;
    ours.leave().await;
    eventually("the route closes", async || frontend.routes().await.is_empty()).await;

    let text = logs.text();
    for own in
        ["watching", "team-a", "model-of-a", "instance added", "route opened", "route closed"]
    {
        assert!(text.contains(own), "{own} in {text}");
    }
    for foreign in ["team-b", "model-of-b"] {
        assert!(!text.contains(foreign), "{foreign} in {text}");
    }
}

#[tokio::test]
async fn a_global_frontend_sees_every_namespace() {
    let space = Space::new().await;
    space.worker("team-a", "model-of-a").await;
    space.worker("team-b", "model-of-b").await;
    space.worker("global", "model-of-all").await;
    for target in ["global", ""] {
        let frontend = space.frontend(target).await;
        assert_eq!(frontend.models().await, ["model-of-a", "model-of-all", "model-of-b"]);
        for model in frontend.models().await {
            assert_eq!(frontend.chat(&model).await.engine().unwrap(), model);
        }
    }
    for (target, models) in
        [("GLOBAL", &[][..]), ("nobody", &[]), ("team-a", &["model-of-a"]), ("TEAM-A", &[])]
    {
        assert_eq!(space.frontend(target).await.models().await, models, "{target}");
    }
}

#[tokio::test]
async fn a_model_of_two_namespaces_is_served_by_each_ones_own_workers() {
    let space = Space::new().await;
    let a = space.worker_of("team-a", "shared", "Chat", "engine-of-a").await;
    let b = space.worker_of("team-b", "shared", "Chat", "engine-of-b").await;
    let all = space.frontend("global").await;
    for (namespace, engine) in [("team-a", "engine-of-a"), ("team-b", "engine-of-b")] {
        let frontend = space.frontend(namespace).await;
        for _ in 0..6 {
            assert_eq!(frontend.chat("shared").await.engine().unwrap(), engine);
        }
    }
    assert_eq!((a.engine.asked(), b.engine.asked()), (6, 6));
    for _ in 0..6 {
        assert_eq!(all.chat("shared").await.status, 200);
    }
    assert_eq!((a.engine.asked(), b.engine.asked()), (9, 9), "in turns");
}

#[tokio::test]
async fn a_route_stays_open_while_one_of_two_workers_leaves_and_closes_with_the_last() {
    let space = Space::new().await;
    let one = space.worker_of("team-a", "m", "Chat", "one").await;
    let two = space.worker_of("team-a", "m", "Chat", "two").await;
    let frontend = space.frontend("team-a").await;
    let load = Load::on(&frontend, "m", 2);
    load.flows(20).await;

    let one = one.leave().await;
    eventually("only the other one is asked", async || {
        let before = one.asked();
        load.flows(10).await;
        one.asked() == before
    })
    .await;
    assert_eq!(load.failures(), []);
    drop(load);

    two.leave().await;
    eventually("the route closes", async || frontend.chat("m").await.status == 503).await;
    assert_eq!(frontend.chat("m").await.code(), "endpoint_disabled");
    assert_eq!(frontend.models().await, [""; 0]);
    assert_eq!(frontend.get("/v1/models/m").await.status, 404);
}

#[tokio::test]
async fn flat_and_native_entries_stand_side_by_side() {
    let space = Space::new().await;
    let native = space.worker_of("team-a", "m", "Chat", "native").await;
    let engine = dynamo_tests::Engine::start("flat").await;
    let flat = [flat_key(), flat_key()];
    let of_dynamo = entry("team-a", "of-dynamo");
    space
        .put(&flat[0], entry("team-a", "m").with_url(engine.url().parse().unwrap()).to_json())
        .await;
    // As real Dynamo workers are: without a URL.
    space.put(&flat[1], of_dynamo.to_json()).await;
    space.put(&flat_key(), entry("team-b", "of-b").to_json()).await;

    let frontend = space.frontend("team-a").await;
    assert_eq!(frontend.models().await, ["m", "of-dynamo"]);
    for _ in 0..4 {
        assert_eq!(frontend.chat("m").await.status, 200);
    }
    assert_eq!((native.engine.asked(), engine.asked()), (2, 2));
    let answer = frontend.chat("of-dynamo").await;
    assert_eq!((answer.status, &*answer.code()), (503, "no_instances"));

    for key in flat {
        space.delete(&key).await;
    }
    lists(&frontend, &["m"]).await;
    let asked = engine.asked();
    for _ in 0..4 {
        assert_eq!(frontend.chat("m").await.engine().unwrap(), "native");
    }
    assert_eq!(engine.asked(), asked);
}

#[tokio::test]
async fn malformed_entries_hide_no_good_one() {
    let good = entry("team-a", "good");
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(ModelEntry::MAX_VALUE_LEN));
    let deceptive = String::from_utf8(entry("team-a", "NAME").to_json().to_vec()).unwrap();
    // Below `team-a/`, so that it is clear whose they are.
    let malformed: Vec<(&str, Vec<u8>)> = vec![
        ("backend/generate/1/good", b"".into()),
        ("backend/generate/2/good", b"{".into()),
        ("backend/generate/3/good", b"\xff\xfe\x00".into()),
        ("backend/generate/4/good", b"[1, 2, 3]".into()),
        ("backend/generate/5/good", large.into()),
        ("backend/generate/6/good", entry("team-b", "good").to_json().into()),
        ("backend/generate/7/good", entry("team-a", "other").to_json().into()),
        ("backend/generate/8/%67ood", good.to_json().into()),
        ("backend/generate/0F/good", good.to_json().into()),
        ("backend/generate/good", good.to_json().into()),
        ("backend/generate/9/good/more", good.to_json().into()),
        ("backend/generate/a/%1B%5B31m", deceptive.replace("NAME", "\\u001b[31m").into()),
        ("prefill/generate/b/good", good.to_json().into()),
    ];
    let space = Space::new().await;
    let put = async |from: &[(&str, Vec<u8>)]| {
        for (key, value) in from {
            space.put(&format!("team-a/{key}"), value.clone()).await;
        }
    };
    // One half is listed, the other one watched.
    let (before, after) = malformed.split_at(malformed.len() / 2);
    put(before).await;
    space.worker("team-a", "good").await;
    let frontend = space.frontend("team-a").await;
    assert_eq!(frontend.models().await, ["good"]);
    put(after).await;
    space.worker("team-a", "later").await;
    lists(&frontend, &["good", "later"]).await;

    let refused = frontend.metric("dynamo_frontend_discovery_refused_total").await;
    assert_eq!(refused as usize, malformed.len());
    for model in ["good", "later"] {
        assert_eq!(frontend.chat(model).await.engine().unwrap(), model);
    }
}

#[tokio::test]
async fn a_refused_entry_is_logged_once_with_its_reason_and_never_with_its_value() {
    let space = Space::new().await;
    let logs = Logs::capture();
    let key = "team-a/backend/generate/1/m";
    let value = entry("team-a", "m").to_json();
    let secret = String::from_utf8(value.to_vec()).unwrap().replace("\"Chat\"", "\"Hidden\"");
    space.put(key, secret.clone()).await;
    let frontend = space.frontend("team-a").await;
    let unknown = flat_key();
    space.put(&unknown, entry("team-b", "m").to_json()).await;
    for _ in 0..3 {
        space.put(key, secret.clone()).await;
    }
    space.delete(&unknown).await;
    space.worker("team-a", "end").await;
    lists(&frontend, &["end"]).await;

    let text = logs.text();
    let of = |what: &str| text.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let refused = of("entry refused");
    let [line] = refused[..] else { panic!("{refused:#?}") };
    for field in [" WARN ", "error=", "model_name=\"m\"", "namespace=\"team-a\"", key] {
        assert!(line.contains(field), "{field} in {line}");
    }
    assert!(!text.contains("Hidden"), "{text}");
    let deleted = of("deleted key was not known");
    let [line] = deleted[..] else { panic!("{deleted:#?}") };
    assert!(line.contains("DEBUG") && line.contains(&unknown), "{line}");
}

#[tokio::test]
async fn an_entry_overwritten_with_an_invalid_one_is_gone_until_it_is_valid_again() {
    let space = Space::new().await;
    let frontend = space.frontend("team-a").await;
    let entry = entry("team-a", "m");
    let key = native_key(&entry);
    for _ in 0..2 {
        space.put(&key, entry.to_json()).await;
        lists(&frontend, &["m"]).await;
        space.put(&key, "{").await;
        lists(&frontend, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_changed_in_place_never_closes_its_route() {
    const CHANGES: u64 = 100;
    let space = Space::new().await;
    let engine = dynamo_tests::Engine::start("m").await;
    let entry = entry("team-a", "m").with_url(engine.url().parse().unwrap());
    let key = native_key(&entry);
    space.put(&key, entry.to_json()).await;
    let frontend = space.frontend("team-a").await;

    let looking = Arc::new(());
    let closed = thread::spawn({
        let (looking, frontend) = (Arc::downgrade(&looking), frontend.clone());
        move || {
            let mut closed = 0;
            while looking.strong_count() > 0 {
                let view = frontend.view();
                closed += usize::from(!view.is_open(Kind::Chat) || view.model("m").is_none());
            }
            closed
        }
    });
    let load = Load::on(&frontend, "m", 2);
    for length in 1..=CHANGES {
        space.put(&key, entry.clone().with_context_length(length).to_json()).await;
    }
    eventually("the last change is there", async || {
        frontend.get("/v1/models/m").await.json()["context_length"] == CHANGES
    })
    .await;
    load.flows(10).await;
    drop(looking);
    assert_eq!(closed.join().unwrap(), 0, "looks at a closed route");
    assert_eq!(load.failures(), []);
}

#[tokio::test]
async fn the_first_byte_of_a_stream_arrives_before_the_last_is_sent() {
    let space = Space::new().await;
    let worker = space.worker("team-a", "m").await;
    let frontend = space.frontend("team-a").await;
    let mut answer = frontend.stream("m").await;
    let generation = worker.engine.generation().await;
    for piece in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        generation.send(piece).await;
        let chunk = soon("a chunk", answer.chunk()).await.unwrap().unwrap();
        assert_eq!(chunk, piece);
    }
    drop(generation);
    assert_eq!(soon("the end", answer.chunk()).await.unwrap(), None);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request_at_the_engine() {
    let space = Space::new().await;
    let worker = space.worker("team-a", "m").await;
    let frontend = space.frontend("team-a").await;
    let mut answer = frontend.stream("m").await;
    let generation = worker.engine.generation().await;
    generation.send("data: 1\n\n").await;
    soon("a chunk", answer.chunk()).await.unwrap();
    drop(answer);
    generation.cancelled().await;
    eventually("nothing is in flight", async || {
        frontend.metric("dynamo_frontend_inflight_requests").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_leaves_in_the_middle_of_a_stream_ends_it_well() {
    let space = Space::new().await;
    let worker = space.worker("team-a", "m").await;
    let frontend = space.frontend("team-a").await;
    let mut answer = frontend.stream("m").await;
    let generation = worker.engine.generation().await;
    let engine = worker.leave().await;
    lists(&frontend, &[]).await;
    generation.send("data: [DONE]\n\n").await;
    assert_eq!(soon("a chunk", answer.chunk()).await.unwrap().unwrap(), "data: [DONE]\n\n");
    drop(generation);
    assert_eq!(soon("the end", answer.chunk()).await.unwrap(), None);
    assert_eq!(engine.asked(), 1);
}

#[tokio::test]
async fn a_frontend_that_watches_by_key_hears_its_own_namespace_only_and_no_flat_keys() {
    let space = Space::new().await;
    let start = async |scope: NamespaceScope, watch| {
        let config = space.watch("").with_target_namespace(scope).with_watch_scope(watch);
        Frontend::start(config).await.ready().await
    };
    let team_a = NamespaceScope::Only("team-a".parse().unwrap());
    let by_key = start(team_a.clone(), WatchScope::Key).await;
    let by_value = start(team_a, WatchScope::Value).await;
    let generations =
        start(NamespaceScope::Generations("team-a".parse().unwrap()), WatchScope::Key);
    let prefix = start(NamespaceScope::Prefix("team".into()), WatchScope::Key);
    let (generations, prefix) = (generations.await, prefix.await);

    space.put(&flat_key(), entry("team-a", "flat").to_json()).await;
    for namespace in
        ["team", "team-ab", "team-b", "team-a-deadbeef", "team-a-canary", "tea", "team-a"]
    {
        space.worker(namespace, &format!("of-{namespace}")).await;
    }
    lists(&by_value, &["flat", "of-team-a"]).await;
    lists(&by_key, &["of-team-a"]).await;
    lists(&generations, &["of-team-a", "of-team-a-deadbeef"]).await;
    let teams = [
        "of-team",
        "of-team-a",
        "of-team-a-canary",
        "of-team-a-deadbeef",
        "of-team-ab",
        "of-team-b",
    ];
    lists(&prefix, &teams).await;
    assert_eq!(by_key.chat("of-team-a").await.engine().unwrap(), "of-team-a");

    // What the narrow watch costs: nothing of what the neighbours do.
    let heard = "dynamo_frontend_discovery_out_of_scope_total";
    assert_eq!(by_key.admin().metric(heard).await, 0.0);
    assert_eq!(by_value.admin().metric(heard).await, 6.0);
}

#[tokio::test]
async fn a_prefill_worker_opens_no_route() {
    let space = Space::new().await;
    let engine = dynamo_tests::Engine::start("prefill").await;
    for (component, kinds) in [("prefill", "Chat | Completions"), ("backend", "Chat | Prefill")] {
        let entry = create_test_model_entry("m", "team-a", component, "generate", kinds)
            .with_url(engine.url().parse().unwrap());
        space.put(&native_key(&entry), entry.to_json()).await;
    }
    let frontend = space.frontend("team-a").await;
    assert_eq!(frontend.routes().await, [""; 0]);
    let answer = frontend.chat("m").await;
    assert_eq!((answer.status, &*answer.code()), (503, "endpoint_disabled"));

    // With a worker that decodes, requests go to that one only.
    space.worker_of("team-a", "m", "Chat", "decode").await;
    lists(&frontend, &["m"]).await;
    for _ in 0..4 {
        assert_eq!(frontend.chat("m").await.engine().unwrap(), "decode");
    }
    assert_eq!(engine.asked(), 0);
}
