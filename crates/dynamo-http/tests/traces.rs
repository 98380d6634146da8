//! Requests as parts of traces: what workers are told, and what becomes a span.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use common::{Act, Door, Worker, chat, post, send, soon, whole};
use dynamo_http::{
    AccessEnd, AccessLog, AccessRecord, FrontendConfig, RouterMode, ServeOptions, Trace, Traces,
};
use tokio::sync::mpsc;

const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

type Told = mpsc::UnboundedReceiver<(Box<AccessRecord>, Box<Trace>)>;

fn traced(root_share: f64) -> (FrontendConfig, Told) {
    let (sender, told) = mpsc::unbounded_channel();
    let traces = Traces::new(move |record, trace| drop(sender.send((record, trace))));
    let config = FrontendConfig::new().with_traces(Some(traces.with_root_share(root_share)));
    (config.with_router_mode(RouterMode::RoundRobin), told)
}

async fn door(config: &FrontendConfig, workers: &[&Worker]) -> Door {
    let mut door = Door::with("a", config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    for worker in workers {
        door.add(&worker.instance("a", "m"));
    }
    door
}

fn with(headers: &str) -> String {
    post(CHAT, &chat("m")).replacen("host: d\r\n", &format!("host: d\r\n{headers}"), 1)
}

fn parent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{SPAN}-{flags}\r\ntracestate: vendor=1\r\n")
}

/// The values of a header in the last request of a worker.
fn sent(worker: &Worker, name: &str) -> Vec<String> {
    let requests = worker.requests.lock().unwrap();
    let lines = requests.last().unwrap().lines();
    let values = lines.filter_map(|line| line.strip_prefix(&format!("{name}: ")));
    values.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_sampled_request_is_a_span_of_its_parents_trace_and_its_worker_a_child_of_the_attempt() {
    let (config, mut told) = traced(0.0);
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&config, &[&worker]).await;
    door.ask(with(&parent("01"))).await;
    let (record, trace) = soon(told.recv()).await.unwrap();
    assert_eq!(trace.trace_id.as_str(), TRACE);
    assert_eq!(trace.parent.unwrap().as_str(), SPAN);
    assert_eq!(record.trace_id, Some(trace.trace_id));
    assert_eq!((record.status.unwrap().as_u16(), record.end), (200, AccessEnd::Complete));
    let [attempt] = &trace.attempts[..] else { panic!("{trace:?}") };
    assert_eq!(attempt.worker.as_str(), worker.url);
    assert_eq!((attempt.status.unwrap().as_u16(), attempt.ended), (200, None));
    assert!(attempt.began <= record.total);
    let child = format!("00-{TRACE}-{}-01", attempt.span_id.as_str());
    assert_eq!(sent(&worker, "traceparent"), [child]);
    assert_eq!(sent(&worker, "tracestate"), ["vendor=1"]);
    assert!(![SPAN, trace.span_id.as_str()].contains(&attempt.span_id.as_str()));
}

#[tokio::test]
async fn a_request_that_its_caller_does_not_sample_is_no_span_and_passes_as_it_came() {
    let (config, mut told) = traced(1.0);
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&config, &[&worker]).await;
    door.ask(with(&parent("00"))).await;
    assert_eq!(sent(&worker, "traceparent"), [format!("00-{TRACE}-{SPAN}-00")]);
    // The next one is the first that is told.
    door.ask(with(&parent("01"))).await;
    soon(told.recv()).await.unwrap();
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_request_without_a_parent_begins_a_trace_or_tells_its_worker_that_it_does_not() {
    let worker = Worker::start([whole("{}")]).await;
    let (config, mut told) = traced(1.0);
    let all = door(&config, &[&worker]).await;
    all.ask(with("")).await;
    let (_, trace) = soon(told.recv()).await.unwrap();
    assert_eq!(trace.parent, None);
    assert!(
        sent(&worker, "traceparent")[0].starts_with(&format!("00-{}-", trace.trace_id.as_str()))
    );
    let (config, _told) = traced(0.0);
    let none = door(&config, &[&worker]).await;
    none.ask(with("")).await;
    assert!(sent(&worker, "traceparent")[0].ends_with("-00"));
}

#[tokio::test]
async fn each_attempt_is_a_span_of_its_own() {
    let (config, mut told) = traced(1.0);
    let (busy, dead) =
        (Worker::start([vec![send(BUSY)]]).await, Worker::start([vec![Act::Close]]).await);
    let door = door(&config, &[&busy, &dead]).await;
    for _ in 0..2 {
        door.ask(with(&parent("01"))).await;
        let (record, trace) = soon(told.recv()).await.unwrap();
        assert_eq!(record.attempts as usize, trace.attempts.len());
        assert!(trace.attempts.len() >= 2, "{trace:?}");
        for attempt in &trace.attempts {
            let status = attempt.status.map(|status| status.as_u16());
            let expected = (attempt.worker.as_str() == busy.url).then_some(503);
            assert_eq!(status, expected, "{trace:?}");
        }
        let ended = trace.attempts.iter().filter(|attempt| attempt.ended.is_some()).count();
        assert!(ended >= trace.attempts.len() - 1, "{trace:?}");
    }
}

#[tokio::test]
async fn an_access_log_is_told_the_trace_that_a_request_has_begun() {
    let (config, mut told) = traced(1.0);
    let (sender, mut logged) = mpsc::unbounded_channel();
    let log = AccessLog::new(move |record| drop(sender.send(record)));
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&config.with_access_log(Some(log)), &[&worker]).await;
    door.ask(with("")).await;
    let (of_trace, trace) = soon(told.recv()).await.unwrap();
    let of_log = soon(logged.recv()).await.unwrap();
    assert_eq!(of_log.trace_id, Some(trace.trace_id));
    assert_eq!(format!("{of_log:?}"), format!("{of_trace:?}"));
}

#[tokio::test]
async fn without_traces_the_header_passes_as_it_came() {
    let worker = Worker::start([whole("{}")]).await;
    let door = door(&FrontendConfig::new(), &[&worker]).await;
    door.ask(with(&parent("01"))).await;
    assert_eq!(sent(&worker, "traceparent"), [format!("00-{TRACE}-{SPAN}-01")]);
    door.ask(with("")).await;
    assert!(sent(&worker, "traceparent").is_empty());
}
