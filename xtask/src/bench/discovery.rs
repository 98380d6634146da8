//! `cargo xtask bench discovery`: a put until the route is open, beside a put until the raw event.

use anyhow::Result;

use crate::{etcd, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    etcd: etcd::Source,
}

/// The measuring is in `tests/benches`, since xtask depends on none of the crates.
pub(crate) fn run(args: &Args) -> Result<()> {
    let etcd = etcd::provision(&args.etcd)?;
    println!("etcd: {} ({})", etcd.endpoints, etcd.origin);
    let mut command = workspace::cargo(["bench", "-p", "dynamo-tests", "--bench", "discovery"]);
    process::run(command.env(etcd::ENDPOINTS_VAR, &etcd.endpoints))
}
