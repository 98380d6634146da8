//! `cargo xtask bench`: comparisons with other programs, measured on this machine.

mod case;
mod contender;
mod discovery;
mod figures;
mod instructions;
mod metrics;
mod proxy;
mod routing;
mod start;
mod usage;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Our frontend beside nginx, haproxy and Envoy: latency, CPU per request and per token, memory, start
    Proxy(proxy::Args),
    /// The time from a put until the route is open, beside the time until etcd's own event
    Discovery(discovery::Args),
    /// A scrape of `/metrics` with many keys and models, and what chats notice of it
    Metrics(metrics::Args),
    /// Policies of routing in front of simulated engines, in virtual time: cache hits, time to the first token
    Routing(routing::Args),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Proxy(args) => proxy::run(args),
        Bench::Discovery(args) => discovery::run(args),
        Bench::Metrics(args) => metrics::run(args),
        Bench::Routing(args) => routing::run(args),
    }
}
