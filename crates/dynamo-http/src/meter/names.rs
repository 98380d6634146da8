//! The names of a frontend's metrics.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, Opts};

/// Buckets in seconds, from a cached answer to a long generation: up to the longest deadline.
pub(super) const DURATION: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1800.0, 3600.0,
];
/// Buckets in seconds, up to the deadline of the first byte.
pub(super) const FIRST: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];
/// Buckets in seconds between two tokens.
pub(super) const BETWEEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];
/// Buckets in tokens.
pub(super) const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    128.0,
    256.0,
    512.0,
    1024.0,
    2048.0,
    4096.0,
    8192.0,
    16384.0,
    32768.0,
    65536.0,
    131_072.0,
    262_144.0,
    1_048_576.0,
];

/// The full name of a metric, and its help text.
pub(crate) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("dynamo_frontend_{name}"), help)
}

/// The full name of a histogram, its help text and its buckets.
pub(super) fn buckets(opts: Opts, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::from(opts).buckets(buckets.to_vec())
}

/// The value of a constructor of a metric. All names and labels are literals, so none is invalid.
pub(crate) fn valid<T>(result: prometheus::Result<T>) -> T {
    result.unwrap_or_else(|error| unreachable!("a metric is invalid: {error}"))
}

/// Joins the families of one name, which several series have told apart, and leaves out empty ones,
/// which have no text.
pub(super) fn joined(families: impl IntoIterator<Item = MetricFamily>) -> Vec<MetricFamily> {
    let mut by_name = BTreeMap::<String, MetricFamily>::new();
    for mut family in families {
        match by_name.get_mut(family.name()) {
            Some(joined) => joined.mut_metric().extend(family.take_metric()),
            None if family.get_metric().is_empty() => {}
            None => {
                by_name.insert(family.name().to_owned(), family);
            }
        }
    }
    for family in by_name.values_mut() {
        family.mut_metric().sort_by_cached_key(|metric| {
            let labels = metric.get_label().iter();
            labels.map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect::<Vec<_>>()
        });
    }
    by_name.into_values().collect()
}
