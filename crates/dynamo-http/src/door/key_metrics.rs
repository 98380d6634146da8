//! The metrics of API keys.
//!
//! They are read from the keys that are valid now, so there are never more series than keys.

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use crate::access::ApiKeys;
use crate::meter::{opts, valid};

/// The metrics of all keys. They are for operators only, since they name every key.
pub(super) fn families(keys: &ApiKeys) -> Vec<MetricFamily> {
    let requests = valid(IntCounterVec::new(
        opts("key_requests_total", "Proxied requests by key, counted when they have ended"),
        &["key", "status"],
    ));
    let limited = valid(IntCounterVec::new(
        opts("key_limited_total", "Requests that were refused by a limit of their key"),
        &["key", "limit"],
    ));
    let in_flight = valid(IntGaugeVec::new(
        opts("key_inflight_requests", "Proxied requests that are being answered, by key"),
        &["key"],
    ));
    let unauthorized =
        valid(IntCounter::with_opts(opts("unauthorized_total", "Requests without a valid key")));
    for tenant in keys.tenants() {
        let (name, counts) = (tenant.name.as_str(), tenant.usage.counts());
        requests.with_label_values(&[name, "success"]).inc_by(counts.succeeded);
        requests.with_label_values(&[name, "error"]).inc_by(counts.failed);
        limited.with_label_values(&[name, "rate"]).inc_by(counts.too_fast);
        limited.with_label_values(&[name, "concurrency"]).inc_by(counts.too_many);
        in_flight.with_label_values(&[name]).set(counts.in_flight.into());
    }
    unauthorized.inc_by(keys.unauthorized());
    [requests.collect(), limited.collect(), in_flight.collect(), unauthorized.collect()]
        .into_iter()
        .flatten()
        // An empty family has no text.
        .filter(|family| !family.get_metric().is_empty())
        .collect()
}
