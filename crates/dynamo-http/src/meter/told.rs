//! What an access log and traces are told of one request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_discovery::WorkerUrl;
use dynamo_namespace::Namespace;
use http::{HeaderValue, StatusCode};

use super::access_log::{AccessEnd, AccessLog, AccessRecord};
use super::trace::{Trace, Traces};
use super::usage::Usage;
use crate::priority::Priority;

/// The facts of a request, and who is told of them when it has ended.
pub(crate) struct Told {
    began: Instant,
    facts: Box<AccessRecord>,
    log: Option<AccessLog>,
    traced: Option<(Box<Trace>, Traces)>,
}

/// How a request ended.
pub(super) struct Ended {
    /// The status of the head that was sent, if one was.
    pub(super) status: Option<StatusCode>,
    pub(super) end: AccessEnd,
    pub(super) usage: Usage,
    pub(super) is_estimated: bool,
    pub(super) largest_gap: Duration,
    pub(super) total: Duration,
}

impl Told {
    pub(super) fn new(
        began: Instant,
        mut facts: Box<AccessRecord>,
        log: Option<&AccessLog>,
        traced: Option<(Box<Trace>, &Traces)>,
    ) -> Self {
        if let Some((trace, _)) = &traced {
            facts.trace_id = Some(trace.trace_id);
        }
        let traced = traced.map(|(trace, traces)| (trace, traces.clone()));
        Self { began, facts, log: log.cloned(), traced }
    }

    /// Notes the bytes of the request's body.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.facts.bytes_in = bytes as u64;
    }

    /// Notes the name of the model that the client asks for. `known` is the same name where there is
    /// such a model.
    pub(crate) fn asks(&mut self, name: &str, known: Option<&Arc<str>>, stream: bool) {
        self.facts.asks(name, known);
        self.facts.stream = stream;
    }

    /// Notes the class of the request.
    pub(crate) fn is_of(&mut self, class: Priority) {
        self.facts.priority = Some(class);
    }

    /// Notes that the request waited for a place at a worker.
    pub(crate) fn queued(&mut self, time: Duration) {
        self.facts.queued += time;
    }

    /// Notes that the request is sent to a worker, by its URL and namespace. Returns the `traceparent`
    /// that the worker gets, where that is not the client's.
    pub(crate) fn sends(
        &mut self,
        worker: &WorkerUrl,
        namespace: Option<&Namespace>,
    ) -> Option<HeaderValue> {
        self.facts.attempts = self.facts.attempts.saturating_add(1);
        self.comes_from(worker, namespace);
        let (trace, _) = self.traced.as_mut()?;
        trace.sends(worker, self.began.elapsed())
    }

    /// Notes how the last attempt went: the status of an answer, or that there was none.
    pub(crate) fn attempted(&mut self, status: Option<StatusCode>) {
        let Some((trace, _)) = &mut self.traced else { return };
        match status {
            Some(status) => trace.answered(status),
            None => trace.attempt_ends(self.began.elapsed()),
        }
    }

    /// Notes which model answers.
    pub(crate) fn served(&mut self, model: &Arc<str>) {
        self.facts.model_served = Some(model.clone());
    }

    /// Notes which worker answers, where that is not the one that was tried last.
    pub(crate) fn comes_from(&mut self, worker: &WorkerUrl, namespace: Option<&Namespace>) {
        self.facts.worker = Some(worker.clone());
        self.facts.namespace = namespace.cloned();
    }

    /// Notes the first content of the answer.
    pub(super) fn first_token(&mut self, at: Instant) {
        self.facts.first_token = Some(at - self.began);
    }

    /// Notes how many bytes of the answer's body went to the client.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.facts.bytes_out = bytes;
    }

    /// Notes the code of an error of our own.
    pub(super) fn refused(&mut self, code: Option<Cow<'static, str>>) {
        self.facts.error = code;
    }

    /// Tells.
    pub(super) fn end(mut self, ended: &Ended) {
        self.facts.used(ended.usage, ended.is_estimated);
        self.facts.status = ended.status;
        self.facts.end = ended.end;
        self.facts.largest_gap = ended.largest_gap;
        self.facts.total = ended.total;
        match (self.log, self.traced) {
            (Some(log), Some((trace, traces))) => {
                traces.take(self.facts.clone(), trace);
                log.take(self.facts);
            }
            (Some(log), None) => log.take(self.facts),
            (None, Some((trace, traces))) => traces.take(self.facts, trace),
            (None, None) => {}
        }
    }
}
