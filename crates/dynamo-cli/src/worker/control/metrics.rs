//! The control port's page of metrics, made from the facts whenever it is asked for.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use prometheus::{
    Encoder as _, Gauge, IntCounter, IntCounterVec, Opts, Registry, TextEncoder, core::Collector,
};
use tokio::time::Instant;

use super::facts::Facts;
use crate::engine::Probe;
use crate::worker::register::Offering;

/// Everything, in Prometheus' text format. There are no names in it: who reaches the port may not
/// be of the worker's namespace.
pub(super) async fn page(State(facts): State<Facts>) -> Response {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = TextEncoder::new().encode(&gather(&facts).unwrap_or_default().gather(), &mut text);
    text.extend_from_slice(facts.certificates.text("dynamo_worker").as_bytes());
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

fn gather(facts: &Facts) -> prometheus::Result<Registry> {
    let page = Page(Registry::new());
    let engine = facts.engine.borrow().clone();
    page.gauge(
        "engine_up",
        "Whether the engine is in service: 1, or 0",
        f64::from(u8::from(engine.health.in_service())),
    )?;
    page.gauge(
        "engine_silent_seconds",
        "For how long nothing was heard of the engine",
        engine.health.silent_for(Instant::now()).as_secs_f64(),
    )?;
    page.counter(
        "engine_restarts_total",
        "How often the engine started anew while it was followed",
        engine.restarts,
    )?;
    if let Some(started) = engine.started {
        page.gauge(
            "engine_start_time_seconds",
            "When the engine started, in unix seconds",
            float(started),
        )?;
    }
    if let Some(load) = engine.load {
        page.gauge(
            "engine_requests_running",
            "Requests that the engine generates for",
            float(load.running),
        )?;
        page.gauge(
            "engine_requests_waiting",
            "Requests that wait in the engine's queue",
            float(load.waiting),
        )?;
    }
    let probes =
        Opts::new("dynamo_worker_probes_total", "Probes of the engine, by what they showed");
    let probes = IntCounterVec::new(probes, &["result"])?;
    for (name, count) in Probe::NAMES.iter().zip(engine.probes) {
        probes.with_label_values(&[name]).inc_by(count);
    }
    page.add(probes)?;
    let registration = *facts.registration.borrow();
    page.gauge(
        "lease_held",
        "Whether a lease of the store is held: 1, or 0",
        f64::from(u8::from(registration.has_lease)),
    )?;
    page.counter("leases_lost_total", "Leases that were lost", registration.leases_lost)?;
    page.gauge(
        "registered_models",
        "Models that were registered last; they count while the store is away",
        float(registration.models as u64),
    )?;
    page.counter(
        "registrations_total",
        "How often the store was brought to what should be registered",
        registration.registrations,
    )?;
    page.counter("registration_failures_total", "How often that failed", registration.failures)?;
    page.gauge(
        "draining",
        "Whether the worker was told to drain, or ends: 1, or 0",
        f64::from(u8::from(*facts.offering.borrow() != Offering::Open)),
    )?;
    Ok(page.0)
}

/// A page in the making.
struct Page(Registry);

impl Page {
    fn add(&self, series: impl Collector + 'static) -> prometheus::Result<()> {
        self.0.register(Box::new(series))
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let gauge = Gauge::new(format!("dynamo_worker_{name}"), help)?;
        gauge.set(value);
        self.add(gauge)
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = IntCounter::new(format!("dynamo_worker_{name}"), help)?;
        counter.inc_by(value);
        self.add(counter)
    }
}

/// A count as Prometheus has it.
#[expect(clippy::cast_precision_loss, reason = "no count comes near 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
