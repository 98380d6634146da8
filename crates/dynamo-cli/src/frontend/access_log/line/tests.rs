//! Lines, read back by a parser of JSON.

use dynamo_http::{AccessEnd, Priority, TraceId};
use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn line(record: &AccessRecord) -> String {
    let mut line = Vec::new();
    append(&mut line, record);
    String::from_utf8(line).unwrap()
}

fn parsed(record: &AccessRecord) -> Value {
    let line = line(record);
    assert_eq!(line.find('\n'), Some(line.len() - 1), "it is one line: {line}");
    serde_json::from_str(&line).unwrap()
}

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

#[test]
fn a_request_of_which_nothing_is_known_has_every_field() {
    let record = AccessRecord::new(at(0), "POST", "/v1/embeddings");
    let expected = json!({
        "time": "1970-01-01T00:00:00.000Z", "peer": null, "request_id": null, "trace_id": null,
        "key": null, "namespace": null, "model": null, "model_served": null, "method": "POST",
        "route": "/v1/embeddings", "worker": null, "status": null, "error": null, "stream": false,
        "bytes_in": 0, "bytes_out": 0, "priority": null, "queue_ms": 0, "ttft_ms": null, "gap_ms": 0, "total_ms": 0,
        "tokens_in": null, "tokens_cached": null, "tokens_out": null, "tokens_estimated": false,
        "attempts": 0, "outcome": "client_gone",
    });
    assert_eq!(parsed(&record), expected);
}

#[test]
fn a_request_of_which_all_is_known_has_every_value() {
    let mut record = AccessRecord::new(at(1_769_850_300_250), "POST", "/v1/chat/completions");
    record.client = Some("192.0.2.7".parse().unwrap());
    record.request_id = Some("r-1".into());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    record.trace_id = TraceId::from_traceparent(trace.as_bytes());
    record.key = Some("team-a".into());
    record.namespace = Some("a-1".parse().unwrap());
    record.model_asked = Some("gpt-4o".into());
    record.model_served = Some("Qwen/Qwen3-32B".into());
    record.worker = Some("http://192.0.2.9:8000".parse().unwrap());
    record.status = Some(StatusCode::OK);
    record.stream = true;
    (record.bytes_in, record.bytes_out) = (120, 4096);
    record.priority = Some(Priority::Bulk);
    record.queued = Duration::from_micros(1_500);
    record.first_token = Some(Duration::from_micros(250_007));
    record.largest_gap = Duration::from_micros(40_040);
    record.total = Duration::from_secs(3);
    record.input_tokens = Some(9);
    record.cached_tokens = Some(8);
    record.output_tokens = Some(u64::MAX);
    record.is_estimated = true;
    record.attempts = 2;
    record.end = AccessEnd::Complete;
    let expected = json!({
        "time": "2026-01-31T09:05:00.250Z", "peer": "192.0.2.7", "request_id": "r-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "key": "team-a", "namespace": "a-1",
        "model": "gpt-4o", "model_served": "Qwen/Qwen3-32B", "method": "POST",
        "route": "/v1/chat/completions", "worker": "http://192.0.2.9:8000", "status": 200,
        "error": null, "stream": true, "bytes_in": 120, "bytes_out": 4096, "priority": "bulk", "queue_ms": 1.5,
        "ttft_ms": 250.007, "gap_ms": 40.04, "total_ms": 3000, "tokens_in": 9, "tokens_cached": 8,
        "tokens_out": u64::MAX, "tokens_estimated": true, "attempts": 2, "outcome": "complete",
    });
    assert_eq!(parsed(&record), expected);
}

#[test]
fn times_are_those_of_the_calendar() {
    for (seconds, expected) in [
        (951_782_399, "2000-02-28T23:59:59.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (951_868_800, "2000-03-01T00:00:00.000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000Z"),
        (1_735_689_600, "2025-01-01T00:00:00.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000Z"),
    ] {
        let record = AccessRecord::new(at(seconds * 1000), "GET", "/");
        assert_eq!(parsed(&record)["time"], expected);
    }
    // A clock before its epoch is wrong, and no reason to fail.
    let record = AccessRecord::new(UNIX_EPOCH - Duration::from_secs(1), "GET", "/");
    assert_eq!(parsed(&record)["time"], "1970-01-01T00:00:00.000Z");
}

#[test]
fn no_text_of_a_client_leaves_its_field_or_its_line() {
    for hostile in [
        "\n",
        "\r\n{\"key\":\"team-b\"}",
        "\",\"key\":\"team-b",
        "\\",
        "\\\"",
        "\u{2028}",
        "\0\u{7f}",
    ] {
        let mut record = AccessRecord::new(at(0), hostile.to_owned(), hostile.to_owned());
        record.model_asked = Some(hostile.into());
        record.model_served = Some(hostile.into());
        record.request_id = Some(hostile.into());
        let parsed = parsed(&record);
        for field in ["method", "route", "model", "model_served", "request_id"] {
            assert_eq!(parsed[field], hostile, "{field}");
        }
        assert_eq!(parsed["key"], Value::Null);
    }
}

proptest! {
    #[test]
    fn every_text_and_time_comes_back(text in ".*", micros in 0..u64::MAX / 2, ip: std::net::IpAddr) {
        let mut record = AccessRecord::new(at(0), "POST", text.clone());
        record.total = Duration::from_micros(micros);
        record.client = Some(ip);
        let parsed = parsed(&record);
        prop_assert_eq!(&parsed["route"], &text);
        prop_assert_eq!(&parsed["peer"], &ip.to_string());
        prop_assert_eq!(parsed["total_ms"].as_f64().unwrap(), micros as f64 / 1000.0);
    }
}
