//! One request as a part of a trace: its span, and a span for each attempt (W3C Trace Context).

use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::WorkerUrl;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::access_log::AccessRecord;
use super::trace_id::{Parent, SpanId, TRACEPARENT, TRACESTATE, TraceId, traceparent};

/// Where the spans of sampled requests go.
///
/// A request whose `traceparent` is valid belongs to that trace, and is sampled if the flag of the
/// header says so. A request without one begins a trace, and is sampled by a
/// [share](Self::with_root_share). Workers get the span of the attempt as their parent. Without
/// traces no span is made, and `traceparent` passes as it came.
///
/// ```
/// use std::sync::mpsc;
///
/// use dynamo_http::{FrontendConfig, Traces};
///
/// let (sender, ended) = mpsc::sync_channel(1024);
/// let traces = Traces::new(move |record, trace| drop(sender.try_send((record, trace))));
/// let config = FrontendConfig::new().with_traces(Some(traces.with_root_share(0.01)));
/// # let _ = (config, ended);
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("Traces({root_share})")]
pub struct Traces {
    take: Arc<dyn Fn(Box<AccessRecord>, Box<Trace>) + Send + Sync>,
    root_share: f64,
}

/// The spans of one request that has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trace {
    /// The trace.
    pub trace_id: TraceId,
    /// The span of the request.
    pub span_id: SpanId,
    /// The span of the caller, if it gave one.
    pub parent: Option<SpanId>,
    /// The attempts, in order.
    pub attempts: Vec<TracedAttempt>,
}

/// One attempt: the request as it was sent to one worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TracedAttempt {
    /// The span of the attempt.
    pub span_id: SpanId,
    /// The worker.
    pub worker: WorkerUrl,
    /// When it began, from the beginning of the request.
    pub began: Duration,
    /// When it ended, from the beginning of the request. `None`: with the request.
    pub ended: Option<Duration>,
    /// The status of the worker's answer. `None` if there was no answer.
    pub status: Option<StatusCode>,
}

impl Traces {
    /// Traces that hand each sampled request to a function. Threads that serve requests call the
    /// function, so it must not block.
    pub fn new(take: impl Fn(Box<AccessRecord>, Box<Trace>) + Send + Sync + 'static) -> Self {
        Self { take: Arc::new(take), root_share: 1.0 }
    }

    /// The same, of which requests without a `traceparent` are this share, from 0 to 1. Default 1.
    #[must_use]
    pub fn with_root_share(self, share: f64) -> Self {
        Self { root_share: share, ..self }
    }

    /// Begins the span of a request, if it is sampled. Its headers say then what a worker is to be
    /// told; of a request that is sampled, each attempt says that instead.
    pub(crate) fn begin(&self, headers: &mut HeaderMap) -> Option<Box<Trace>> {
        let new = |trace_id, parent| Box::new(Trace::new(trace_id, SpanId::random(), parent));
        if let Some(parent) = Parent::of(headers) {
            return parent.is_sampled.then(|| new(parent.trace, Some(parent.span)));
        }
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
        let root = new(TraceId::random(), None);
        if fastrand::f64() < self.root_share {
            return Some(root);
        }
        if let Some(value) = traceparent(root.trace_id, root.span_id, false) {
            headers.insert(TRACEPARENT, value);
        }
        None
    }

    pub(super) fn take(&self, record: Box<AccessRecord>, trace: Box<Trace>) {
        (self.take)(record, trace);
    }
}

impl TracedAttempt {
    /// An attempt at a worker that has begun so long after its request.
    pub fn new(span_id: SpanId, worker: WorkerUrl, began: Duration) -> Self {
        Self { span_id, worker, began, ended: None, status: None }
    }
}

impl Trace {
    /// The span of a request, without attempts.
    pub fn new(trace_id: TraceId, span_id: SpanId, parent: Option<SpanId>) -> Self {
        Self { trace_id, span_id, parent, attempts: Vec::new() }
    }

    /// Notes that an attempt begins, `at` from the beginning of the request. Returns what its worker
    /// gets as `traceparent`.
    pub(super) fn sends(&mut self, worker: &WorkerUrl, at: Duration) -> Option<HeaderValue> {
        self.attempt_ends(at);
        let span_id = SpanId::random();
        self.attempts.push(TracedAttempt::new(span_id, worker.clone(), at));
        traceparent(self.trace_id, span_id, true)
    }

    /// Notes the head of the answer to the last attempt.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(status);
        }
    }

    /// Notes that the last attempt has ended, if it has not ended before.
    pub(super) fn attempt_ends(&mut self, at: Duration) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended.get_or_insert(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(values: &[String]) -> HeaderMap {
        let of = |value: &String| (TRACEPARENT, value.parse().unwrap());
        let state = (TRACESTATE, HeaderValue::from_static("vendor=1"));
        values.iter().map(of).chain([state]).collect()
    }

    #[test]
    fn the_flag_of_the_parent_decides_and_its_headers_pass_where_it_says_no() {
        let traces = Traces::new(|_, _| {});
        for (flags, expected) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let mut given = headers(&[format!("00-{ID}-{SPAN}-{flags}")]);
            let before = given.clone();
            let begun = traces.begin(&mut given);
            assert_eq!((begun.is_some(), &given), (expected, &before), "{flags}");
            if let Some(trace) = begun {
                assert_eq!(trace.trace_id.as_str(), ID);
                assert_eq!(trace.parent.unwrap().as_str(), SPAN);
                assert_ne!(trace.span_id.as_str(), SPAN);
            }
        }
    }

    #[test]
    fn a_request_without_a_valid_parent_begins_a_trace() {
        let valid = format!("00-{ID}-{SPAN}-01");
        for given in [vec![], vec!["nonsense".to_owned()], vec![valid.clone(), valid]] {
            let mut sampled = headers(&given);
            let trace = Traces::new(|_, _| {}).begin(&mut sampled).unwrap();
            assert_eq!((trace.parent, sampled.len()), (None, 0));
            assert_ne!(trace.trace_id.as_str(), ID);
            let mut left_out = headers(&given);
            let traces = Traces::new(|_, _| {}).with_root_share(0.0);
            assert!(traces.begin(&mut left_out).is_none());
            // Workers leave it out as well.
            assert_eq!(left_out.len(), 1);
            assert!(!Parent::of(&left_out).unwrap().is_sampled);
        }
    }

    #[test]
    fn each_attempt_is_a_span_and_the_last_one_ends_with_the_request() {
        let trace = Traces::new(|_, _| {}).begin(&mut HeaderMap::new());
        let mut trace = trace.unwrap();
        let worker = "http://192.0.2.1:8000".parse().unwrap();
        let seconds = Duration::from_secs;
        let first = trace.sends(&worker, seconds(1)).unwrap();
        trace.attempt_ends(seconds(2));
        let second = trace.sends(&worker, seconds(3)).unwrap();
        trace.answered(StatusCode::OK);
        assert_ne!(first, second);
        for (attempt, sent) in trace.attempts.iter().zip([first, second]) {
            let sent = Parent::read(sent.as_bytes()).unwrap();
            assert!(sent.is_sampled);
            assert_eq!((sent.trace, sent.span), (trace.trace_id, attempt.span_id));
        }
        let ends: Vec<_> = trace.attempts.iter().map(|one| (one.ended, one.status)).collect();
        assert_eq!(ends, [(Some(seconds(2)), None), (None, Some(StatusCode::OK))]);
    }
}
