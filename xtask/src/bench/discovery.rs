//! `cargo xtask bench discovery`: a put until the route is open, beside a put until the raw event;
//! with `--scale`, what many entries and many events cost.

use anyhow::Result;

use crate::{etcd, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    etcd: etcd::Source,
    /// What many entries and many events cost, each beside the raw figure; empties `models/`
    #[arg(long)]
    scale: bool,
}

/// The measuring is in `tests/benches`, since xtask depends on none of the crates.
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
