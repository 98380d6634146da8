//! The metrics of API keys.
//!
//! They are read from the keys that are valid now, so there are never more series than keys.

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec};

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
    let tokens = valid(IntCounterVec::new(
        opts("key_tokens_total", "Tokens of answers that were read, by key"),
        &["key", "direction"],
    ));
    let estimated = valid(IntCounterVec::new(
        opts("key_estimated_tokens_total", "Those of the tokens that no engine told"),
        &["key", "direction"],
    ));
    let remaining = valid(GaugeVec::new(
        opts("key_limit_remaining_ratio", "Part of a key's limit that is left, from 1 to 0"),
        &["key", "limit"],
    ));
    let unauthorized =
        valid(IntCounter::with_opts(opts("unauthorized_total", "Requests without a valid key")));
    for tenant in keys.tenants() {
        let (name, counts) = (tenant.name.as_str(), tenant.usage.counts());
        requests.with_label_values(&[name, "success"]).inc_by(counts.succeeded);
        requests.with_label_values(&[name, "error"]).inc_by(counts.failed);
        limited.with_label_values(&[name, "rate"]).inc_by(counts.too_fast);
        limited.with_label_values(&[name, "concurrency"]).inc_by(counts.too_many);
        for (limit, refused) in ["tokens", "quota", "size"].into_iter().zip(counts.denied) {
            limited.with_label_values(&[name, limit]).inc_by(refused);
        }
        in_flight.with_label_values(&[name]).set(counts.in_flight.into());
        for (family, counts) in [(&tokens, counts.tokens), (&estimated, counts.estimated)] {
            for (direction, count) in ["input", "output"].into_iter().zip(counts) {
                family.with_label_values(&[name, direction]).inc_by(count);
            }
        }
        for (limit, part) in tenant.remaining() {
            remaining.with_label_values(&[name, &limit]).set(part);
        }
    }
    unauthorized.inc_by(keys.unauthorized());
    let families = [
        requests.collect(),
        limited.collect(),
        in_flight.collect(),
        tokens.collect(),
        estimated.collect(),
        remaining.collect(),
        unauthorized.collect(),
    ];
    // An empty family has no text.
    families.into_iter().flatten().filter(|family| !family.get_metric().is_empty()).collect()
}
