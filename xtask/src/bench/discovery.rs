//! `cargo xtask bench discovery`: the time from a put until the route is open, beside the time
//! until the raw event; with `--scale`, the cost of many entries and many events.

use anyhow::Result;

use crate::{etcd, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    etcd: etcd::Source,
    /// Measure the cost of many entries and many events, beside the raw values; empties `models/`
    #[arg(long)]
    scale: bool,
}

/// Runs `tests/benches`, which has the code, since xtask depends on none of the crates.
pub(crate) fn run(args: &Args) -> Result<()> {
    let etcd = etcd::provision(&args.etcd)?;
    println!("etcd: {} ({})", etcd.endpoints, etcd.origin);
    let bench = if args.scale {
        process::run(&mut workspace::cargo(["build", "--release", "-p", "dynamo-cli", "--bins"]))?;
        "scale"
    } else {
        "discovery"
    };
    let mut command = workspace::cargo(["bench", "-p", "dynamo-tests", "--bench", bench]);
    command.env(etcd::ENDPOINTS_VAR, &etcd.endpoints);
    command.env("DYN_TEST_BIN_DIR", workspace::target()?.join("release"));
    process::run(&mut command)
}
