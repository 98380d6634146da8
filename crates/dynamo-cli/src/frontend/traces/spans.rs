//! The spans of one request, by OpenTelemetry's semantic conventions for HTTP and generative AI.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use dynamo_http::{AccessEnd, AccessRecord, Route, Trace, TracedAttempt};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

#[cfg(test)]
mod tests;

static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder("dynamo-frontend").with_version(env!("CARGO_PKG_VERSION")).build()
});

/// Adds the span of a request, and one for each attempt.
pub(super) fn append(spans: &mut Vec<SpanData>, record: &AccessRecord, trace: &Trace) {
    spans.push(of_request(record, trace));
    let last = trace.attempts.len().saturating_sub(1);
    let attempts = trace.attempts.iter().enumerate();
    spans.extend(
        attempts.map(|(place, attempt)| of_attempt(record, trace, attempt, place, place == last)),
    );
}

/// The attributes of a span that have a value.
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| KeyValue::new(name, value)));
    }
}

/// What a route does, in the words of the conventions.
fn operation(path: &str) -> Cow<'static, str> {
    match Route::at(path) {
        Some(Route::ChatCompletions | Route::Responses | Route::Messages) => "chat".into(),
        Some(Route::Completions) => "text_completion".into(),
        Some(Route::Embeddings) => "embeddings".into(),
        Some(route) => route.name().into(),
        None => path.to_owned().into(),
    }
}

fn of_request(record: &AccessRecord, trace: &Trace) -> SpanData {
    let text = |text: &str| text.to_owned();
    let number = |tokens: Option<u64>| tokens.and_then(|tokens| i64::try_from(tokens).ok());
    let operation = operation(&record.path);
    // The name of a model that there is not would be any text.
    let name = match &record.model_served {
        Some(model) => format!("{operation} {model}").into(),
        None => operation.clone(),
    };
    let status = record.status.map(|status| status.as_u16());
    let mut attributes = Attributes(Vec::with_capacity(20));
    attributes.put("gen_ai.operation.name", Some(operation.into_owned()));
    attributes.put("gen_ai.request.model", record.model_asked.as_deref().map(text));
    attributes.put("gen_ai.response.model", record.model_served.as_deref().map(text));
    attributes.put("gen_ai.usage.input_tokens", number(record.input_tokens));
    attributes.put("gen_ai.usage.cache_read.input_tokens", number(record.cached_tokens));
    attributes.put("gen_ai.usage.output_tokens", number(record.output_tokens));
    attributes.put("http.request.method", Some(text(&record.method)));
    attributes.put("http.route", Some(text(&record.path)));
    attributes.put("http.response.status_code", status.map(i64::from));
    attributes.put("client.address", record.client.map(|address| address.to_string()));
    attributes.put("error.type", error_of(record));
    attributes.put("dynamo.request_id", record.request_id.as_deref().map(text));
    attributes.put("dynamo.key", record.key.as_deref().map(text));
    attributes.put("dynamo.namespace", record.namespace.as_ref().map(|name| text(name.as_str())));
    attributes.put("dynamo.stream", Some(record.stream));
    attributes.put("dynamo.queue_seconds", Some(record.queued.as_secs_f64()));
    let first = record.first_token.map(|first| first.as_secs_f64());
    attributes.put("dynamo.time_to_first_token_seconds", first);
    attributes.put("dynamo.tokens_estimated", Some(record.is_estimated));
    let fails = status.is_some_and(|status| status >= 500) || record.end == AccessEnd::Cut;
    SpanData {
        parent_span_id: trace.parent.map_or(SpanId::INVALID, span_id),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: SpanKind::Server,
        name,
        attributes: attributes.0,
        status: if fails { Status::error("") } else { Status::Unset },
        ..span(record, trace, trace.span_id, Duration::ZERO, record.total)
    }
}

/// Why a request failed, if it did.
fn error_of(record: &AccessRecord) -> Option<String> {
    let status = record.status.map(|status| status.as_u16()).filter(|status| *status >= 400);
    match (record.end, &record.error) {
        (AccessEnd::Complete, Some(code)) => Some(code.clone().into_owned()),
        (AccessEnd::Complete, None) => status.map(|status| status.to_string()),
        (end, _) => Some(end.name().to_owned()),
    }
}

fn of_attempt(
    record: &AccessRecord,
    trace: &Trace,
    attempt: &TracedAttempt,
    place: usize,
    is_last: bool,
) -> SpanData {
    let status = attempt.status.map(|status| status.as_u16());
    let is_cut = is_last && record.end == AccessEnd::Cut;
    // Of an attempt that the client has ended nothing is known.
    let is_left = is_last && record.end == AccessEnd::ClientGone;
    let error = match status {
        _ if is_cut => Some(AccessEnd::Cut.name().to_owned()),
        Some(status) if status >= 400 => Some(status.to_string()),
        None if !is_left => Some("no_answer".to_owned()),
        _ => None,
    };
    let worker = attempt.worker.to_uri();
    let port = worker.port_u16().unwrap_or(if attempt.worker.is_https() { 443 } else { 80 });
    let resends = i64::try_from(place).ok().filter(|place| *place > 0);
    let mut attributes = Attributes(Vec::with_capacity(8));
    attributes.put("http.request.method", Some("POST"));
    attributes.put("url.full", Some(format!("{}{}", attempt.worker, record.path)));
    attributes.put("server.address", Some(attempt.worker.host().to_owned()));
    attributes.put("server.port", Some(i64::from(port)));
    attributes.put("http.response.status_code", status.map(i64::from));
    attributes.put("http.request.resend_count", resends);
    attributes.put("error.type", error.clone());
    let ended = attempt.ended.unwrap_or(record.total);
    SpanData {
        parent_span_id: span_id(trace.span_id),
        parent_span_is_remote: false,
        span_kind: SpanKind::Client,
        name: format!("POST {}", record.path).into(),
        attributes: attributes.0,
        status: if error.is_some() { Status::error("") } else { Status::Unset },
        ..span(record, trace, attempt.span_id, attempt.began, ended)
    }
}

/// What spans of every kind have.
fn span(
    record: &AccessRecord,
    trace: &Trace,
    id: dynamo_http::SpanId,
    began: Duration,
    ended: Duration,
) -> SpanData {
    let trace_id = TraceId::from_hex(trace.trace_id.as_str()).unwrap_or(TraceId::INVALID);
    let state = TraceState::default();
    SpanData {
        span_context: SpanContext::new(trace_id, span_id(id), TraceFlags::SAMPLED, false, state),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: Cow::Borrowed(""),
        start_time: record.began + began,
        end_time: record.began + ended.max(began),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: SCOPE.clone(),
    }
}

fn span_id(id: dynamo_http::SpanId) -> SpanId {
    SpanId::from_hex(id.as_str()).unwrap_or(SpanId::INVALID)
}
