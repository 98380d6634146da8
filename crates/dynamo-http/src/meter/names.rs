//! What all metrics of a frontend have in common.

use prometheus::Opts;

pub(crate) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("dynamo_frontend_{name}"), help)
}

/// Names and labels are literals.
pub(crate) fn valid<T>(result: prometheus::Result<T>) -> T {
    result.unwrap_or_else(|error| unreachable!("a metric is invalid: {error}"))
}
