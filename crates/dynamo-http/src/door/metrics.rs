//! The page `/metrics`: the counters, and the state of the view and the sources as it is now.

use prometheus::{
    Encoder as _, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use super::state::{Reader, State};
use super::{key_metrics, scope_metrics};
use crate::fleet::reasons;
use crate::meter::{opts, valid};
use crate::route::Route;

/// The page in Prometheus' text format.
pub(super) fn text(state: &State, reader: Reader) -> Vec<u8> {
    let mut families = state.proxy.forwarder.metrics.families();
    families.extend(facts(state, reader).gather());
    if reader == Reader::Operator {
        let forwarder = &state.proxy.forwarder;
        let inflight = forwarder.fleet.inflight();
        let inflight = inflight.iter().map(|(series, requests)| (series.label(), *requests));
        families.extend(forwarder.metrics.worker_families(inflight));
    }
    if let (Reader::Operator, Some(keys)) = (reader, &state.keys) {
        families.extend(key_metrics::families(keys));
    }
    if reader == Reader::Operator {
        families.extend(scope_metrics::families(state));
    }
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = TextEncoder::new().encode(&families, &mut text);
    if let (Reader::Operator, Some(program)) = (reader, &state.program_metrics) {
        text.extend_from_slice(program.text().as_bytes());
    }
    text
}

/// The state of the view and the sources as metrics. Each scrape derives them anew, so they cannot
/// drift.
fn facts(state: &State, reader: Reader) -> Registry {
    let (view, discovery) = (state.all.load(), &state.discovery);
    let fleet = &state.proxy.forwarder.fleet;
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
    let unroutable = gauges(
        "unroutable_instances",
        "Instances of the route that are registered without a URL, and get no request",
        "endpoint",
    );
    for route in Route::ALL {
        let label = [route.name()];
        open.with_label_values(&label).set(view.is_open(route.kind()).into());
        let count = i64::try_from(view.models_of(route.kind())).unwrap_or(i64::MAX);
        models.with_label_values(&label).set(count);
        instances.with_label_values(&label).set(0);
        unroutable.with_label_values(&label).set(0);
    }
    let out = gauges("instances_out_of_rotation", "Instances out of rotation, by reason", "reason");
    for reason in reasons() {
        out.with_label_values(&[reason]).set(0);
    }
    let mut held = 0;
    for instance in view.instances() {
        if let Some(outage) = fleet.out_of_rotation(instance) {
            out.with_label_values(&[outage.reason]).inc();
        }
        if view.is_held(instance) {
            held += 1;
            continue;
        }
        for route in Route::of(instance.kinds()) {
            instances.with_label_values(&[route.name()]).inc();
            if instance.url().is_none() {
                unroutable.with_label_values(&[route.name()]).inc();
            }
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

    let memory = &state.proxy.limits.memory;
    single("body_memory_bytes", "Memory that request bodies take", memory.used());
    single("body_memory_limit_bytes", "Most memory for request bodies", memory.limit());
    if let Some(connections) = &state.connections {
        single("connections", "Connections of clients that are open", connections.open());
        if let Some(limit) = connections.limit() {
            single("connections_limit", "Most connections of clients", limit.get());
        }
        let counter = |name: &str, help: &str, value: u64| {
            let counter = valid(IntCounter::with_opts(opts(name, help)));
            counter.inc_by(value);
            valid(registry.register(Box::new(counter)));
        };
        let refused = "Connections that a limit of connections refused";
        counter("connections_refused_total", refused, connections.refused());
        let failed = "How often no connection could be accepted, such as for want of descriptors";
        counter("accept_errors_total", failed, connections.accept_errors());
    }

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
    let ignored = counters("discovery_ignored_total", "Invalid fields of live entries");
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
        ignored.with_label_values(&label).inc_by(source.ignored());
    }
    if reader == Reader::Operator {
        let revision =
            gauges("discovery_revision", "The source's revision that is applied", "source");
        let blocks = fleet.placement().blocks();
        single(
            "placement_blocks",
            "Blocks of prompts that are remembered, each at each worker",
            blocks,
        );
        single(
            "placement_frontends",
            "Frontends that send requests to the same workers, as `cache-aware` counts them",
            fleet.placement().frontends().count().get(),
        );
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
