//! Workers that fail, vanish, stall or are busy: who gets a request then, and who is left out.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use common::{Act, Answer, Door, SOON, Worker, chat, instance, nowhere, post, send, soon, whole};
use dynamo_http::{FrontendConfig, RouterMode, ServeOptions};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

const CHAT: &str = "/v1/chat/completions";

async fn door(change: impl FnOnce(FrontendConfig) -> FrontendConfig, workers: &[&Worker]) -> Door {
    let mut door = Door::with("a", &change(FrontendConfig::new()), ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for worker in workers {
        door.add(&worker.instance("a", "m"));
    }
    door
}

async fn ask(door: &Door) -> Answer {
    door.post(CHAT, &chat("m")).await
}

/// Asks until `done` says so.
async fn ask_until(what: &str, door: &Door, done: impl Fn(&Answer) -> bool) {
    let began = Instant::now();
    while !done(&ask(door).await) {
        assert!(began.elapsed() < SOON, "{what}: not in time");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Why instances are out of rotation, as the health page says.
async fn out(door: &Door) -> Vec<String> {
    let health = door.get("/health").await.json();
    let reasons = health["instances"].as_array().unwrap().iter();
    reasons.filter_map(|one| Some(one["out_of_rotation"].as_str()?.to_owned())).collect()
}

async fn until_out(door: &Door, reasons: &[&str]) {
    let began = Instant::now();
    while out(door).await != reasons {
        assert!(began.elapsed() < SOON, "{:?} are out, not {reasons:?}", out(door).await);
        sleep(Duration::from_millis(20)).await;
    }
}

fn status(status: &str) -> Vec<Act> {
    vec![send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))]
}

#[tokio::test]
async fn a_worker_that_refuses_what_clients_ask_stays_in_rotation() {
    for refusal in ["400 Bad", "404 None", "422 Wrong", "501 Not Here"] {
        let (refuses, serves) =
            (Worker::start([status(refusal)]).await, Worker::start([whole("{}")]).await);
        let door = door(|config| config, &[&refuses, &serves]).await;
        for _ in 0..20 {
            ask(&door).await;
        }
        assert_eq!((refuses.asked(), serves.asked()), (10, 10), "{refusal}");
        assert_eq!(out(&door).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_worker_whose_answers_fail_is_left_out_until_a_trial_succeeds() {
    let mut scripts = vec![status("500 Oh"); 5];
    scripts.push(whole("well"));
    let (fails, serves) = (Worker::start(scripts).await, Worker::start([whole("{}")]).await);
    let door = door(|config| config, &[&fails, &serves]).await;
    for _ in 0..30 {
        ask(&door).await;
    }
    assert_eq!(fails.asked(), 5);
    assert_eq!(out(&door).await, ["failing"]);
    let metrics = door.get("/metrics").await.raw;
    assert!(metrics.contains(r#"worker_ejections_total{reason="failing"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"instances_out_of_rotation{reason="failing"} 1"#), "{metrics}");
    ask_until("a trial", &door, |answer| answer.body() == "well").await;
    assert_eq!(out(&door).await, [""; 0]);
}

#[tokio::test]
async fn a_worker_that_takes_no_connection_is_left_out_until_it_does() {
    let url = nowhere().await;
    let serves = Worker::start([whole("{}")]).await;
    let mut door = door(|config| config, &[&serves]).await;
    door.add(&instance("a", "m", "Chat", Some(&url)));
    for _ in 0..10 {
        assert_eq!(ask(&door).await.status(), 200);
    }
    assert_eq!(out(&door).await, ["unreachable"]);
    let back = TcpListener::bind(url.strip_prefix("http://").unwrap()).await.unwrap();
    let back = Worker::on(back, [whole("back")]);
    ask_until("it is back", &door, |answer| answer.body() == "back").await;
    assert!(back.asked() > 0);
}

#[tokio::test]
async fn a_request_at_a_worker_that_answers_nothing_any_more_goes_elsewhere() {
    // It takes connections, as the kernel does for a process that is stopped.
    let stopped = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", stopped.local_addr().unwrap());
    let serves = Worker::start([whole("{}")]).await;
    let mut door = door(|config| config, &[&serves]).await;
    door.add(&instance("a", "m", "Chat", Some(&url)));
    let (one, other) = tokio::join!(ask(&door), ask(&door));
    assert_eq!((one.status(), other.status()), (200, 200));
    assert_eq!(serves.asked(), 2);
    assert_eq!(out(&door).await, ["unresponsive"]);
    let metrics = door.get("/metrics").await.raw;
    assert!(
        metrics.contains(r#"resent_requests_total{outcome="sent",reason="unresponsive"} 1"#),
        "{metrics}"
    );
    drop(stopped);
    until_out(&door, &["unreachable"]).await;
}

#[tokio::test]
async fn a_request_at_a_busy_worker_that_answers_probes_is_waited_for() {
    let done = Arc::new(Notify::new());
    let busy = Worker::start([vec![Act::Await(done.clone()), whole("slow").remove(0)]]).await;
    let mut door = door(|config| config, &[&busy]).await;
    let waiting = door.begin(post(CHAT, &chat("m"))).await;
    busy.until_asked().await;
    let idle = Worker::start([whole("{}")]).await;
    door.add(&idle.instance("a", "m"));
    // Each answer to a probe is a sign of life, so the request is never given up.
    busy.until_probed(8).await;
    assert_eq!(out(&door).await, [""; 0]);
    done.notify_one();
    assert_eq!(soon(Answer::read(waiting)).await.body(), "slow");
    assert_eq!((busy.asked(), idle.asked()), (1, 0));
}

#[tokio::test]
async fn a_model_whose_only_worker_is_out_of_rotation_is_still_served() {
    let fails = Worker::start([status("500 Oh")]).await;
    let door = door(|config| config, &[&fails]).await;
    for _ in 0..20 {
        assert_eq!(ask(&door).await.status(), 500);
    }
    assert_eq!(fails.asked(), 20);
}

#[tokio::test]
async fn when_all_workers_break_requests_are_not_doubled_for_long() {
    let breaks = [Worker::start([vec![Act::Reset]]).await, Worker::start([vec![Act::Reset]]).await];
    let workers: Vec<_> = breaks.iter().collect();
    let began = Instant::now();
    let door = door(|config| config.with_retry_budget(1), &workers).await;
    for _ in 0..300 {
        assert_eq!(ask(&door).await.status(), 502);
    }
    let resent: usize = workers.iter().map(|worker| worker.asked()).sum::<usize>() - 300;
    let allowed = 103 + 10 * (began.elapsed().as_secs() as usize + 1);
    assert!((100..=allowed).contains(&resent), "{resent} of 300 were sent again");
}

#[tokio::test]
async fn requests_above_a_workers_limit_wait_in_line_and_too_many_are_refused() {
    let done = Arc::new(Notify::new());
    let worker = Worker::start([vec![Act::Await(done.clone()), whole("{}").remove(0)]]).await;
    let change = |config: FrontendConfig| {
        config.with_worker_concurrency(NonZeroUsize::new(1)).with_queue_depth(1)
    };
    let door = door(change, &[&worker]).await;
    let first = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    let second = door.begin(post(CHAT, &chat("m"))).await;
    until_queued(&door, 1).await;

    let third = ask(&door).await;
    assert_eq!((third.status(), &*third.code()), (429, "queue_full"));
    assert_eq!(third.json()["error"]["type"], "rate_limit_error");
    assert!(third.header("retry-after").is_some());

    assert_eq!(worker.asked(), 1);
    for waiting in [first, second] {
        done.notify_one();
        assert_eq!(soon(Answer::read(waiting)).await.status(), 200);
    }
    until_queued(&door, 0).await;
}

#[tokio::test]
async fn a_request_that_waited_too_long_in_line_is_told_to_come_back() {
    let worker = Worker::start([vec![Act::AwaitPeer]]).await;
    let change = |config: FrontendConfig| {
        let timeout = Duration::from_millis(50);
        config.with_worker_concurrency(NonZeroUsize::new(1)).with_queue_timeout(timeout)
    };
    let door = door(change, &[&worker]).await;
    let _first = door.begin(post(CHAT, &chat("m"))).await;
    worker.until_asked().await;
    let second = ask(&door).await;
    assert_eq!((second.status(), &*second.code()), (503, "queue_timeout"));
    assert!(second.header("retry-after").is_some());
}

#[tokio::test]
async fn who_waits_in_line_is_served_by_a_worker_that_comes() {
    let full = Worker::start([vec![Act::AwaitPeer]]).await;
    let limit = |config: FrontendConfig| config.with_worker_concurrency(NonZeroUsize::new(1));
    let mut door = door(limit, &[&full]).await;
    let _first = door.begin(post(CHAT, &chat("m"))).await;
    full.until_asked().await;
    let second = door.begin(post(CHAT, &chat("m"))).await;
    until_queued(&door, 1).await;
    let comes = Worker::start([whole("came")]).await;
    door.add(&comes.instance("a", "m"));
    assert_eq!(soon(Answer::read(second)).await.body(), "came");
}

async fn until_queued(door: &Door, count: usize) {
    let began = Instant::now();
    let line = format!("dynamo_frontend_queued_requests {count}\n");
    while !door.get("/metrics").await.raw.contains(&line) {
        assert!(began.elapsed() < SOON, "{count} are not in line");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_session_stays_with_its_worker_whether_a_header_or_the_body_names_it() {
    let names = ["0", "1", "2", "3"];
    let mut workers = Vec::new();
    for name in names {
        workers.push(Worker::start([whole(name)]).await);
    }
    let workers: Vec<_> = workers.iter().collect();
    let affinity = |config: FrontendConfig| config.with_router_mode(RouterMode::Affinity);
    let door = door(affinity, &workers).await;
    let in_session = |header: &str, session: u32, body: String| {
        post(CHAT, &body).replace("host: d", &format!("host: d\r\n{header}: {session}"))
    };
    type Request<'a> = &'a dyn Fn(u32, u32) -> String;
    // Each has a key, and something else that differs.
    let requests: [Request<'_>; 4] = [
        &|key, n| {
            let body = format!(r#"{{"model":"m","prompt_cache_key":"{n}","messages":[{n}]}}"#);
            in_session("X-Session-Id", key, body)
        },
        &|key, n| in_session("session_id", key, format!(r#"{{"model":"m","user":"{n}"}}"#)),
        &|key, n| {
            post(CHAT, &format!(r#"{{"model":"m","user":"u","n":{n},"prompt_cache_key":"{key}"}}"#))
        },
        &|key, n| {
            let conversation = format!(r#"{{"id":"{key}"}}"#);
            post(CHAT, &format!(r#"{{"model":"m","n":{n},"conversation":{conversation}}}"#))
        },
    ];
    for request in requests {
        let mut homes = std::collections::BTreeSet::new();
        for key in 0..24 {
            let home = door.ask(request(key, 0)).await.body().to_owned();
            for n in 1..4 {
                assert_eq!(door.ask(request(key, n)).await.body(), home);
            }
            homes.insert(home);
        }
        assert!(homes.len() > 1, "all at {homes:?}");
    }
}
