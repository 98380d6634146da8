//! Which spans a request becomes.

use std::time::SystemTime;

use http::StatusCode;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The span with this number, as its caller tells it.
fn id(number: u64) -> dynamo_http::SpanId {
    let parent = format!("00-{TRACE}-{number:016x}-01");
    dynamo_http::SpanId::from_traceparent(parent.as_bytes()).unwrap()
}

fn trace(attempts: Vec<TracedAttempt>) -> Trace {
    let parent = format!("00-{TRACE}-{:016x}-01", 1);
    let trace = dynamo_http::TraceId::from_traceparent(parent.as_bytes()).unwrap();
    let mut trace = Trace::new(trace, id(2), Some(id(1)));
    trace.attempts = attempts;
    trace
}

fn attempt(number: u64, began: u64, ended: Option<u64>, status: Option<u16>) -> TracedAttempt {
    let worker = format!("http://192.0.2.{number}:8000/base").parse().unwrap();
    let mut attempt = TracedAttempt::new(id(number), worker, Duration::from_secs(began));
    attempt.ended = ended.map(Duration::from_secs);
    attempt.status = status.map(|status| StatusCode::from_u16(status).unwrap());
    attempt
}

fn record() -> AccessRecord {
    let mut record = AccessRecord::new(SystemTime::UNIX_EPOCH, "POST", "/v1/chat/completions");
    record.model_asked = Some("asked".into());
    record.model_served = Some("served".into());
    record.status = Some(StatusCode::OK);
    record.input_tokens = Some(9);
    record.output_tokens = Some(2);
    record.total = Duration::from_secs(10);
    record.end = AccessEnd::Complete;
    record
}

fn spans(record: &AccessRecord, trace: &Trace) -> Vec<SpanData> {
    let mut spans = Vec::new();
    append(&mut spans, record, trace);
    spans
}

fn value(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.to_string())
}

#[test]
fn a_request_is_a_span_below_its_callers_and_each_attempt_one_below_it() {
    let attempts = vec![attempt(3, 1, Some(2), None), attempt(4, 3, None, Some(200))];
    let spans = spans(&record(), &trace(attempts));
    let [request, first, second] = &spans[..] else { panic!("{spans:?}") };
    let numbers = |span: &SpanData| {
        let number = |id: SpanId| u64::from_be_bytes(id.to_bytes());
        (number(span.span_context.span_id()), number(span.parent_span_id))
    };
    assert_eq!([request, first, second].map(numbers), [(2, 1), (3, 2), (4, 2)]);
    assert!(request.parent_span_is_remote && !first.parent_span_is_remote);
    for span in &spans {
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert!(span.span_context.is_sampled());
    }
    assert_eq!((&*request.name, &*first.name), ("chat served", "POST /v1/chat/completions"));
    assert_eq!((&request.span_kind, &first.span_kind), (&SpanKind::Server, &SpanKind::Client));
    let times = |span: &SpanData| {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (since(span.start_time).as_secs(), since(span.end_time).as_secs())
    };
    assert_eq!([request, first, second].map(times), [(0, 10), (1, 2), (3, 10)]);
    for (name, expected) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "asked"),
        ("gen_ai.response.model", "served"),
        ("gen_ai.usage.input_tokens", "9"),
        ("gen_ai.usage.output_tokens", "2"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(value(request, name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(value(request, "error.type"), None);
    assert_eq!(value(first, "error.type").as_deref(), Some("no_answer"));
    assert_eq!(
        (value(first, "http.request.resend_count"), first.status.clone()),
        (None, Status::error(""))
    );
    assert_eq!(value(second, "http.request.resend_count").as_deref(), Some("1"));
    assert_eq!(value(second, "server.address").as_deref(), Some("192.0.2.4"));
    assert_eq!(
        value(second, "url.full").as_deref(),
        Some("http://192.0.2.4:8000/base/v1/chat/completions")
    );
    assert_eq!((value(second, "error.type"), second.status.clone()), (None, Status::Unset));
}

#[test]
fn a_failure_is_told_by_its_kind_and_a_client_that_left_is_none() {
    let one = || vec![attempt(3, 0, None, Some(200))];
    let mut cut = record();
    cut.end = AccessEnd::Cut;
    let told = spans(&cut, &trace(one()));
    for span in &told {
        assert_eq!(value(span, "error.type").as_deref(), Some("cut"));
        assert_eq!(span.status, Status::error(""));
    }
    let mut left = record();
    left.end = AccessEnd::ClientGone;
    let told = spans(&left, &trace(one()));
    assert_eq!(value(&told[0], "error.type").as_deref(), Some("client_gone"));
    assert_eq!([&told[0].status, &told[1].status], [&Status::Unset, &Status::Unset]);
    let mut refused = record();
    refused.status = Some(StatusCode::NOT_FOUND);
    refused.error = Some("model_not_found".into());
    refused.model_served = None;
    let told = spans(&refused, &trace(Vec::new()));
    assert_eq!((told.len(), &*told[0].name), (1, "chat"), "no name that a client made up");
    assert_eq!(value(&told[0], "error.type").as_deref(), Some("model_not_found"));
    assert_eq!(told[0].status, Status::Unset, "it is the client's");
}

#[test]
fn each_route_has_an_operation() {
    for (path, expected) in [
        ("/v1/messages", "chat"),
        ("/v1/responses", "chat"),
        ("/v1/completions", "text_completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/rerank", "rerank"),
    ] {
        assert_eq!(operation(path), expected);
    }
}
