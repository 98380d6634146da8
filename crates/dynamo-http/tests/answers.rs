//! The answer table: who gets which answer, in which order.

mod common;

use common::{Door, Worker, chat, instance, post, whole};
use dynamo_http::{FrontendConfig, Route, ServeOptions, serve};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_allow_before_anything_else() {
    let door = Door::with("a", &FrontendConfig::default(), ServeOptions::default()).await;
    let answer = door.get("/v1/nothing").await;
    assert_eq!((answer.status(), answer.code().as_str()), (404, "not_found"));
    let answer = door.get(CHAT).await;
    assert_eq!((answer.status(), answer.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.header("allow"), Some("POST"));
    for route in Route::ALL {
        let error = door.get(route.path()).await.json();
        let shape = if *route == Route::Messages { "/type" } else { "/error/code" };
        assert!(error.pointer(shape).is_some(), "{}: {error}", route.path());
    }
}

#[tokio::test]
async fn a_front_door_answers_below_another_router_as_it_does_alone() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let nested = axum::Router::new().nest("/llm", door.frontend.router());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    door.address = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, nested, ServeOptions::default(), std::future::pending()));

    assert_eq!(door.post(&format!("/llm{CHAT}"), &chat("m")).await.status(), 200);
    assert_eq!(door.post(&format!("/llm{CHAT}"), &chat("n")).await.code(), "model_not_found");
    assert_eq!(door.get("/llm/v1/models/m").await.status(), 200);
    assert_eq!(door.get(&format!("/llm{CHAT}")).await.header("allow"), Some("POST"));
    assert_eq!(door.get(CHAT).await.status(), 404);
}

#[tokio::test]
async fn until_discovery_is_ready_closed_and_unknown_are_not_told_apart() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::with("a", &FrontendConfig::default(), ServeOptions::default()).await;
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "discovery_not_ready"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(door.get("/v1/models/m").await.code(), "discovery_not_ready");
    assert_eq!(door.get("/ready").await.status(), 503);

    // What is known already is served.
    door.add(&worker.instance("a", "m"));
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    assert_eq!(door.post(CHAT, &chat("n")).await.code(), "discovery_not_ready");

    door.writer.stage_ready();
    door.writer.publish();
    assert_eq!(door.post(CHAT, &chat("n")).await.code(), "model_not_found");
    assert_eq!(door.post("/v1/embeddings", &chat("n")).await.code(), "endpoint_disabled");
    assert_eq!(door.get("/ready").await.status(), 200);
}

#[tokio::test]
async fn every_closed_route_answers_503_before_the_body_is_read() {
    let door = Door::open("a").await;
    for route in Route::ALL.iter().copied() {
        // The body is announced and never sent.
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n",
            route.path()
        );
        let answer = door.ask(request).await;
        assert_eq!(answer.status(), 503, "{}", route.path());
        assert_eq!(answer.header("retry-after"), Some("1"));
        if route == Route::Messages {
            assert_eq!(answer.json()["error"]["type"], "overloaded_error");
        } else {
            assert_eq!(answer.code(), "endpoint_disabled");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_in_the_order_of_the_table() {
    let worker = Worker::start([whole("{}")]).await;
    let config = FrontendConfig::new().with_body_limit(64);
    let mut door = Door::with("a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.add(&worker.instance("a", "m"));

    let wrong_type = post(CHAT, &"x".repeat(100)).replace("application/json", "text/plain");
    assert_eq!(door.ask(wrong_type).await.status(), 415);
    let no_type = post(CHAT, "{}").replace("content-type: application/json\r\n", "");
    assert_eq!(door.ask(no_type).await.status(), 415);
    assert_eq!(door.post(CHAT, &"x".repeat(100)).await.status(), 413);
    let announced = post(CHAT, "").replace("content-length: 0", "content-length: 999999");
    assert_eq!(door.ask(announced).await.status(), 413);
    for invalid in ["", "x", "{}", r#"{"model":3}"#, r#"{"model":"m","model":"m"}"#] {
        let answer = door.post(CHAT, invalid).await;
        assert_eq!(answer.status(), 400, "{invalid}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    assert_eq!(worker.asked(), 1, "nothing wrong reaches a worker");
}

#[tokio::test]
async fn a_model_of_another_namespace_is_as_unknown_as_one_of_none() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "mine"));
    door.add(&worker.instance("b", "theirs"));

    let unknown = |answer: common::Answer, name: &str| {
        let date = answer.header("date").unwrap().to_owned();
        let id = answer.header("x-request-id").unwrap_or("none").to_owned();
        answer.raw.replace(name, "NAME").replace(&date, "DATE").replace(&id, "ID")
    };
    for path in [CHAT, "/v1/completions", "/v1/responses"] {
        let theirs = unknown(door.post(path, &chat("theirs")).await, "theirs");
        let nobody = unknown(door.post(path, &chat("nobody")).await, "nobody");
        assert!(theirs.starts_with("HTTP/1.1 404"));
        assert_eq!(theirs, nobody);
    }
    let theirs = unknown(door.get("/v1/models/theirs").await, "theirs");
    assert_eq!(theirs, unknown(door.get("/v1/models/nobody").await, "nobody"));
    for path in ["/v1/models", "/health", "/metrics", "/ready"] {
        let answer = door.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(
            !answer.raw.contains("theirs") && !answer.raw.contains("b.backend"),
            "{}",
            answer.raw
        );
    }
    assert_eq!(worker.asked(), 0);
}

#[tokio::test]
async fn on_the_clients_port_nothing_moves_with_other_namespaces() {
    let mut door = Door::open("a").await;
    let pages = async |door: &Door| {
        (door.get("/health").await.json(), door.get("/metrics").await.body().to_owned())
    };
    let before = pages(&door).await;
    door.add(&instance("b", "theirs", "Chat", None));
    assert_eq!(pages(&door).await, before);
    assert!(!before.1.contains("discovery_revision") && !before.1.contains("out_of_scope"));
}

#[tokio::test]
async fn a_model_that_does_not_serve_the_route_says_which_it_serves() {
    let mut door = Door::open("a").await;
    door.add(&instance("a", "chatty", "Chat", Some("http://127.0.0.1:9")));
    door.add(&instance("a", "vector", "Embedding", Some("http://127.0.0.1:9")));
    let answer = door.post(CHAT, &chat("vector")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (404, "model_not_found"));
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("/v1/embeddings") && !message.contains("chatty"), "{message}");
}

#[tokio::test]
async fn an_entry_without_a_url_opens_its_route_and_is_never_picked() {
    let mut door = Door::open("a").await;
    door.add(&instance("a", "m", "Chat", None));
    let answer = door.post(CHAT, &chat("m")).await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "no_instances"));
    assert_eq!(answer.header("retry-after"), None, "to ask again is no use");
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("without the URL"), "{message}");
    assert_eq!(door.get("/health").await.json()["instances"][0]["unroutable"], true);
    let unroutable = "dynamo_frontend_unroutable_instances{endpoint=\"chat_completions\"} 1";
    let metrics = door.get("/metrics").await;
    assert!(metrics.body().lines().any(|line| line == unroutable), "{}", metrics.body());

    let worker = Worker::start([whole("{}")]).await;
    door.add(&worker.instance("a", "m"));
    for _ in 0..4 {
        assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
    }
}

#[tokio::test]
async fn a_route_closes_when_its_last_model_leaves() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    let (one, two) = (worker.instance("a", "one"), worker.instance("a", "two"));
    door.add(&one);
    door.add(&two);
    door.remove(&one);
    assert_eq!(door.post(CHAT, &chat("one")).await.code(), "model_unavailable");
    assert_eq!(door.post(CHAT, &chat("two")).await.status(), 200);
    door.remove(&two);
    assert_eq!(door.post(CHAT, &chat("two")).await.code(), "endpoint_disabled");
}

#[tokio::test]
async fn models_are_listed_with_a_stable_time_and_found_by_either_spelling() {
    let mut door = Door::open("a").await;
    door.add(&instance("a", "Qwen/Q", "Chat", None));
    let list = door.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "Qwen/Q");
    for path in ["/v1/models/Qwen/Q", "/v1/models/Qwen%2FQ"] {
        let model = door.get(path).await.json();
        assert_eq!(model, list["data"][0], "{path}");
        assert_eq!(model["object"], "model");
        assert!(model["created"].as_u64().unwrap() > 1_700_000_000);
    }
    assert_eq!(door.get("/v1/models/Qwen").await.status(), 404);
}

#[tokio::test]
async fn a_name_that_no_one_could_register_is_not_repeated() {
    let door = Door::open("a").await;
    for id in ["%E2%80%AEevil", "%1B%5B31mevil", "%0D%0Aevil", &"evil".repeat(100)] {
        let answer = door.get(&format!("/v1/models/{id}")).await;
        assert_eq!((answer.status(), answer.code().as_str()), (404, "model_not_found"), "{id}");
        assert!(!answer.raw.contains("evil"), "{}", answer.raw);
    }
}

#[tokio::test]
async fn a_drain_turns_readiness_off_and_nothing_else() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    door.frontend.drain();
    assert_eq!(door.get("/ready").await.status(), 503);
    assert_eq!(door.get("/live").await.status(), 200);
    assert_eq!(door.get("/health").await.json()["status"], "draining");
    assert_eq!(door.post(CHAT, &chat("m")).await.status(), 200);
}

#[tokio::test]
async fn metrics_count_by_model_route_and_status_with_bounded_labels() {
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    door.post(CHAT, &chat("m")).await;
    for stranger in ["x1", "x2", "x3"] {
        door.post(CHAT, &chat(stranger)).await;
    }
    let metrics = door.get("/metrics").await;
    let has = |line: &str| assert!(metrics.raw.contains(line), "{line} in {}", metrics.raw);
    has(
        r#"dynamo_frontend_requests_total{code="200",endpoint="chat_completions",model="m",request_type="unary",status="success"} 1"#,
    );
    has(
        r#"dynamo_frontend_requests_total{code="404",endpoint="chat_completions",model="unknown_model",request_type="unary",status="error"} 3"#,
    );
    has(r#"dynamo_frontend_inflight_requests{endpoint="chat_completions",model="m"} 0"#);
    has(
        r#"dynamo_frontend_request_duration_seconds_count{endpoint="chat_completions",model="m"} 1"#,
    );
    has(
        r#"dynamo_frontend_time_to_first_byte_seconds_count{endpoint="chat_completions",model="m"} 1"#,
    );
    has(r#"dynamo_frontend_live_models{endpoint="completions"} 1"#);
    has(r#"dynamo_frontend_live_instances{endpoint="chat_completions"} 1"#);
    has(r#"dynamo_frontend_endpoint_open{endpoint="embeddings"} 0"#);
    assert!(!metrics.raw.contains("x1"));
}
