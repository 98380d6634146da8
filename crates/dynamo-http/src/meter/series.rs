//! The series of one frontend, under Dynamo's names.
//!
//! Code that sends requests for a model keeps the handles of its series, so a request takes no lock
//! for them. A model's series are collectors of their own, so they go as one when nobody has asked for
//! the model for long.

use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};
use tokio::time::Instant;

use super::labels::Labels;
use super::names::{BETWEEN, DURATION, FIRST, TOKENS, buckets, joined, opts, valid};
use super::totals::{Distribution, Totals};
use super::worker::{self, WorkerSeries};
use crate::priority::Priority;
use crate::route::Route;

/// The label of requests for unknown models.
const UNKNOWN_MODEL: &str = "unknown_model";
/// The label of each model after the first thousand that were asked for.
const OTHER_MODELS: &str = "other_models";
/// The label of each namespace or worker after the first thousand.
const OTHER: &str = "other";

/// The series of one frontend.
#[derive(derive_more::Debug)]
#[debug("Metrics")]
pub(crate) struct Metrics {
    registry: Registry,
    ejections: IntCounterVec,
    resent: IntCounterVec,
    /// Requests that wait for a place at a worker.
    queued: IntGauge,
    /// The same by class, where requests have classes.
    queued_by_class: IntGaugeVec,
    /// Events that were too long to be read.
    unread: IntCounter,
    models: Labels<ModelSeries>,
    /// The values of the label `namespace`, over all models.
    namespaces: Labels<Namespace>,
    workers: Labels<WorkerSeries>,
    /// The series of requests for unknown models.
    unknown: ModelSeries,
}

/// A value of the label `namespace`.
#[derive(Debug)]
struct Namespace(Box<str>);

/// The series of one model.
#[derive(derive_more::Debug)]
#[debug("ModelSeries({label:?})")]
pub(crate) struct ModelSeries {
    label: Box<str>,
    requests: IntCounterVec,
    inflight: IntGaugeVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    queue: HistogramVec,
    first_token: HistogramVec,
    between_tokens: HistogramVec,
    input: HistogramVec,
    output: HistogramVec,
    cached: HistogramVec,
    usage: IntCounterVec,
    namespaces: Labels<NamespaceSeries>,
    /// Handles for each route, made for the first request that they count.
    routes: [OnceLock<Box<RouteMeter>>; Route::ALL.len()],
    expected_cached: HistogramVec,
}

/// The series of one model on one route.
pub(super) struct RouteMeter {
    pub(super) inflight: IntGauge,
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    /// The counters of answers with 200, unary and streamed: nearly all answers.
    pub(super) ok: [OnceLock<IntCounter>; 2],
    /// Made for the first answer that is read.
    pub(super) tokens: OnceLock<Box<TokenMeter>>,
    /// Made for the first answer of a server that was chosen by its cache.
    expected_cached: OnceLock<Histogram>,
}

/// The series of the tokens of one model on one route.
pub(super) struct TokenMeter {
    pub(super) first_token: Histogram,
    pub(super) between_tokens: Histogram,
    pub(super) input: Histogram,
    pub(super) output: Histogram,
    pub(super) cached: Histogram,
    /// How many answers told their usage, by [`Knowledge`].
    pub(super) usage: [IntCounter; Knowledge::ALL.len()],
}

/// What is known of the tokens of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// The engine told them.
    Told,
    /// The engine told nothing, so the events with content were counted.
    Estimated,
    /// The engine told nothing, and there was nothing to count.
    Untold,
    /// The answer could not be read.
    Unknown,
}

impl Knowledge {
    const ALL: [Self; 4] = [Self::Told, Self::Estimated, Self::Untold, Self::Unknown];

    /// The value of the label `usage`.
    fn name(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Estimated => "estimated",
            Self::Untold => "untold",
            Self::Unknown => "unknown",
        }
    }
}

/// The series of a model's tokens from the workers of one namespace.
#[derive(derive_more::Debug)]
#[debug("NamespaceSeries")]
pub(crate) struct NamespaceSeries {
    /// Keeps the value of the label, for as long as the series are there.
    _label: Arc<Namespace>,
    input: IntCounterVec,
    output: IntCounterVec,
    estimated: IntCounterVec,
    routes: [OnceLock<TokenCounters>; Route::ALL.len()],
}

/// The counters of tokens on one route.
pub(super) struct TokenCounters {
    pub(super) input: IntCounter,
    pub(super) output: IntCounter,
    /// The part of `output` that was estimated.
    pub(super) estimated: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            ejections: valid(IntCounterVec::new(
                opts("worker_ejections_total", "Workers put out of rotation, by reason"),
                &["reason"],
            )),
            resent: valid(IntCounterVec::new(
                opts(
                    "resent_requests_total",
                    "Requests to be sent again, by the reason and by whether they were",
                ),
                &["reason", "outcome"],
            )),
            queued: valid(IntGauge::with_opts(opts(
                "queued_requests",
                "Requests that wait for a place at a worker",
            ))),
            queued_by_class: valid(IntGaugeVec::new(
                opts(
                    "queued_requests_by_priority",
                    "Requests that wait for a place at a worker, by priority",
                ),
                &["priority"],
            )),
            unread: valid(IntCounter::with_opts(opts(
                "unread_events_total",
                "Events of streams that passed unread, since they were longer than 64 KiB",
            ))),
            models: Labels::new(OTHER_MODELS),
            namespaces: Labels::new(OTHER),
            workers: Labels::new(OTHER),
            unknown: ModelSeries::new(UNKNOWN_MODEL),
            registry,
        };
        let Self { registry, ejections, resent, queued, queued_by_class, unread, .. } = &metrics;
        valid(registry.register(Box::new(ejections.clone())));
        valid(registry.register(Box::new(resent.clone())));
        valid(registry.register(Box::new(queued.clone())));
        valid(registry.register(Box::new(queued_by_class.clone())));
        valid(registry.register(Box::new(unread.clone())));
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

    /// The gauge of those of one class. The page shows it from this call on.
    pub(crate) fn queued_of(&self, class: Priority) -> IntGauge {
        self.queued_by_class.with_label_values(&[class.name()])
    }

    /// Counts events that passed unread.
    pub(super) fn unread(&self, events: u64) {
        self.unread.inc_by(events);
    }

    /// All families of metrics that name no worker.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let models = self.models.all();
        let models = models.iter().map(|model| &**model).chain([&self.unknown]);
        let mut families = self.registry.gather();
        families.extend(joined(models.flat_map(ModelSeries::families)));
        families
    }

    /// The families of the metrics of workers. `inflight` are the requests at each, by the label of
    /// its series.
    pub(crate) fn worker_families<'a>(
        &self,
        inflight: impl IntoIterator<Item = (&'a str, usize)>,
    ) -> Vec<MetricFamily> {
        let workers = self.workers.all();
        let families = workers.iter().flat_map(|worker| worker.families());
        joined(families.chain(worker::inflight(inflight)))
    }

    /// The counters of requests that had to be sent again for a reason: of those that were sent, and
    /// of those that the budget did not allow. Both exist at 0 from now on, so that a rate sees the
    /// first increment.
    pub(crate) fn resent(&self, reason: &str) -> [IntCounter; 2] {
        ["sent", "over_budget"].map(|outcome| self.resent.with_label_values(&[reason, outcome]))
    }

    /// The series of a model. They stay for as long as the caller has them, and an hour longer.
    pub(crate) fn model(&self, name: &str) -> Arc<ModelSeries> {
        self.models.get(name, ModelSeries::new)
    }

    /// The series of a model's tokens from the workers of a namespace.
    pub(crate) fn namespace(&self, model: &ModelSeries, namespace: &str) -> Arc<NamespaceSeries> {
        let label = self.namespaces.get(namespace, |value| Namespace(value.into()));
        let value = label.0.clone();
        model.namespaces.get(&value, |value| {
            // A model has no more namespaces than all models together, so `value` is the label's.
            NamespaceSeries::new(&model.label, value, label)
        })
    }

    /// The series of a worker, by its URL.
    pub(crate) fn worker(&self, url: &str) -> Arc<WorkerSeries> {
        self.workers.get(url, WorkerSeries::new)
    }

    /// The label and the counts of each model that was asked for, and of unknown models.
    pub(crate) fn model_totals(&self) -> impl Iterator<Item = (Box<str>, Totals)> {
        let unknown = (self.unknown.label.clone(), self.unknown.totals());
        let models = self.models.all().into_iter();
        models.map(|model| (model.label.clone(), model.totals())).chain([unknown])
    }

    /// The label and the counts of each worker that had a request.
    pub(crate) fn worker_totals(&self) -> impl Iterator<Item = (Box<str>, Totals)> {
        let workers = self.workers.all().into_iter();
        workers.map(|worker| (worker.label().into(), worker.totals()))
    }

    /// Drops the series that nobody has used for an hour.
    pub(crate) fn sweep(&self, now: Instant) {
        for model in self.models.all() {
            model.namespaces.sweep(now);
        }
        self.models.sweep(now);
        self.namespaces.sweep(now);
        self.workers.sweep(now);
    }

    /// The series of requests for unknown models.
    pub(super) fn unknown(&self) -> &ModelSeries {
        &self.unknown
    }
}

impl ModelSeries {
    fn new(label: &str) -> Self {
        let by_model = |name, help| opts(name, help).const_label("model", label);
        let histogram = |name, help, of: &[f64]| {
            valid(HistogramVec::new(buckets(by_model(name, help), of), &["endpoint"]))
        };
        Self {
            label: label.into(),
            requests: valid(IntCounterVec::new(
                by_model("requests_total", "Requests by model, route and status"),
                &["endpoint", "request_type", "status", "code"],
            )),
            inflight: valid(IntGaugeVec::new(
                by_model("inflight_requests", "Requests that are being answered"),
                &["endpoint"],
            )),
            duration: histogram(
                "request_duration_seconds",
                "From a request's head to the end of its answer",
                DURATION,
            ),
            first_byte: histogram(
                "time_to_first_byte_seconds",
                "From a request's head to the first byte of its answer",
                FIRST,
            ),
            queue: histogram(
                "queue_seconds",
                "How long requests waited for a place at a worker, of those that had to wait",
                FIRST,
            ),
            first_token: histogram(
                "time_to_first_token_seconds",
                "From a request's head to the first content of its answer",
                FIRST,
            ),
            between_tokens: histogram(
                "inter_token_latency_seconds",
                "The mean time between two events with content, once for each streamed answer",
                BETWEEN,
            ),
            input: histogram("input_sequence_tokens", "Tokens of a prompt", TOKENS),
            output: histogram("output_sequence_tokens", "Tokens of an answer", TOKENS),
            cached: histogram("cached_tokens", "Tokens of a prompt that were in a cache", TOKENS),
            expected_cached: histogram(
                "expected_cached_tokens",
                "Tokens of a prompt that its worker was expected to have cached",
                TOKENS,
            ),
            usage: valid(IntCounterVec::new(
                by_model("answer_usage_total", "Answers by what is known of their tokens"),
                &["endpoint", "usage"],
            )),
            namespaces: Labels::new(OTHER),
            routes: [const { OnceLock::new() }; Route::ALL.len()],
        }
    }

    /// What was counted so far, on all routes.
    fn totals(&self) -> Totals {
        let families = self.requests.collect();
        let (mut requests, mut errors) = (0, 0);
        for metric in families.iter().flat_map(|family| family.get_metric()) {
            let ended = metric.get_counter().get_value() as u64;
            requests += ended;
            let is_error = |label: &LabelPair| label.name() == "status" && label.value() == "error";
            errors += if metric.get_label().iter().any(is_error) { ended } else { 0 };
        }
        let (mut input, mut output) = (0, 0);
        for namespace in self.namespaces.all() {
            for counters in namespace.routes.iter().filter_map(OnceLock::get) {
                input += counters.input.get();
                output += counters.output.get();
            }
        }
        let cached = self.cached.collect();
        let cached = cached.iter().flat_map(|family| family.get_metric());
        let cached = cached.map(|metric| metric.get_histogram().get_sample_sum()).sum::<f64>();
        Totals {
            requests,
            errors,
            first_token: Distribution::of(&self.first_token),
            input,
            output,
            cached: cached as u64,
        }
    }

    /// Notes how long a request waited for a place at a worker.
    pub(crate) fn queued(&self, route: Route, seconds: f64) {
        self.queue.with_label_values(&[route.name()]).observe(seconds);
    }

    /// The counter of requests with these labels.
    pub(super) fn requests(&self, labels: &[&str]) -> IntCounter {
        self.requests.with_label_values(labels)
    }

    /// The series of the model on a route.
    pub(super) fn route(&self, route: Route) -> &RouteMeter {
        self.routes[route as usize].get_or_init(|| {
            let labels = [route.name()];
            Box::new(RouteMeter {
                inflight: self.inflight.with_label_values(&labels),
                duration: self.duration.with_label_values(&labels),
                first_byte: self.first_byte.with_label_values(&labels),
                ok: Default::default(),
                tokens: OnceLock::new(),
                expected_cached: OnceLock::new(),
            })
        })
    }

    /// The histogram of the tokens that were expected to be cached, on a route.
    pub(super) fn expected_cached(&self, route: Route) -> &Histogram {
        let histogram = || self.expected_cached.with_label_values(&[route.name()]);
        self.route(route).expected_cached.get_or_init(histogram)
    }

    /// The series of the model's tokens on a route.
    pub(super) fn tokens(&self, route: Route) -> &TokenMeter {
        self.route(route).tokens.get_or_init(|| {
            let labels = [route.name()];
            let usage =
                |known: Knowledge| self.usage.with_label_values(&[route.name(), known.name()]);
            Box::new(TokenMeter {
                first_token: self.first_token.with_label_values(&labels),
                between_tokens: self.between_tokens.with_label_values(&labels),
                input: self.input.with_label_values(&labels),
                output: self.output.with_label_values(&labels),
                cached: self.cached.with_label_values(&labels),
                usage: Knowledge::ALL.map(usage),
            })
        })
    }

    fn families(&self) -> Vec<MetricFamily> {
        let collectors: [&dyn Collector; 12] = [
            &self.requests,
            &self.inflight,
            &self.duration,
            &self.first_byte,
            &self.queue,
            &self.first_token,
            &self.between_tokens,
            &self.input,
            &self.output,
            &self.cached,
            &self.expected_cached,
            &self.usage,
        ];
        let mut families: Vec<_> =
            collectors.into_iter().flat_map(|collector| collector.collect()).collect();
        for namespace in self.namespaces.all() {
            families.extend(namespace.input.collect());
            families.extend(namespace.output.collect());
            families.extend(namespace.estimated.collect());
        }
        families
    }
}

impl NamespaceSeries {
    fn new(model: &str, namespace: &str, label: Arc<Namespace>) -> Self {
        let counter = |name, help| {
            let opts =
                opts(name, help).const_label("model", model).const_label("namespace", namespace);
            valid(IntCounterVec::new(opts, &["endpoint"]))
        };
        Self {
            _label: label,
            input: counter("input_tokens_total", "Tokens of prompts"),
            output: counter("output_tokens_total", "Tokens of answers, with those estimated"),
            estimated: counter(
                "estimated_output_tokens_total",
                "Tokens of answers whose engine told no usage: their events with content",
            ),
            routes: [const { OnceLock::new() }; Route::ALL.len()],
        }
    }

    /// The counters on a route.
    pub(super) fn route(&self, route: Route) -> &TokenCounters {
        self.routes[route as usize].get_or_init(|| {
            let labels = [route.name()];
            TokenCounters {
                input: self.input.with_label_values(&labels),
                output: self.output.with_label_values(&labels),
                estimated: self.estimated.with_label_values(&labels),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::labels::{KEPT, MOST};

    /// The lines of requests in flight.
    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.families()).unwrap();
        let inflight = "dynamo_frontend_inflight_requests{";
        text.lines().filter(|line| line.starts_with(inflight)).map(str::to_owned).collect()
    }

    fn begin(metrics: &Metrics, model: &str) {
        metrics.model(model).route(Route::Completions).inflight.inc();
    }

    #[test]
    fn the_number_of_series_is_bounded_however_many_models_are_asked_for() {
        let metrics = Metrics::new();
        for n in 0..MOST + 50 {
            begin(&metrics, &format!("m{n}"));
        }
        let lines = lines(&metrics);
        assert_eq!(lines.len(), MOST + 1);
        assert!(lines.iter().any(|line| line.contains(OTHER_MODELS) && line.ends_with(" 50")));
    }

    #[test]
    fn a_model_that_several_views_show_has_one_series() {
        let metrics = Metrics::new();
        for _ in 0..MOST + 1 {
            begin(&metrics, "m");
        }
        let count = MOST + 1;
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

    #[test]
    fn the_series_of_a_model_and_its_namespaces_go_an_hour_after_them() {
        let metrics = Metrics::new();
        let model = metrics.model("m");
        for namespace in ["a", "b"] {
            metrics.namespace(&model, namespace).route(Route::Completions).input.inc_by(3);
        }
        model.route(Route::Completions).inflight.inc();
        let text = || prometheus::TextEncoder::new().encode_to_string(&metrics.families()).unwrap();
        let began = Instant::now();
        let kept = metrics.namespace(&model, "b");
        metrics.sweep(began);
        assert!(text().contains(
            r#"dynamo_frontend_input_tokens_total{endpoint="completions",model="m",namespace="a"} 3"#
        ));
        metrics.sweep(began + KEPT);
        assert!(!text().contains(r#"namespace="a""#) && text().contains(r#"namespace="b""#));
        drop((kept, model));
        metrics.sweep(began + KEPT);
        metrics.sweep(began + KEPT * 2);
        assert!(!text().contains(r#"model="m""#));
    }
}
