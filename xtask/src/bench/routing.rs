//! `cargo xtask bench routing`: policies of routing in front of simulated engines, in virtual time or
//! as programs over HTTP.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use super::contender::OURS;
use crate::{
    process::{self, capture},
    workspace,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the workloads with these names, separated by commas
    #[arg(long, value_name = "NAMES")]
    only: Option<String>,
    /// Only these policies, separated by commas
    #[arg(long, value_name = "NAMES")]
    policies: Option<String>,
    /// The seeds of the workloads, separated by commas; figures are means
    #[arg(long, value_name = "NUMBERS", default_value = "1,2,3")]
    seeds: String,
    /// So many frontends, which share nothing
    #[arg(long, default_value_t = 1)]
    frontends: usize,
    /// Also the trace in this file, in Mooncake's format
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The trace's time is stretched by this factor
    #[arg(long, default_value_t = 3.0)]
    stretch: f64,
    /// Blocks of 16 tokens in an engine's cache
    #[arg(long, default_value_t = 12_288)]
    blocks: usize,
    /// Prompt tokens that an engine reads in a second
    #[arg(long, default_value_t = 10_000.0)]
    prefill: f64,
    /// Requests in a second, as a multiple of each workload's own
    #[arg(long, default_value_t = 1.0)]
    load: f64,
    /// In real time instead: our frontend as a program, before engines that answer over HTTP; chats,
    /// documents and agents unless --only names others, and the first seed
    #[arg(long)]
    real: bool,
    /// With --real, also this older dynamo-frontend, in the mode that is its default
    #[arg(long, value_name = "PATH", requires = "real")]
    before: Option<PathBuf>,
    /// With --real, also this router, from PyPI
    #[arg(long, value_enum, requires = "real")]
    peer: Option<Peer>,
    /// Measure what a choice costs of time and memory instead, on this machine
    #[arg(long)]
    cost: bool,
}

/// A router of others.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Peer {
    /// SGLang's model gateway, `cache_aware` by default
    Smg,
}

/// Runs the bench of `dynamo-http`, which has the code, since xtask depends on none of the crates.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut command = workspace::cargo(["bench", "-p", "dynamo-http", "--bench", "routing", "--"]);
    let number = |number: &dyn ToString| number.to_string();
    command.args(["--seeds", &args.seeds, "--frontends", &number(&args.frontends)]);
    command.args(["--stretch", &number(&args.stretch), "--blocks", &number(&args.blocks)]);
    command.args(["--prefill", &number(&args.prefill), "--load", &number(&args.load)]);
    for (name, value) in [("--only", &args.only), ("--policies", &args.policies)] {
        command.args(value.iter().flat_map(|value| [name, value]));
    }
    if let Some(file) = &args.trace {
        // The bench runs in the directory of its crate.
        let file =
            file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
        command.arg("--trace").arg(file);
    }
    if args.cost {
        command.arg("--cost");
    }
    if args.real {
        process::run(
            workspace::cargo(["build", "--release", "-p", "dynamo-cli", "--bin"]).arg(OURS),
        )?;
        command
            .arg("--real")
            .arg("--frontend")
            .arg(workspace::target()?.join("release").join(OURS));
        if let Some(before) = &args.before {
            let program = before.canonicalize();
            let program = program.with_context(|| format!("cannot read {}", before.display()))?;
            command.arg("--before").arg(program);
        }
        if let Some(Peer::Smg) = args.peer {
            command.arg("--smg").arg(smg()?);
        }
    }
    process::run(&mut command)
}

/// The directory of smg's packages, which pip fills in the first run.
fn smg() -> Result<PathBuf> {
    let place = workspace::tools()?.join("smg");
    let package = place.join("smg/__init__.py");
    if !package.is_file() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]);
        capture(pip.arg(&place).arg("smg"))?;
        ensure!(package.is_file(), "the package smg has no {}", package.display());
    }
    Ok(place)
}
