//! `cargo xtask bench`: how we compare, measured here and now.

mod contender;
mod cpu;
mod proxy;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Our frontend beside nginx and haproxy: requests/s, latency, CPU per request and per token
    Proxy(proxy::Args),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Proxy(args) => proxy::run(args),
    }
}
