//! What is counted, under Dynamo's names.
//!
//! The handles of a model's series hang at the model, so a request finds them without a lock.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use http::StatusCode;
use prometheus::{
    Encoder as _, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::rotation::Out;
use crate::access::{ApiKeys, Slot};
use crate::feed::DiscoveryStatus;
use crate::route::Route;
use crate::view::{Model, View};

/// The label of requests for models that are not there.
const UNKNOWN_MODEL: &str = "unknown_model";
/// The label of models past the first [`MAX_MODELS`] that were ever asked for.
const OTHER_MODELS: &str = "other_models";
/// How many models have series of their own.
const MAX_MODELS: usize = 1000;

/// Seconds, from a cached answer to a long generation.
const DURATION: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
const FIRST_BYTE: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Who reads a page about the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Anyone who reaches the port. What happens in other namespaces is not theirs to know, so
    /// nothing is told that moves with it.
    Client,
    /// Whoever reaches the admin port.
    Operator,
}

/// The series of one frontend.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    inflight: IntGaugeVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    ejections: IntCounterVec,
    resent: IntCounterVec,
    /// Requests that wait for a place at a worker.
    pub(crate) queued: IntGauge,
    /// The models that have series of their own.
    labelled: Mutex<HashSet<Box<str>>>,
    /// Of requests for no model that is there.
    unknown: ModelSeries,
}

/// The series of one model. Made for the first request: most of many models may have none.
#[derive(Default)]
pub(crate) struct ModelMeter(OnceLock<Box<ModelSeries>>);

struct ModelSeries {
    label: Box<str>,
    routes: [OnceLock<Box<RouteMeter>>; Route::ALL.len()],
}

/// The series of one model on one route.
struct RouteMeter {
    inflight: IntGauge,
    duration: Histogram,
    first_byte: Histogram,
    /// Answers with 200, plain and streamed: nearly all.
    ok: [OnceLock<IntCounter>; 2],
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
            ejections: valid(IntCounterVec::new(
                opts("worker_ejections_total", "Workers put out of rotation, by reason"),
                &by(&["reason"]),
            )),
            resent: valid(IntCounterVec::new(
                opts("resent_requests_total", "Requests to be sent again, by whether they were"),
                &by(&["outcome"]),
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
        let Self { ejections, resent, queued, .. } = &metrics;
        valid(registry.register(Box::new(requests.clone())));
        valid(registry.register(Box::new(inflight.clone())));
        valid(registry.register(Box::new(duration.clone())));
        valid(registry.register(Box::new(first_byte.clone())));
        valid(registry.register(Box::new(ejections.clone())));
        valid(registry.register(Box::new(resent.clone())));
        valid(registry.register(Box::new(queued.clone())));
        // Seen at 0 as well, so that a rate can be told from the first one on.
        for reason in Out::ALL {
            ejections.with_label_values(&[reason.name()]);
        }
        for outcome in [true, false] {
            metrics.resent_counter(outcome);
        }
        metrics
    }

    /// A worker is out of rotation.
    pub(crate) fn ejected(&self, reason: Out) {
        self.ejections.with_label_values(&[reason.name()]).inc();
    }

    /// A request was to be sent again, and was or, for want of a budget, was not.
    pub(crate) fn resent(&self, was: bool) {
        self.resent_counter(was).inc();
    }

    fn resent_counter(&self, was: bool) -> IntCounter {
        self.resent.with_label_values(&[if was { "sent" } else { "over_budget" }])
    }

    fn series<'a>(&self, meter: &'a ModelMeter, name: &str) -> &'a ModelSeries {
        meter.0.get_or_init(|| {
            let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
            // A model may be known to several views, and may have been away.
            let own = labelled.contains(name)
                || (labelled.len() < MAX_MODELS && labelled.insert(name.into()));
            Box::new(ModelSeries::new(if own { name } else { OTHER_MODELS }))
        })
    }

    fn route<'a>(&self, series: &'a ModelSeries, route: Route) -> &'a RouteMeter {
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

    /// Everything, in Prometheus' text format; the state of things as it is now.
    pub(crate) fn render(
        &self,
        view: &View,
        discovery: &DiscoveryStatus,
        reader: Reader,
        keys: Option<&ApiKeys>,
    ) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.extend(state(view, discovery, reader).gather());
        if let (Reader::Operator, Some(keys)) = (reader, keys) {
            families.extend(keys.families());
        }
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&families, &mut text);
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl ModelSeries {
    fn new(label: &str) -> Self {
        Self { label: label.into(), routes: Default::default() }
    }
}

impl fmt::Debug for ModelMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelMeter").field(&self.0.get().map(|series| &series.label)).finish()
    }
}

/// What a view and the sources say, as metrics. Derived when asked for, so it cannot drift.
fn state(view: &View, discovery: &DiscoveryStatus, reader: Reader) -> Registry {
    let registry = Registry::new();
    let gauges = |name: &str, help: &str, label: &str| {
        let gauges = valid(IntGaugeVec::new(opts(name, help), &[label]));
        valid(registry.register(Box::new(gauges.clone())));
        gauges
    };
    let counters = |name: &str, help: &str| {
        let counters = valid(IntCounterVec::new(opts(name, help), &["source"]));
        valid(registry.register(Box::new(counters.clone())));
        counters
    };
    let single = |name: &str, help: &str, value: usize| {
        let gauge = valid(IntGauge::with_opts(opts(name, help)));
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        valid(registry.register(Box::new(gauge)));
    };

    let open = gauges("endpoint_open", "Whether the route is open", "endpoint");
    let models = gauges("live_models", "Models that serve the route", "endpoint");
    let instances =
        gauges("live_instances", "Instances that serve the route, without those held", "endpoint");
    for route in Route::ALL {
        let label = [route.name()];
        open.with_label_values(&label).set(view.is_open(route.kind()).into());
        let count = i64::try_from(view.models_of(route.kind())).unwrap_or(i64::MAX);
        models.with_label_values(&label).set(count);
        instances.with_label_values(&label).set(0);
    }
    let out = gauges("instances_out_of_rotation", "Instances out of rotation, by reason", "reason");
    for reason in Out::ALL {
        out.with_label_values(&[reason.name()]).set(0);
    }
    let mut held = 0;
    for instance in view.instances() {
        if let Some(reason) = view.out_of_rotation(instance) {
            out.with_label_values(&[reason.name()]).inc();
        }
        if view.is_held(instance) {
            held += 1;
            continue;
        }
        for route in Route::of(instance.kinds()) {
            instances.with_label_values(&[route.name()]).inc();
        }
    }
    single("held_instances", "Instances that serve though the store has lost them", held);
    let held_total = valid(IntCounter::with_opts(opts(
        "instances_held_total",
        "Instances that vanished from the store and were held, each time counted",
    )));
    held_total.inc_by(discovery.held());
    valid(registry.register(Box::new(held_total)));
    let disagreeing = view.models().filter(|model| model.disagrees()).count();
    single(
        "disagreeing_models",
        "Models whose instances serve different kinds or context lengths",
        disagreeing,
    );
    single("ready", "Whether every source has told once what there is", view.is_ready().into());

    let connected = gauges("discovery_connected", "Whether the source's watch runs", "source");
    let denied = gauges("discovery_denied", "Whether the source denies access", "source");
    let stale = valid(GaugeVec::new(
        opts("discovery_stale_seconds", "For how long the source has been away"),
        &["source"],
    ));
    valid(registry.register(Box::new(stale.clone())));
    let remembered = gauges(
        "discovery_remembered_instances",
        "Instances that serve from an earlier run, as the source has not answered yet",
        "source",
    );
    let resyncs = counters("discovery_resyncs_total", "Full lists after the first one");
    let refused = counters("discovery_refused_total", "Entries that were refused");
    for source in discovery.sources() {
        let label = [source.name()];
        connected.with_label_values(&label).set(source.connected().into());
        denied.with_label_values(&label).set(source.denied().into());
        stale.with_label_values(&label).set(source.stale_seconds());
        remembered
            .with_label_values(&label)
            .set(source.remembered().try_into().unwrap_or(i64::MAX));
        resyncs.with_label_values(&label).inc_by(source.resyncs());
        refused.with_label_values(&label).inc_by(source.refused());
    }
    if reader == Reader::Operator {
        let revision =
            gauges("discovery_revision", "The source's revision that is applied", "source");
        let out_of_scope =
            counters("discovery_out_of_scope_total", "Entries that were out of scope");
        for source in discovery.sources() {
            let label = [source.name()];
            let applied = source.revision().0.try_into().unwrap_or(i64::MAX);
            revision.with_label_values(&label).set(applied);
            out_of_scope.with_label_values(&label).inc_by(source.out_of_scope());
        }
    }
    registry
}

pub(crate) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("dynamo_frontend_{name}"), help)
}

/// Names and labels are literals.
pub(crate) fn valid<T>(result: prometheus::Result<T>) -> T {
    result.unwrap_or_else(|error| unreachable!("a metric is invalid: {error}"))
}

fn request_labels(
    model: &str,
    route: Route,
    stream: bool,
    code: StatusCode,
    success: bool,
) -> [String; 5] {
    [
        model.to_owned(),
        route.name().to_owned(),
        if stream { "stream" } else { "unary" }.to_owned(),
        if success { "success" } else { "error" }.to_owned(),
        code.as_str().to_owned(),
    ]
}

/// One request from its head to the end of its answer; counted when it is dropped.
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    model: Option<Arc<Model>>,
    /// What it counts against, where a key is required.
    slot: Option<Slot>,
    route: Route,
    stream: bool,
    began: Instant,
    first_byte: bool,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// The client left before its answer was complete.
    Left,
    /// The answer's head was sent, the rest has not been yet.
    Begun(StatusCode),
    /// It was answered in full.
    Answered(StatusCode),
    /// The answer broke.
    Broken(StatusCode),
}

impl Record {
    pub(crate) fn begin(metrics: &Arc<Metrics>, route: Route) -> Self {
        Self {
            metrics: metrics.clone(),
            model: None,
            slot: None,
            route,
            stream: false,
            began: Instant::now(),
            first_byte: false,
            outcome: Outcome::Left,
        }
    }

    /// The request is let in, by its key if it has one.
    pub(crate) fn admitted(&mut self, slot: Option<Slot>) {
        self.slot = slot;
    }

    /// The request is for this model, which is there.
    pub(crate) fn is_for(&mut self, model: &Arc<Model>, stream: bool) {
        self.model = Some(model.clone());
        self.stream = stream;
        self.route_meter().inflight.inc();
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome = Outcome::Answered(status);
    }

    pub(crate) fn begun(&mut self, status: StatusCode) {
        self.outcome = Outcome::Begun(status);
    }

    /// The rest of the answer was passed on.
    pub(crate) fn ended(&mut self) {
        if let Outcome::Begun(status) = self.outcome {
            self.outcome = Outcome::Answered(status);
        }
    }

    pub(crate) fn broke(&mut self) {
        if let Outcome::Begun(status) = self.outcome {
            self.outcome = Outcome::Broken(status);
        }
    }

    pub(crate) fn first_byte(&mut self) {
        if !std::mem::replace(&mut self.first_byte, true) {
            self.route_meter().first_byte.observe(self.began.elapsed().as_secs_f64());
        }
    }

    fn series(&self) -> &ModelSeries {
        match &self.model {
            Some(model) => self.metrics.series(&model.lasting().meter, model.name()),
            None => &self.metrics.unknown,
        }
    }

    fn route_meter(&self) -> &RouteMeter {
        self.metrics.route(self.series(), self.route)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        /// nginx's code for a client that closed before it was answered.
        const CLIENT_CLOSED: u16 = 499;

        let (status, whole) = match self.outcome {
            Outcome::Answered(status) => (status, true),
            Outcome::Broken(status) => (status, false),
            Outcome::Left | Outcome::Begun(_) => {
                (StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST), false)
            }
        };
        let series = self.series();
        let meter = self.metrics.route(series, self.route);
        let counter = || {
            let success = whole && status.is_success();
            let labels = request_labels(&series.label, self.route, self.stream, status, success);
            self.metrics.requests.with_label_values(&labels)
        };
        if whole && status == StatusCode::OK {
            meter.ok[usize::from(self.stream)].get_or_init(counter).inc();
        } else {
            counter().inc();
        }
        meter.duration.observe(self.began.elapsed().as_secs_f64());
        if self.model.is_some() {
            meter.inflight.dec();
        }
        if let Some(slot) = self.slot.take() {
            slot.ended(whole && status.is_success());
        }
    }
}

#[cfg(test)]
mod tests {
    use dynamo_namespace::NamespaceScope;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        let view = View::empty(NamespaceScope::All);
        String::from_utf8(metrics.render(
            &view,
            &DiscoveryStatus::default(),
            Reader::Operator,
            None,
        ))
        .unwrap()
    }

    #[test]
    fn the_number_of_series_is_bounded_however_many_models_are_asked_for() {
        let metrics = Metrics::new();
        let meters: Vec<ModelMeter> = (0..MAX_MODELS + 50).map(|_| ModelMeter::default()).collect();
        for (n, meter) in meters.iter().enumerate() {
            let series = metrics.series(meter, &format!("m{n}"));
            metrics.route(series, Route::ChatCompletions).inflight.inc();
        }
        let text = text(&metrics);
        let inflight: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("dynamo_frontend_inflight_requests{"))
            .collect();
        assert_eq!(inflight.len(), MAX_MODELS + 1);
        assert!(inflight.iter().any(|line| line.contains(OTHER_MODELS) && line.ends_with(" 50")));
    }

    #[test]
    fn a_model_that_several_views_show_has_one_series() {
        let metrics = Metrics::new();
        for _ in 0..MAX_MODELS + 1 {
            let meter = ModelMeter::default();
            metrics.route(metrics.series(&meter, "m"), Route::Completions).inflight.inc();
        }
        let line = format!(
            "dynamo_frontend_inflight_requests{{endpoint=\"completions\",model=\"m\"}} {}",
            MAX_MODELS + 1
        );
        assert!(text(&metrics).contains(&line));
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let metrics = Metrics::new();
        let meter = ModelMeter::default();
        metrics.route(metrics.series(&meter, "a\"} 1\\"), Route::Completions).inflight.inc();
        let text = text(&metrics);
        assert!(text.contains(r#"model="a\"} 1\\"} 1"#), "{text}");
    }
}
