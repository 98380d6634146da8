//! The names of a frontend's metrics.

use prometheus::Opts;

/// The full name of a metric, and its help text.
pub(crate) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("dynamo_frontend_{name}"), help)
}

/// The value of a constructor of a metric. All names and labels are literals, so none is invalid.
pub(crate) fn valid<T>(result: prometheus::Result<T>) -> T {
    result.unwrap_or_else(|error| unreachable!("a metric is invalid: {error}"))
}
