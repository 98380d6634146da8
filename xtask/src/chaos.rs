//! `cargo xtask chaos`: random faults under load, and a check of all recorded events.

use anyhow::Result;

use crate::{etcd, itest, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long faults happen
    #[arg(long, default_value_t = 1)]
    pub(crate) minutes: u64,
    /// Chooses the faults; without it, one is drawn, and printed
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// Runs `tests/chaos`, which has the code, since xtask depends on none of the crates.
pub(crate) fn run(args: &Args) -> Result<()> {
    process::run(&mut workspace::cargo(["build", "-p", "dynamo-cli", "--bins"]))?;
    let minutes = args.minutes.to_string();
    let mut command = workspace::cargo(["run", "-q", "-p", "dynamo-tests", "--bin", "chaos", "--"]);
    command.args(["--minutes", &minutes]);
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    command.env(itest::BINARIES_VAR, workspace::debug_binaries()?);
    process::run(command.env(etcd::BINARY_VAR, etcd::binary(None)?))
}
