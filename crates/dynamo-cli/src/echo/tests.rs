//! Tests of the echo engine: its answers in each dialect, and its pace.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

fn engine(models: &[&str], delay: Duration) -> EchoEngine {
    EchoEngine { models: models.iter().map(|name| (*name).to_owned()).collect(), delay }
}

/// Serves an echo engine for as long as the test runs, and returns its URL.
pub(crate) async fn serve(models: &[&str]) -> WorkerUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = local_url(listener.local_addr().unwrap()).unwrap();
    let engine = engine(models, Duration::ZERO);
    tokio::spawn(engine.serve(listener, std::future::pending()));
    url
}

#[test]
fn an_address_to_listen_on_has_a_url_unless_no_frontend_may_connect_to_it() {
    let url = |address: &str| local_url(address.parse().unwrap()).map(|url| url.to_string());
    for (address, expected) in [
        ("192.0.2.7:8001", "http://192.0.2.7:8001"),
        ("0.0.0.0:8001", "http://127.0.0.1:8001"),
        ("[::]:8001", "http://[::1]:8001"),
        ("[2001:db8::7]:8001", "http://[2001:db8::7]:8001"),
    ] {
        assert_eq!(url(address).unwrap(), expected);
    }
    for link_local in ["[fe80::7%2]:8001", "169.254.7.7:8001"] {
        assert_eq!(url(link_local), Err(InvalidUrl::ForbiddenAddress));
    }
}

async fn call(router: &Router, path: &str, body: &Value) -> (StatusCode, Body) {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    (response.status(), response.into_body())
}

async fn ask(path: &str, body: Value) -> (StatusCode, Value) {
    let router = engine(&["m"], Duration::ZERO).router();
    let (status, body) = call(&router, path, &body).await;
    let bytes = body.collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// The events of a stream, and whether the stream ended with the end marker.
async fn stream(path: &str, body: Value) -> (Vec<Value>, bool) {
    let router = engine(&["m"], Duration::ZERO).router();
    let (status, body) = call(&router, path, &body).await;
    assert_eq!(status, StatusCode::OK);
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    let mut events: Vec<_> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect();
    let done = events.pop_if(|last| last == "[DONE]").is_some();
    (events.iter().map(|event| serde_json::from_str(event).unwrap()).collect(), done)
}

fn said(text: &str) -> Value {
    json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": text }])
}

#[tokio::test]
async fn chat_repeats_the_last_message_of_the_user() {
    let path = "/v1/chat/completions";
    let (status, answer) =
        ask(path, json!({ "model": "m", "messages": said("hello there") })).await;
    assert_eq!(status, StatusCode::OK);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "hello there" }));
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    assert_eq!(answer["usage"]["total_tokens"], 6);

    let parts = json!([{ "role": "user", "content": [
        { "type": "text", "text": "a b " }, { "type": "image_url", "image_url": { "url": "x" } },
        { "type": "text", "text": "c" },
    ] }]);
    let (_, answer) =
        ask(path, json!({ "model": "m", "messages": parts, "max_completion_tokens": 2 })).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "a b ");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn every_dialect_tells_how_much_of_a_prompt_was_read_before() {
    let router = engine(&["m"], Duration::ZERO).router();
    let long = "word ".repeat(40);
    let cached = async |path: &str, body: &Value, place: &str| {
        let (status, body) = call(&router, path, body).await;
        assert_eq!(status, StatusCode::OK);
        let bytes = body.collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        answer.pointer(place).and_then(Value::as_u64)
    };
    for (path, part, place) in [
        (
            "chat/completions",
            json!({ "messages": said(&long) }),
            "prompt_tokens_details/cached_tokens",
        ),
        ("completions", json!({ "prompt": long }), "prompt_tokens_details/cached_tokens"),
        (
            "responses",
            json!({ "instructions": "a", "input": long }),
            "input_tokens_details/cached_tokens",
        ),
        ("messages", json!({ "system": "b", "messages": said(&long) }), "cache_read_input_tokens"),
    ] {
        let (path, place) = (format!("/v1/{path}"), format!("/usage/{place}"));
        let mut body = part;
        body["model"] = "m".into();
        assert_eq!(cached(&path, &body, &place).await, Some(0), "{path}");
        assert_eq!(cached(&path, &body, &place).await, Some(32), "{path}");
    }
}

#[tokio::test]
async fn a_streamed_chat_is_role_tokens_finish_and_the_end() {
    let mut request = json!({ "model": "m", "stream": true, "messages": said("one two") });
    let (events, done) = stream("/v1/chat/completions", request.clone()).await;
    assert!(done);
    let deltas: Vec<_> = events.iter().map(|event| event["choices"][0]["delta"].clone()).collect();
    assert_eq!(
        deltas,
        [
            json!({ "role": "assistant", "content": "" }),
            json!({ "content": "one " }),
            json!({ "content": "two" }),
            json!({}),
        ]
    );
    assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
    assert!(events.iter().all(|event| event.get("usage").is_none()));

    request["stream_options"] = json!({ "include_usage": true });
    let (events, _) = stream("/v1/chat/completions", request).await;
    assert_eq!(events[0]["usage"], Value::Null);
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 2);
}

/// The events of a stream by name; the data of each event has the name as well.
async fn named(path: &str, body: Value) -> Vec<(String, Value)> {
    let router = engine(&["m"], Duration::ZERO).router();
    let (status, body) = call(&router, path, &body).await;
    assert_eq!(status, StatusCode::OK);
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name);
        (name, data)
    };
    text.split_terminator("\n\n").map(event).collect()
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn responses_repeat_a_text_or_the_last_item_of_the_user() {
    let path = "/v1/responses";
    for input in [
        json!("a b"),
        json!([
            { "role": "user", "content": [{ "type": "input_text", "text": "a b" }] },
            { "type": "function_call", "name": "f", "arguments": "{}" },
        ]),
    ] {
        let (status, answer) =
            ask(path, json!({ "model": "m", "input": input, "instructions": "be brief" })).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&answer["object"], &answer["status"]),
            (&"response".into(), &"completed".into())
        );
        let said = &answer["output"][0]["content"][0];
        assert_eq!((&said["type"], &said["text"]), (&"output_text".into(), &"a b".into()));
        assert_eq!(answer["usage"]["input_tokens"], 4);
        assert_eq!(answer["usage"]["total_tokens"], 6);
    }
    let (_, answer) =
        ask(path, json!({ "model": "m", "input": "a b", "max_output_tokens": 1 })).await;
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn a_streamed_response_is_numbered_and_ends_with_the_whole_of_it() {
    let request = json!({ "model": "m", "input": "one two", "stream": true });
    let mut events = named("/v1/responses", request.clone()).await;
    assert_eq!(
        names(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert!(events.iter().enumerate().all(|(place, (_, data))| data["sequence_number"] == place));
    assert_eq!(events[4].1["delta"], "one ");
    let (_, mut last) = events.pop().unwrap();
    let mut whole = ask("/v1/responses", json!({ "model": "m", "input": "one two" })).await.1;
    for answer in [&mut whole, &mut last["response"]] {
        answer["created_at"] = 0.into();
    }
    assert_eq!(last["response"], whole);

    let mut cut = request;
    cut["max_output_tokens"] = 1.into();
    let events = named("/v1/responses", cut).await;
    assert_eq!(events.last().unwrap().0, "response.incomplete");
}

#[tokio::test]
async fn messages_repeat_the_last_message_of_the_user() {
    let path = "/v1/messages";
    let said = json!([
        { "role": "user", "content": [{ "type": "text", "text": "hello there" }] },
        { "role": "assistant", "content": "{" },
    ]);
    let mut request = json!({
        "model": "m", "messages": said, "max_tokens": 10, "system": [{ "type": "text", "text": "x" }],
    });
    let (status, answer) = ask(path, request.clone()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&answer["type"], &answer["role"]), (&"message".into(), &"assistant".into()));
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "hello there" }]));
    assert_eq!(answer["stop_reason"], "end_turn");
    assert_eq!(
        answer["usage"],
        json!({ "input_tokens": 4, "cache_read_input_tokens": 0, "output_tokens": 2 })
    );

    request["stream"] = true.into();
    request["max_tokens"] = 1.into();
    let events = named(path, request).await;
    assert_eq!(
        names(&events),
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert_eq!(events[0].1["message"]["content"], json!([]));
    assert_eq!(events[2].1["delta"], json!({ "type": "text_delta", "text": "hello " }));
    assert_eq!(events[4].1["delta"]["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn messages_are_refused_in_anthropics_shape() {
    for (request, status, kind) in [
        (json!({ "model": "x", "messages": said("a") }), 404, "not_found_error"),
        (json!({ "model": "m", "messages": [] }), 400, "invalid_request_error"),
        (json!({ "model": "m" }), 422, "invalid_request_error"),
    ] {
        let (answered, answer) = ask("/v1/messages", request).await;
        assert_eq!((answered.as_u16(), &answer["type"]), (status, &"error".into()));
        assert_eq!(answer["error"]["type"], kind);
    }
}

#[tokio::test]
async fn completions_repeat_each_prompt() {
    let (_, answer) = ask("/v1/completions", json!({ "model": "m", "prompt": ["a b", "c"] })).await;
    assert_eq!(answer["choices"][0]["text"], "a b");
    assert_eq!(answer["choices"][1]["text"], "c");
    assert_eq!(answer["choices"][1]["index"], 1);
    let request = json!({ "model": "m", "prompt": "a b", "stream": true, "max_tokens": 1 });
    let (events, done) = stream("/v1/completions", request).await;
    assert!(done);
    assert_eq!(events[0]["choices"][0]["text"], "a ");
    assert_eq!(events[1]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn embeddings_are_lists_or_base64_as_asked() {
    let request = json!({ "model": "m", "input": ["a", "b"], "dimensions": 3 });
    let (_, answer) = ask("/v1/embeddings", request).await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
    assert_eq!(answer["data"][1]["embedding"].as_array().unwrap().len(), 3);
    let request = json!({
        "model": "m", "input": [1, 2], "dimensions": 3, "encoding_format": "base64",
    });
    let (_, answer) = ask("/v1/embeddings", request).await;
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 16, "12 bytes");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_openais_shape() {
    let chat = "/v1/chat/completions";
    let many = json!({ "model": "m", "input": "a", "dimensions": 100_000_000 });
    for (path, request, expected, code) in [
        (chat, json!({ "model": "x", "messages": said("a") }), 404, "model_not_found"),
        (chat, json!({ "model": "m", "messages": [] }), 400, "invalid_request"),
        (chat, json!({ "model": "m" }), 422, "invalid_request"),
        ("/v1/embeddings", many, 400, "invalid_request"),
    ] {
        let (status, answer) = ask(path, request.clone()).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (expected, &code.into()));
        assert_eq!(answer["error"]["type"], "invalid_request_error", "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_come_at_the_pace_that_was_set() {
    let router = engine(&["m"], Duration::from_secs(1)).router();
    let request = json!({ "model": "m", "stream": true, "messages": said("a b c") });
    let began = tokio::time::Instant::now();
    let (_, body) = call(&router, "/v1/chat/completions", &request).await;
    let mut frames = body.into_data_stream();
    let mut at = Vec::new();
    while let Some(frame) = frames.next().await {
        let _: Bytes = frame.unwrap();
        at.push(began.elapsed().as_secs());
    }
    assert_eq!(at, [0, 1, 2, 3, 3, 3], "role, three tokens, finish, end");
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_the_client_leaves() {
    let router = engine(&["m"], Duration::from_secs(1)).router();
    let in_flight = || async {
        let request = Request::get("/health").body(Body::empty()).unwrap();
        let body = router.clone().oneshot(request).await.unwrap().into_body();
        let bytes = body.collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&bytes).unwrap()["in_flight"].clone()
    };
    let request = json!({ "model": "m", "stream": true, "messages": said("a b c d e") });
    let (_, body) = call(&router, "/v1/chat/completions", &request).await;
    let mut frames = body.into_data_stream();
    frames.next().await.unwrap().unwrap();
    assert_eq!(in_flight().await, 1);
    drop(frames);
    assert_eq!(in_flight().await, 0);
}
