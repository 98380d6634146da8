//! The series of one worker's server.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::names::{FIRST, buckets, opts, valid};
use super::totals::{Distribution, Totals};
use super::usage::Usage;

/// How a request ended at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By a whole answer with a status below 400.
    Success,
    /// By a whole answer with a 4xx, a refusal included.
    ClientError,
    /// By a whole answer with another status, a refusal included.
    ServerError,
    /// The worker failed in the middle of its answer.
    Broken,
    /// The worker gave no answer.
    NoAnswer,
    /// The client left.
    Left,
}

impl Ending {
    const ALL: [Self; 6] = [
        Self::Success,
        Self::ClientError,
        Self::ServerError,
        Self::Broken,
        Self::NoAnswer,
        Self::Left,
    ];

    /// How a whole answer of this status ended.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Success,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// The value of the label `status`.
    fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Broken => "broken",
            Self::NoAnswer => "no_answer",
            Self::Left => "client_left",
        }
    }
}

/// The series of one worker's server. Only operators see them, since they name the server.
#[derive(Debug)]
pub(crate) struct WorkerSeries {
    label: Box<str>,
    requests: IntCounterVec,
    endings: [IntCounter; Ending::ALL.len()],
    first_token: Histogram,
    /// The tokens of its answers, which only the page of operators shows.
    tokens: Tokens,
}

#[derive(Debug, Default)]
struct Tokens {
    input: AtomicU64,
    cached: AtomicU64,
    output: AtomicU64,
}

impl WorkerSeries {
    pub(super) fn new(label: &str) -> Self {
        let by_worker = |name, help| opts(name, help).const_label("worker", label);
        let requests = valid(IntCounterVec::new(
            by_worker("worker_requests_total", "Requests that were sent to a worker, by their end"),
            &["status"],
        ));
        let first_token = by_worker(
            "worker_time_to_first_token_seconds",
            "From a request's head to the first content of the worker's answer",
        );
        Self {
            label: label.into(),
            endings: Ending::ALL.map(|ending| requests.with_label_values(&[ending.name()])),
            requests,
            first_token: valid(Histogram::with_opts(buckets(first_token, FIRST))),
            tokens: Tokens::default(),
        }
    }

    /// The value of the label `worker`.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Counts a request that has ended.
    pub(crate) fn ended(&self, ending: Ending) {
        self.endings[ending as usize].inc();
    }

    pub(super) fn first_token(&self, seconds: f64) {
        self.first_token.observe(seconds);
    }

    /// Counts the tokens of an answer.
    pub(super) fn tokens(&self, usage: &Usage) {
        let Tokens { input, cached, output } = &self.tokens;
        for (counter, tokens) in
            [(input, usage.input), (cached, usage.cached), (output, usage.output)]
        {
            if let Some(tokens) = tokens {
                counter.fetch_add(tokens, Relaxed);
            }
        }
    }

    /// What was counted so far.
    pub(super) fn totals(&self) -> Totals {
        let requests = self.endings.iter().map(IntCounter::get).sum();
        Totals {
            requests,
            errors: requests - self.endings[Ending::Success as usize].get().min(requests),
            first_token: Distribution::of(&self.first_token),
            input: self.tokens.input.load(Relaxed),
            cached: self.tokens.cached.load(Relaxed),
            output: self.tokens.output.load(Relaxed),
        }
    }

    pub(super) fn families(&self) -> impl Iterator<Item = MetricFamily> {
        self.requests.collect().into_iter().chain(self.first_token.collect())
    }
}

/// The gauge of requests at each of these workers, from the label of each.
pub(super) fn inflight<'a>(
    workers: impl IntoIterator<Item = (&'a str, usize)>,
) -> Vec<MetricFamily> {
    let gauge = valid(prometheus::IntGaugeVec::new(
        opts("worker_inflight_requests", "Requests that a worker is answering"),
        &["worker"],
    ));
    for (label, requests) in workers {
        let gauge: IntGauge = gauge.with_label_values(&[label]);
        gauge.add(i64::try_from(requests).unwrap_or(i64::MAX));
    }
    gauge.collect()
}
