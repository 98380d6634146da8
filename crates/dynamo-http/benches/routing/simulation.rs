//! One cell: a workload, a number of engines, a policy.

use std::sync::Arc;

use crate::engine::{Engine, Event, Spec};
use crate::policy::Policy;
use crate::workload::Request;

/// The figures of a cell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// The share of prompt tokens that were cached.
    pub(crate) hits: f64,
    /// Milliseconds to the first token.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    /// The prompt tokens that the busiest engine computed, divided by the mean.
    pub(crate) imbalance: f64,
}

impl Figures {
    /// The figures of times to the first token in seconds, of which there is at least one, of the prompt
    /// tokens that were cached, and of those that each engine computed.
    pub(crate) fn of(first: &mut [f64], cached: usize, computed: &[usize]) -> Self {
        first.sort_by(f64::total_cmp);
        let quantile = |share: f64| first[((first.len() - 1) as f64 * share) as usize] * 1000.0;
        let all = computed.iter().sum::<usize>() as f64;
        let mean = all / computed.len() as f64;
        Self {
            hits: cached as f64 / (cached as f64 + all),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            imbalance: computed.iter().copied().max().unwrap_or(0) as f64 / mean.max(1.0),
        }
    }

    /// The mean of several.
    pub(crate) fn mean(all: &[Self]) -> Self {
        let mean = |part: fn(&Self) -> f64| all.iter().map(part).sum::<f64>() / all.len() as f64;
        Self {
            hits: mean(|one| one.hits),
            p50: mean(|one| one.p50),
            p90: mean(|one| one.p90),
            p99: mean(|one| one.p99),
            imbalance: mean(|one| one.imbalance),
        }
    }
}

/// Runs all requests to their end.
pub(crate) fn run(requests: &[Arc<Request>], specs: &[Spec], policy: &mut dyn Policy) -> Figures {
    let mut engines: Vec<_> = specs.iter().map(|spec| Engine::new(*spec)).collect();
    let mut at = vec![0; requests.len()];
    let mut first = Vec::with_capacity(requests.len());
    let mut cached_tokens = 0;
    let mut computed = vec![0; specs.len()];
    let mut events = Vec::new();
    let mut next = 0;
    loop {
        let step = (0..engines.len())
            .filter_map(|n| engines[n].step_ends.map(|ends| (ends, n)))
            .min_by(|one, other| one.0.total_cmp(&other.0));
        let arrival = requests.get(next).map(|request| request.at);
        match (step, arrival) {
            (Some((ends, engine)), arrival) if arrival.is_none_or(|arrival| ends <= arrival) => {
                engines[engine].step(ends, &mut events);
                for event in events.drain(..) {
                    match event {
                        Event::First { request, cached } => {
                            first.push(ends - requests[request].at);
                            cached_tokens += cached;
                            computed[at[request]] += requests[request].prompt - cached;
                            policy.first(request, cached, ends);
                        }
                        Event::Ended { request } => policy.ended(request, &requests[request], ends),
                    }
                }
            }
            (_, Some(arrival)) => {
                let request = &requests[next];
                let chosen = policy.choose(next, request, &engines, arrival);
                at[next] = chosen;
                engines[chosen].submit(next, request.clone(), arrival);
                next += 1;
            }
            _ => break,
        }
    }
    Figures::of(&mut first, cached_tokens, &computed)
}
