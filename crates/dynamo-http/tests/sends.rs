//! How often a request is sent, to which workers, and which answer the client gets then.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Act, Answer, Door, Worker, chat, instance, read_request, send, soon, whole};
use dynamo_http::{FrontendConfig, RouterMode, ServeOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const CHAT: &str = "/v1/chat/completions";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

async fn door(config: &FrontendConfig, urls: &[&str]) -> Door {
    let mut door = Door::with("a", config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for url in urls {
        door.add(&instance("a", "m", "Chat", Some(url)));
    }
    door
}

async fn ask(door: &Door) -> Answer {
    door.post(CHAT, &chat("m")).await
}

fn no_budget() -> FrontendConfig {
    FrontendConfig::new().with_retry_budget(0)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// An engine that answers one request and that the second one ends. Returns its URL.
async fn mortal(ended: &Arc<AtomicUsize>) -> String {
    let (listener, url) = listen().await;
    let ended = ended.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(OK).await.unwrap();
        if read_request(&mut stream).await.is_some() {
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    url
}

async fn ended_by_one_request(config: &FrontendConfig) -> usize {
    let ended = Arc::default();
    let urls = [mortal(&ended).await, mortal(&ended).await, mortal(&ended).await];
    let door = door(config, &urls.each_ref().map(String::as_str)).await;
    for _ in &urls {
        assert_eq!(ask(&door).await.status(), 200);
    }
    assert_eq!(ask(&door).await.status(), 502);
    ended.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_request_that_ends_engines_on_reused_connections_ends_two_of_them_at_most() {
    assert_eq!(ended_by_one_request(&FrontendConfig::new()).await, 2);
}

#[tokio::test]
async fn without_a_retry_budget_a_request_that_ends_engines_ends_one() {
    assert_eq!(ended_by_one_request(&no_budget()).await, 1);
}

#[tokio::test]
async fn without_a_retry_budget_no_request_is_sent_twice() {
    let breaks = [Worker::start([vec![Act::Reset]]).await, Worker::start([vec![Act::Reset]]).await];
    let door = door(&no_budget(), &breaks.each_ref().map(|one| &*one.url)).await;
    for _ in 0..100 {
        assert_eq!(ask(&door).await.status(), 502);
    }
    assert_eq!(breaks.iter().map(Worker::asked).sum::<usize>(), 100);
    let metrics = door.get("/metrics").await.raw;
    let line = r#"resent_requests_total{outcome="over_budget",reason="lost"} 100"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_request_that_is_lost_on_a_reused_connection_is_sent_to_the_same_worker_once_more() {
    let worker = Worker::start([whole("1"), vec![Act::Close], whole("2"), vec![Act::Close]]).await;
    let door = door(&FrontendConfig::new(), &[&worker.url]).await;
    assert_eq!(ask(&door).await.body(), "1");
    assert_eq!(ask(&door).await.body(), "2");
    assert_eq!(ask(&door).await.status(), 502, "lost on a reused connection and on a new one");
    assert_eq!(worker.asked(), 5);
    let metrics = door.get("/metrics").await.raw;
    let line = r#"resent_requests_total{outcome="sent",reason="reused_connection"} 2"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_request_at_a_worker_that_dies_and_still_takes_a_connection_is_served_elsewhere() {
    let dies = Worker::start([whole("1"), vec![Act::Close], vec![Act::Close]]).await;
    let lives = Worker::start([whole("2"), whole("2")]).await;
    let door = door(&FrontendConfig::new(), &[&dies.url, &lives.url]).await;
    let both = [ask(&door).await.body().to_owned(), ask(&door).await.body().to_owned()];
    assert!(both.contains(&"1".to_owned()) && both.contains(&"2".to_owned()), "{both:?}");
    // In turn, so the next one goes to the worker that dies.
    for _ in 0..2 {
        assert_eq!(ask(&door).await.body(), "2");
        if dies.asked() == 2 {
            return;
        }
    }
    panic!("the worker that dies was asked {} times", dies.asked());
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_costs_no_budget() {
    let (listener, url) = listen().await;
    let (close, may_close) = oneshot::channel::<()>();
    let (closed, is_closed) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        read_request(&mut first).await.unwrap();
        first.write_all(OK).await.unwrap();
        may_close.await.unwrap();
        drop(first);
        closed.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        read_request(&mut second).await.unwrap();
        second.write_all(OK).await.unwrap();
    });
    let door = door(&no_budget(), &[&url]).await;
    assert_eq!(ask(&door).await.status(), 200);
    close.send(()).unwrap();
    soon(is_closed).await.unwrap();
    assert_eq!(ask(&door).await.status(), 200);
    let metrics = door.get("/metrics").await.raw;
    let line = r#"resent_requests_total{outcome="over_budget",reason="reused_connection"} 0"#;
    assert!(metrics.contains(line), "{metrics}");
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    vec![send(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"))]
}

#[tokio::test]
async fn a_request_that_a_full_worker_refuses_is_answered_by_a_free_one() {
    for refusal in ["503 Loading", "429 Busy"] {
        let full = Worker::start([answer(refusal, "", "no")]).await;
        let free = Worker::start([whole("{}")]).await;
        let door = door(&FrontendConfig::new(), &[&full.url, &free.url]).await;
        for _ in 0..40 {
            assert_eq!(ask(&door).await.status(), 200, "{refusal}");
        }
        assert!(full.asked() > 0);
        assert_eq!(free.asked(), 40);
        let metrics = door.get("/metrics").await.raw;
        let sent = format!(r#"{{outcome="sent",reason="refused"}} {}"#, full.asked());
        assert!(metrics.contains(&sent), "{metrics}");
    }
}

#[tokio::test]
async fn where_all_workers_refuse_the_client_gets_the_first_answer_as_it_is() {
    let refusals = [("503 Loading", "x-a: 1\r\n", "first"), ("429 Busy", "x-a: 2\r\n", "second")];
    let workers = [
        Worker::start([answer(refusals[0].0, refusals[0].1, refusals[0].2)]).await,
        Worker::start([answer(refusals[1].0, refusals[1].1, refusals[1].2)]).await,
        Worker::start([answer("429 Busy", "", "third")]).await,
    ];
    let door = door(&FrontendConfig::new(), &[&workers[0].url, &workers[1].url]).await;
    let first = ask(&door).await;
    let found = (first.status(), first.header("x-a").unwrap(), first.body());
    let expected = [(503, "1", "first"), (429, "2", "second")];
    assert!(expected.contains(&found), "{}", first.raw);
    assert_eq!((workers[0].asked(), workers[1].asked()), (1, 1));
}

#[tokio::test]
async fn a_refused_request_is_sent_to_two_workers_at_most() {
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(Worker::start([answer("429 Busy", "", "no")]).await);
    }
    let urls: Vec<&str> = workers.iter().map(|one| &*one.url).collect();
    let door = door(&FrontendConfig::new(), &urls).await;
    assert_eq!(ask(&door).await.status(), 429);
    assert_eq!(workers.iter().map(Worker::asked).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_refusal_is_passed_on_where_the_other_worker_gives_no_answer() {
    let kept = answer("429 Busy", "", "kept");
    let large = answer("429 Busy", "", &"x".repeat(70_000));
    for (refusal, is_kept) in [(kept, true), (large, false)] {
        let refuses = Worker::start([refusal]).await;
        let breaks = Worker::start([vec![Act::Reset]]).await;
        let door = door(&FrontendConfig::new(), &[&refuses.url, &breaks.url]).await;
        let answers = [ask(&door).await, ask(&door).await];
        assert!(answers.iter().all(|one| one.status() == 429), "{answers:?}");
        if is_kept {
            assert!(answers.iter().all(|one| one.body() == "kept"), "{answers:?}");
        } else {
            // The request that began at the other worker is answered by the refusal itself.
            assert!(answers.iter().any(|one| one.body().len() == 70_000), "{answers:?}");
            let ours = answers.iter().find(|one| one.body().len() < 70_000).unwrap();
            assert_eq!(ours.code(), "overloaded");
            assert!(ours.header("retry-after").is_some());
        }
    }
}

#[tokio::test]
async fn without_a_retry_budget_or_another_worker_a_refusal_is_passed_on() {
    let full = Worker::start([answer("503 Loading", "", "no")]).await;
    let free = Worker::start([whole("{}")]).await;
    let alone = door(&FrontendConfig::new(), &[&full.url]).await;
    assert_eq!((ask(&alone).await.status(), full.asked()), (503, 1));
    let poor = door(&no_budget(), &[&full.url, &free.url]).await;
    let mut statuses = [ask(&poor).await.status(), ask(&poor).await.status()];
    statuses.sort_unstable();
    assert_eq!((statuses, full.asked(), free.asked()), ([200, 503], 2, 1));
}

#[tokio::test]
async fn a_worker_that_says_how_long_it_is_full_gets_no_request_meanwhile_and_is_not_failing() {
    let full = Worker::start([answer("503 Full", "retry-after: 3600\r\n", "no")]).await;
    let free = Worker::start([whole("{}")]).await;
    let mut door = door(&FrontendConfig::new(), &[&full.url, &free.url]).await;
    for _ in 0..20 {
        assert_eq!(ask(&door).await.status(), 200);
    }
    assert_eq!((full.asked(), free.asked()), (1, 20));
    let health = door.get("/health").await.raw;
    assert!(health.contains(r#""out_of_rotation":"full""#), "{health}");
    // No pause counts where all are paused.
    door.remove(&instance("a", "m", "Chat", Some(&free.url)));
    for _ in 0..20 {
        assert_eq!(ask(&door).await.status(), 503);
    }
    assert_eq!(full.asked(), 21);
    let health = door.get("/health").await.raw;
    assert!(health.contains(r#""out_of_rotation":"full""#), "{health}");
}

#[tokio::test]
async fn a_429_moves_its_own_request_and_pauses_no_worker() {
    let busy = Worker::start([answer("429 Busy", "retry-after: 3600\r\n", "no")]).await;
    let free = Worker::start([whole("{}")]).await;
    let door = door(&FrontendConfig::new(), &[&busy.url, &free.url]).await;
    for _ in 0..20 {
        assert_eq!(ask(&door).await.status(), 200);
    }
    assert_eq!((busy.asked(), free.asked()), (10, 20));
    assert!(!door.get("/health").await.raw.contains("out_of_rotation"));
}

#[tokio::test]
async fn where_all_workers_fail_alike_the_requests_are_at_fault_and_nobody_is_ejected() {
    let fails = || Worker::start([answer("500 Oh", "", "no")]);
    let workers = [fails().await, fails().await, fails().await];
    let door = door(&FrontendConfig::new(), &workers.each_ref().map(|one| &*one.url)).await;
    for _ in 0..60 {
        assert_eq!(ask(&door).await.status(), 500);
    }
    assert_eq!(workers.each_ref().map(Worker::asked), [20; 3]);
    let health = door.get("/health").await.raw;
    assert!(!health.contains("out_of_rotation"), "{health}");
}

#[tokio::test]
async fn a_request_in_line_learns_at_once_that_its_model_has_gone() {
    let busy = Worker::start([vec![Act::AwaitPeer]]).await;
    let limit = FrontendConfig::new().with_worker_concurrency(std::num::NonZeroUsize::new(1));
    let mut door = door(&limit, &[&busy.url]).await;
    let other = Worker::start([whole("{}")]).await;
    door.add(&other.instance("a", "other"));
    let _first = door.begin(common::post(CHAT, &chat("m"))).await;
    busy.until_asked().await;
    let second = door.begin(common::post(CHAT, &chat("m"))).await;
    soon(async {
        while !door.get("/metrics").await.raw.contains("dynamo_frontend_queued_requests 1\n") {}
    })
    .await;
    door.remove(&instance("a", "m", "Chat", Some(&busy.url)));
    let answer = soon(Answer::read(second)).await;
    assert_eq!((answer.status(), &*answer.code()), (503, "model_unavailable"));
}

/// An engine that answers 413 to the head of a request and does not read the body.
struct Refuses {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Refuses {
    /// One that closes the connection then, or one that leaves it open.
    async fn start(closes: bool) -> Self {
        let (listener, url) = listen().await;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                assert_ne!(stream.read(&mut head).await.unwrap(), 0);
                count.fetch_add(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 413 Large\r\ncontent-length: 5\r\n\r\nlarge";
                stream.write_all(answer).await.unwrap();
                if !closes {
                    open.push(stream);
                }
            }
        });
        Self { url, asked }
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_read_is_the_answer_and_nothing_is_resent() {
    let body = format!(r#"{{"model":"m","messages":["{}"]}}"#, "x".repeat(8 << 20));
    for closes in [true, false] {
        let refuses = [Refuses::start(closes).await, Refuses::start(closes).await];
        let config = FrontendConfig::new()
            .with_probe_interval(None)
            .with_router_mode(RouterMode::RoundRobin);
        let door = door(&config, &refuses.each_ref().map(|one| &*one.url)).await;
        for _ in 0..10 {
            let answer = door.post(CHAT, &body).await;
            assert_eq!((answer.status(), answer.body()), (413, "large"), "closes: {closes}");
        }
        assert_eq!(refuses.each_ref().map(|one| one.asked.load(Ordering::SeqCst)), [5, 5]);
        assert!(!door.get("/health").await.raw.contains("out_of_rotation"));
    }
}

#[tokio::test]
async fn a_query_that_is_too_long_below_the_base_path_of_a_worker_is_refused_with_414() {
    let worker = Worker::start([whole("{}")]).await;
    let base = format!("{}/{}", worker.url, "b".repeat(100));
    let options = ServeOptions::new().with_max_header_bytes(128 * 1024);
    let mut door = Door::with("a", &FrontendConfig::new(), options).await;
    door.writer.stage_ready();
    door.add(&instance("a", "m", "Chat", Some(&base)));
    // The longest target that a URI can be.
    let longest = 65_534 - CHAT.len() - 1;
    for (length, status) in [(longest, 414), (longest - base.len(), 200)] {
        let path = format!("{CHAT}?{}", "q".repeat(length));
        assert_eq!(door.post(&path, &chat("m")).await.status(), status, "{length}");
    }
    assert_eq!(worker.asked(), 1);
    assert!(!door.get("/health").await.raw.contains("out_of_rotation"));
}
