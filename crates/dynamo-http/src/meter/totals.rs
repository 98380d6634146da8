//! What the series of a model or of a worker have counted so far, for readers who compare two moments.

use prometheus::core::Collector;
use prometheus::proto::Histogram;

/// The counts of a model or of a worker at one moment. They only grow.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    /// Requests that have ended.
    pub(crate) requests: u64,
    /// Of these, the ones that were no success. A client that left is among them.
    pub(crate) errors: u64,
    /// The times to the first content.
    pub(crate) first_token: Distribution,
    /// Tokens of prompts.
    pub(crate) input: u64,
    /// Tokens of answers.
    pub(crate) output: u64,
    /// Tokens of prompts that were in a cache, as the engines tell.
    pub(crate) cached: u64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    /// The upper bound of each bucket, and how many values lie below it.
    buckets: Vec<(f64, u64)>,
    count: u64,
}

impl Totals {
    /// What was counted after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            first_token: self.first_token.since(&before.first_token),
            input: self.input.saturating_sub(before.input),
            output: self.output.saturating_sub(before.output),
            cached: self.cached.saturating_sub(before.cached),
        }
    }
}

impl Distribution {
    /// The values in all histograms of a collector.
    pub(super) fn of(collector: &impl Collector) -> Self {
        let families = collector.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics.map(|metric| metric.get_histogram()).fold(Self::default(), Self::and)
    }

    fn and(mut self, histogram: &Histogram) -> Self {
        let bounds = histogram.get_bucket();
        if self.buckets.is_empty() {
            self.buckets = bounds.iter().map(|bucket| (bucket.upper_bound(), 0)).collect();
        }
        for ((_, below), bucket) in self.buckets.iter_mut().zip(bounds) {
            *below += bucket.cumulative_count();
        }
        self.count += histogram.get_sample_count();
        self
    }

    fn since(&self, before: &Self) -> Self {
        let below = |at: usize| before.buckets.get(at).map_or(0, |(_, below)| *below);
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets
                .map(|(at, (bound, count))| (*bound, count.saturating_sub(below(at))))
                .collect(),
            count: self.count.saturating_sub(before.count),
        }
    }

    /// The value below which this share of the values lies, as Prometheus' `histogram_quantile`
    /// estimates it: values are spread evenly within a bucket, and the last bound stands for all
    /// above it. `None` without a value.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = share * self.count as f64;
        let (mut bound_before, mut below_before) = (0.0, 0);
        for (bound, below) in &self.buckets {
            if *below as f64 >= rank && *below > below_before {
                let within = (rank - below_before as f64) / (below - below_before) as f64;
                return Some(bound_before + (bound - bound_before) * within);
            }
            (bound_before, below_before) = (*bound, *below);
        }
        Some(bound_before)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec};

    use super::*;

    fn observed(values: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new("h", "h").buckets(vec![0.1, 0.2, 0.4]);
        let histogram = HistogramVec::new(opts, &["route"]).unwrap();
        for (n, value) in values.iter().enumerate() {
            histogram.with_label_values(&[["a", "b"][n % 2]]).observe(*value);
        }
        histogram
    }

    #[test]
    fn a_quantile_is_that_of_the_values_of_all_routes() {
        let all = Distribution::of(&observed(&[0.05, 0.15, 0.15, 0.3]));
        assert_eq!(all.quantile(0.25), Some(0.1));
        assert_eq!(all.quantile(0.5).map(|value| (value * 1e3).round()), Some(150.0));
        assert_eq!(all.quantile(1.0), Some(0.4));
        assert_eq!(Distribution::of(&observed(&[9.0])).quantile(0.5), Some(0.4));
        assert_eq!(Distribution::of(&observed(&[])).quantile(0.5), None);
    }

    #[test]
    fn only_what_came_after_an_earlier_moment_counts() {
        let before = Totals {
            requests: 2,
            first_token: Distribution::of(&observed(&[0.05, 0.05])),
            ..Totals::default()
        };
        let now = Totals {
            requests: 3,
            input: 7,
            first_token: Distribution::of(&observed(&[0.05, 0.05, 0.3])),
            ..Totals::default()
        };
        let since = now.since(&before);
        assert_eq!((since.requests, since.input, since.first_token.count), (1, 7, 1));
        assert!(since.first_token.quantile(0.5).unwrap() > 0.2);
        assert_eq!(now.since(&now).first_token.quantile(0.5), None);
        assert_eq!(now.since(&Totals::default()), now);
    }
}
