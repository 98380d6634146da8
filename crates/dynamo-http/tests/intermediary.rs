//! A front door among other intermediaries: versions of HTTP, framing, loops, ids, buffering proxies.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use common::{
    Act, Answer, Door, STREAM_HEAD, Worker, chat, chunk, instance, post, send, soon, whole,
};
use dynamo_http::{FrontendConfig, ServeOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CHAT: &str = "/v1/chat/completions";

async fn door(worker: &Worker) -> Door {
    let mut door = Door::open("a").await;
    door.add(&worker.instance("a", "m"));
    door
}

#[tokio::test]
async fn a_worker_that_answers_http_1_0_costs_the_client_neither_its_version_nor_its_connection() {
    let old = "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{}";
    let worker = Worker::start([vec![send(old), Act::Close]]).await;
    let door = door(&worker).await;
    let request = post(CHAT, &chat("m")).replace("connection: close\r\n", "");
    let mut client = door.begin(&request).await;
    for is_last in [false, true] {
        let mut answer = String::new();
        while !answer.ends_with("0\r\n\r\n") {
            let mut piece = [0; 1024];
            let read = soon(client.read(&mut piece)).await.unwrap();
            assert_ne!(read, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("transfer-encoding: chunked\r\n"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        if !is_last {
            client.write_all(request.as_bytes()).await.unwrap();
        }
    }
    assert_eq!(worker.asked(), 2);
}

#[tokio::test]
async fn a_stream_of_a_worker_with_http_1_0_that_breaks_does_not_end_cleanly() {
    let old = "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n";
    let worker = Worker::start([vec![send(old), Act::Close]]).await;
    let door = door(&worker).await;
    let answer = door.post(CHAT, &chat("m")).await;
    assert!(answer.raw.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.raw);
    assert!(answer.body().contains("bad_gateway") && !answer.is_whole(), "{}", answer.raw);
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_cut_an_answer() {
    let head = STREAM_HEAD.replace("\r\n\r\n", "\r\ncontent-length: 3\r\n\r\n");
    let events = "data: 1\n\ndata: [DONE]\n\n";
    let worker = Worker::start([vec![send(format!("{head}{}0\r\n\r\n", chunk(events)))]]).await;
    let answer = door(&worker).await.post(CHAT, &chat("m")).await;
    assert_eq!(answer.header("content-length"), None);
    assert!(answer.is_whole() && answer.body().contains(events), "{}", answer.raw);
}

#[tokio::test]
async fn no_buffering_proxy_holds_an_event_stream_back() {
    let stream = format!("{STREAM_HEAD}{}0\r\n\r\n", chunk("data: [DONE]\n\n"));
    let told = stream.replacen(
        "\r\n\r\n",
        "\r\ncache-control: no-store\r\nx-accel-buffering: yes\r\n\r\n",
        1,
    );
    let scripts = [vec![send(stream)], vec![send(told)], whole("{}")];
    let worker = Worker::start(scripts).await;
    let door = door(&worker).await;
    let both = |answer: &Answer| {
        ["cache-control", "x-accel-buffering"].map(|name| answer.header(name).map(str::to_owned))
    };
    let told = |values: [&str; 2]| values.map(|value| Some(value.to_owned()));
    assert_eq!(both(&door.post(CHAT, &chat("m")).await), told(["no-cache", "no"]));
    assert_eq!(both(&door.post(CHAT, &chat("m")).await), told(["no-store", "yes"]));
    assert_eq!(both(&door.post(CHAT, &chat("m")).await), [None, None], "no stream");
}

#[tokio::test]
async fn a_worker_url_that_leads_back_to_the_front_door_is_found_by_one_request_and_blames_nobody()
{
    let mut door = Door::open("a").await;
    let itself = format!("http://{}", door.address);
    door.add(&instance("a", "m", "Chat", Some(&itself)));
    for _ in 0..10 {
        let answer = door.post(CHAT, &chat("m")).await;
        assert_eq!((answer.status(), &*answer.code()), (508, "loop_detected"));
    }
    let metrics = door.get("/metrics").await.raw;
    // Each came in twice: from its client, and from the front door.
    let line = r#"requests_total{code="508",endpoint="chat_completions",model="unknown_model""#;
    let count = metrics.lines().find(|one| one.contains(line)).unwrap();
    assert!(count.ends_with(" 10"), "{count}");
    assert!(!door.get("/health").await.raw.contains("out_of_rotation"));
}

#[tokio::test]
async fn two_front_doors_one_behind_the_other_are_no_loop() {
    let worker = Worker::start([whole("{}")]).await;
    let inner = door(&worker).await;
    let mut outer = Door::open("a").await;
    let url = format!("http://{}", inner.address);
    outer.add(&instance("a", "m", "Chat", Some(&url)));
    assert_eq!(outer.post(CHAT, &chat("m")).await.status(), 200);
    assert_eq!(worker.requests.lock().unwrap()[0].matches("via: 1.1 dynamo-").count(), 2);
}

#[tokio::test]
async fn each_attempt_has_an_id_of_its_own_and_the_client_gets_its_own_back() {
    let workers =
        [Worker::start([vec![Act::Reset]]).await, Worker::start([vec![Act::Reset]]).await];
    let mut door = Door::with("a", &FrontendConfig::new(), ServeOptions::default()).await;
    door.writer.stage_ready();
    for worker in &workers {
        door.add(&worker.instance("a", "m"));
    }
    let request = post(CHAT, &chat("m")).replace("host: d", "host: d\r\nx-request-id: mine");
    let answer = door.ask(request).await;
    assert_eq!((answer.status(), answer.header("x-request-id")), (502, Some("mine")));
    let seen = workers.each_ref().map(|worker| worker.requests.lock().unwrap()[0].clone());
    let ids = seen.each_ref().map(|request| {
        assert!(request.contains("x-client-request-id: mine\r\n"), "{request}");
        let id = request.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        assert_eq!(id.len(), 36, "a UUID");
        id
    });
    assert_ne!(ids[0], ids[1]);
}
