//! The series of one frontend, under Dynamo's names.
//!
//! Code that sends requests for a model keeps the handles of its series, so a request takes no lock
//! for them.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

use super::names::{opts, valid};
use crate::route::Route;

/// The label of requests for unknown models.
const UNKNOWN_MODEL: &str = "unknown_model";
/// The label of each model after the first [`MAX_MODELS`] models that were asked for.
const OTHER_MODELS: &str = "other_models";
/// The most models that have series of their own.
const MAX_MODELS: usize = 1000;

/// Buckets in seconds, from a cached answer to a long generation.
const DURATION: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
const FIRST_BYTE: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Buckets in tokens.
const TOKENS: &[f64] = &[0.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0];

/// The series of one frontend.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    inflight: IntGaugeVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    expected_cached: HistogramVec,
    ejections: IntCounterVec,
    resent: IntCounterVec,
    /// Requests that wait for a place at a worker.
    queued: IntGauge,
    /// The models that have series of their own.
    labelled: Mutex<HashSet<Box<str>>>,
    /// The series of requests for unknown models.
    unknown: ModelSeries,
}

/// The series of one model, each made for the first request that it counts.
pub(crate) struct ModelSeries {
    label: Box<str>,
    routes: [OnceLock<Box<RouteMeter>>; Route::ALL.len()],
    expected_cached: OnceLock<Histogram>,
}

/// The series of one model on one route.
pub(super) struct RouteMeter {
    pub(super) inflight: IntGauge,
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    /// The counters of answers with 200, unary and streamed: nearly all answers.
    pub(super) ok: [OnceLock<IntCounter>; 2],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let by = |labels: &[&'static str]| labels.to_vec();
        let metrics = Self {
            requests: valid(IntCounterVec::new(
                opts("requests_total", "Requests by model, route and status"),
                &by(&["model", "endpoint", "request_type", "status", "code"]),
            )),
            inflight: valid(IntGaugeVec::new(
                opts("inflight_requests", "Requests that are being answered"),
                &by(&["model", "endpoint"]),
            )),
            duration: valid(HistogramVec::new(
                HistogramOpts::from(opts(
                    "request_duration_seconds",
                    "From a request's head to the end of its answer",
                ))
                .buckets(DURATION.to_vec()),
                &by(&["model", "endpoint"]),
            )),
            first_byte: valid(HistogramVec::new(
                HistogramOpts::from(opts(
                    "time_to_first_byte_seconds",
                    "From a request's head to the first byte of its answer",
                ))
                .buckets(FIRST_BYTE.to_vec()),
                &by(&["model", "endpoint"]),
            )),
            expected_cached: valid(HistogramVec::new(
                HistogramOpts::from(opts(
                    "expected_cached_tokens",
                    "Tokens of a prompt that its worker was expected to have cached",
                ))
                .buckets(TOKENS.to_vec()),
                &by(&["model"]),
            )),
            ejections: valid(IntCounterVec::new(
                opts("worker_ejections_total", "Workers put out of rotation, by reason"),
                &by(&["reason"]),
            )),
            resent: valid(IntCounterVec::new(
                opts(
                    "resent_requests_total",
                    "Requests to be sent again, by the reason and by whether they were",
                ),
                &by(&["reason", "outcome"]),
            )),
            queued: valid(IntGauge::with_opts(opts(
                "queued_requests",
                "Requests that wait for a place at a worker",
            ))),
            labelled: Mutex::default(),
            unknown: ModelSeries::new(UNKNOWN_MODEL),
            registry,
        };
        let Self { registry, requests, inflight, duration, first_byte, .. } = &metrics;
        let Self { ejections, resent, queued, expected_cached, .. } = &metrics;
        valid(registry.register(Box::new(expected_cached.clone())));
        valid(registry.register(Box::new(requests.clone())));
        valid(registry.register(Box::new(inflight.clone())));
        valid(registry.register(Box::new(duration.clone())));
        valid(registry.register(Box::new(first_byte.clone())));
        valid(registry.register(Box::new(ejections.clone())));
        valid(registry.register(Box::new(resent.clone())));
        valid(registry.register(Box::new(queued.clone())));
        metrics
    }

    /// The counter of workers that leave the rotation for a reason. The page shows it from this
    /// call on.
    pub(crate) fn ejections(&self, reason: &str) -> IntCounter {
        self.ejections.with_label_values(&[reason])
    }

    /// The gauge of requests that wait for a place at a worker.
    pub(crate) fn queued(&self) -> &IntGauge {
        &self.queued
    }

    /// All families of metrics.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// The counters of requests that had to be sent again for a reason: of those that were sent, and
    /// of those that the budget did not allow. Both exist at 0 from now on, so that a rate sees the
    /// first increment.
    pub(crate) fn resent(&self, reason: &str) -> [IntCounter; 2] {
        ["sent", "over_budget"].map(|outcome| self.resent.with_label_values(&[reason, outcome]))
    }

    /// Handles of the series of a model. All handles of one name count into the same series.
    pub(crate) fn model(&self, name: &str) -> Arc<ModelSeries> {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        // Several views may show the model, and a model may come back.
        let own = labelled.contains(name)
            || (labelled.len() < MAX_MODELS && labelled.insert(name.into()));
        Arc::new(ModelSeries::new(if own { name } else { OTHER_MODELS }))
    }

    /// The series of requests for unknown models.
    pub(super) fn unknown(&self) -> &ModelSeries {
        &self.unknown
    }

    /// The counter of requests with these labels.
    pub(super) fn requests(&self, labels: &[String]) -> IntCounter {
        self.requests.with_label_values(labels)
    }

    /// The histogram of the tokens that were expected to be cached.
    pub(super) fn expected_cached<'a>(&self, series: &'a ModelSeries) -> &'a Histogram {
        series
            .expected_cached
            .get_or_init(|| self.expected_cached.with_label_values(&[&*series.label]))
    }

    /// The series of a model on a route.
    pub(super) fn route<'a>(&self, series: &'a ModelSeries, route: Route) -> &'a RouteMeter {
        series.routes[route as usize].get_or_init(|| {
            let labels = [&*series.label, route.name()];
            Box::new(RouteMeter {
                inflight: self.inflight.with_label_values(&labels),
                duration: self.duration.with_label_values(&labels),
                first_byte: self.first_byte.with_label_values(&labels),
                ok: Default::default(),
            })
        })
    }
}

impl ModelSeries {
    fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            routes: [const { OnceLock::new() }; Route::ALL.len()],
            expected_cached: OnceLock::new(),
        }
    }

    /// The value of the label `model`.
    pub(super) fn label(&self) -> &str {
        &self.label
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl fmt::Debug for ModelSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelSeries").field(&self.label).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of requests in flight.
    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.families()).unwrap();
        let inflight = "dynamo_frontend_inflight_requests{";
        text.lines().filter(|line| line.starts_with(inflight)).map(str::to_owned).collect()
    }

    fn begin(metrics: &Metrics, model: &str) {
        metrics.route(&metrics.model(model), Route::Completions).inflight.inc();
    }

    #[test]
    fn the_number_of_series_is_bounded_however_many_models_are_asked_for() {
        let metrics = Metrics::new();
        for n in 0..MAX_MODELS + 50 {
            begin(&metrics, &format!("m{n}"));
        }
        let lines = lines(&metrics);
        assert_eq!(lines.len(), MAX_MODELS + 1);
        assert!(lines.iter().any(|line| line.contains(OTHER_MODELS) && line.ends_with(" 50")));
    }

    #[test]
    fn a_model_that_several_views_show_has_one_series() {
        let metrics = Metrics::new();
        for _ in 0..MAX_MODELS + 1 {
            begin(&metrics, "m");
        }
        let count = MAX_MODELS + 1;
        let line = r#"dynamo_frontend_inflight_requests{endpoint="completions",model="m"}"#;
        assert_eq!(lines(&metrics), [format!("{line} {count}")]);
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let metrics = Metrics::new();
        begin(&metrics, "a\"} 1\\");
        let lines = lines(&metrics);
        assert!(lines[0].contains(r#"model="a\"} 1\\"} 1"#), "{lines:?}");
    }
}
