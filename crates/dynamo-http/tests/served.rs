//! Which model and which worker an answer comes from: told to middleware, and to no client.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use common::keyed::{ask, listen};
use common::{Door, Worker, chat, nowhere, post, whole};
use dynamo_http::ServeOptions;
use dynamo_http::Served;

const CHAT: &str = "/v1/chat/completions";

/// The model and the worker of each answer, `None` for an answer of the front door's own.
type Log = Arc<Mutex<Vec<Option<(String, String)>>>>;

/// A port on which a middleware around the front door writes a log.
async fn listen_with_log(door: &Door) -> (String, Log) {
    let log = Log::default();
    let writer = log.clone();
    let middleware = from_fn(move |request: Request, next: Next| {
        let log = writer.clone();
        async move {
            let response: Response = next.run(request).await;
            let served = response.extensions().get::<Served>();
            let line = served.map(|one| (one.model().to_owned(), one.worker().to_string()));
            log.lock().unwrap().push(line);
            response
        }
    });
    let router = Router::new().fallback_service(door.frontend.service()).layer(middleware);
    (listen(router, ServeOptions::new()).await, log)
}

#[tokio::test]
async fn a_middleware_around_the_front_door_learns_the_model_and_the_worker_and_no_client_does() {
    let (one, two) = (Worker::start([whole("{}")]).await, Worker::start([whole("{}")]).await);
    let mut door = Door::open("a").await;
    door.add(&one.instance("a", "first"));
    door.add(&two.instance("a", "second"));
    let (address, log) = listen_with_log(&door).await;
    for model in ["first", "second", "unknown"] {
        let answer = ask(&address, post(CHAT, &chat(model))).await;
        assert!(!answer.raw.contains("127.0.0.1"), "{}", answer.raw);
        if model != "unknown" {
            assert_eq!(answer.status(), 200);
            assert!(!answer.raw.contains(model), "{}", answer.raw);
        }
    }
    let expected =
        [Some(("first".into(), one.url.clone())), Some(("second".into(), two.url.clone())), None];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[tokio::test]
async fn the_worker_that_is_told_is_the_one_that_has_answered() {
    let gone = nowhere().await;
    let worker = Worker::start([whole("{}")]).await;
    let mut door = Door::open("a").await;
    door.add(&common::instance("a", "m", "Chat", Some(&gone)));
    door.add(&worker.instance("a", "m"));
    let (address, log) = listen_with_log(&door).await;
    // The turns of two requests begin at different workers, and one of these takes no connection.
    for _ in 0..2 {
        assert_eq!(ask(&address, post(CHAT, &chat("m"))).await.status(), 200);
    }
    let told = Some(("m".to_owned(), worker.url.clone()));
    assert_eq!(*log.lock().unwrap(), [told.clone(), told]);
}

#[tokio::test]
async fn an_answer_of_a_worker_that_is_an_error_says_where_it_comes_from_as_well() {
    let refuses = vec![common::send("HTTP/1.1 422 Wrong\r\ncontent-length: 0\r\n\r\n")];
    let worker = Worker::start([refuses]).await;
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    let (address, log) = listen_with_log(&door).await;
    assert_eq!(ask(&address, post(CHAT, &chat("m"))).await.status(), 422);
    assert_eq!(*log.lock().unwrap(), [Some(("m".to_owned(), worker.url.clone()))]);
}
