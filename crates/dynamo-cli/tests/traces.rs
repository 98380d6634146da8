//! Traces, sent to a collector that reads them.

#![expect(clippy::unwrap_used, reason = "it is a test")]

mod process;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use process::{FRONTEND, agent, echo_engine, finish, free_port, ready_frontend, sample, until};
use prost::Message as _;
use serde_json::json;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector that keeps what it is sent.
struct Collector {
    url: String,
    /// The head and the content of each request.
    taken: Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::<Mutex<Vec<_>>>::default();
        let told = taken.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let request = read(&mut stream.unwrap());
                told.lock().unwrap().push(request);
            }
        });
        Self { url, taken }
    }

    /// All spans, once there are so many.
    fn spans(&self, count: usize) -> Vec<Span> {
        let all = || {
            let taken = self.taken.lock().unwrap();
            let resources = taken.iter().flat_map(|(_, request)| &request.resource_spans);
            let scopes = resources.flat_map(|resource| &resource.scope_spans);
            scopes.flat_map(|scope| scope.spans.clone()).collect::<Vec<_>>()
        };
        until("the spans are there", || all().len() >= count);
        all()
    }
}

fn read(stream: &mut TcpStream) -> (String, ExportTraceServiceRequest) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    (head, ExportTraceServiceRequest::decode(&body[..]).unwrap())
}

fn chat(base: &str, flags: &str) -> u16 {
    let body =
        json!({ "model": "m", "messages": [{ "role": "user", "content": "a secret word" }] });
    let request = agent()
        .post(format!("{base}/v1/chat/completions"))
        .header("traceparent", format!("00-{TRACE}-{SPAN}-{flags}"));
    let mut answer = request.send_json(body).unwrap();
    answer.body_mut().read_to_string().unwrap();
    answer.status().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let text = |value: &AnyValue| match value.value.clone().unwrap() {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |one: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        (one.key.clone(), text(one.value.as_ref().unwrap()))
    };
    span.attributes.iter().map(pair).collect()
}

const LOST: &str = "dynamo_frontend_traced_requests_lost_total{reason=\"export_failed\"}";

#[test]
fn a_sampled_request_reaches_the_collector_with_its_attempt() {
    let collector = Collector::start();
    let (_worker, engine) = echo_engine();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a%20b"),
        ("OTEL_SERVICE_NAME", "door"),
    ];
    let (frontend, base, admin) = ready_frontend(&engine, &[], &variables);
    assert_eq!(sample(&admin, LOST), 0, "it exists from the start");
    assert_eq!((chat(&base, "00"), chat(&base, "01")), (200, 200));
    let spans = collector.spans(2);
    let [request, attempt] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.into(), SPAN.into()));
    assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&request.trace_id, &request.span_id));
    assert_eq!((&*request.name, &*attempt.name), ("chat m", "POST /v1/chat/completions"));
    assert!(request.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= request.end_time_unix_nano);
    let of_request = attributes(request);
    assert_eq!(of_request["gen_ai.operation.name"], "chat");
    assert_eq!(of_request["gen_ai.request.model"], "m");
    assert!(of_request["gen_ai.usage.output_tokens"].parse::<u64>().unwrap() > 0);
    assert_eq!(of_request["http.response.status_code"], "200");
    assert!(attributes(attempt)["url.full"].starts_with(&engine));
    {
        let taken = collector.taken.lock().unwrap();
        let (head, sent) = &taken[0];
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("x-team: a b\r\n"), "{head}");
        let resource = sent.resource_spans[0].resource.clone().unwrap();
        let name = resource.attributes.iter().find(|one| one.key == "service.name").unwrap();
        assert!(format!("{name:?}").contains("door"));
        assert!(!format!("{taken:?}").contains("secret"), "no word of a prompt");
    }
    until("it is counted", || sample(&admin, "dynamo_frontend_traced_requests_total") == 1);
    // The last ones are sent before the program ends.
    assert_eq!(chat(&base, "01"), 200);
    frontend.signal("TERM");
    assert_eq!(frontend.end().code, 0);
    assert_eq!(collector.spans(4).len(), 4, "one that is not sampled is none");
}

#[test]
fn a_collector_that_is_away_or_stands_still_costs_nothing_but_the_traces() {
    let (_worker, engine) = echo_engine();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    // It takes connections, and answers nothing.
    let still = TcpListener::bind("127.0.0.1:0").unwrap();
    let stands_still = format!("http://{}", still.local_addr().unwrap());
    for (endpoint, timeout) in
        [(&nobody, "10000"), (&stands_still, "50"), (&stands_still, "600000")]
    {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", timeout),
        ];
        let (frontend, base, admin) = ready_frontend(&engine, &[], &variables);
        (0..50).for_each(|_| assert_eq!(chat(&base, "01"), 200));
        if timeout != "600000" {
            until("they are counted", || sample(&admin, LOST) == 50);
            let line = "traces are lost: the collector does not take them";
            assert_eq!(frontend.logged().matches(line).count(), 1, "once for an outage");
        }
        frontend.signal("TERM");
        assert_eq!(frontend.end().code, 0);
    }
}

#[test]
fn a_setting_that_means_nothing_ends_the_program_with_one_line() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    for (variable, expected) in [
        (("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), "expected http/protobuf"),
        (("OTEL_TRACES_SAMPLER", "always_on"), "expected parentbased_always_on"),
    ] {
        let ended = finish(FRONTEND, &[], &[endpoint, variable]);
        assert_eq!(ended.code, 2);
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains(expected), "{last}");
    }
}
