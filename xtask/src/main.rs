//! Chores of this workspace: `cargo xtask --help`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is for people")]

mod apt;
mod bench;
mod chaos;
mod ci;
mod compat;
mod contents;
mod coverage;
mod demo;
mod dist;
mod docs;
mod downstream;
mod etcd;
mod http;
mod itest;
mod layering;
mod modules;
mod operators;
mod packages;
mod pages;
mod poll;
mod process;
mod pypi;
mod row;
mod signals;
mod version;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Chores of this workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Run the integration tests against a real etcd
    Itest(itest::Args),
    /// Run everything that must hold before a change lands
    Ci(ci::Args),
    /// Cause random faults under load, and check all recorded events
    Chaos(chaos::Args),
    /// Show the main job on this machine: two teams, their frontends and workers
    Demo(demo::Args),
    /// Run real engines and real clients through our programs, and print what works
    Compat(compat::Args),
    /// Try what operators use on a live frontend: the status page in Chromium, dashboards and alerts in
    /// Prometheus
    Operators(operators::Args),
    /// Build what people install into target/dist
    Dist(dist::Args),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Put a new version everywhere it stands, and into the changelog
    Version(version::Args),
    /// Build the compose file's etcd image from the machine's own binary, without a registry
    EtcdImage,
}

fn main() -> ExitCode {
    let command = Command::parse();
    match signals::catch_signals().and_then(|()| run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let interrupted = error.is::<signals::Interrupted>();
            ExitCode::from(if interrupted { 130 } else { 1 })
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Itest(args) => itest::run(&args),
        Command::Ci(args) => ci::run(args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Compat(args) => compat::run(&args),
        Command::Operators(args) => operators::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Bench(bench) => bench::run(&bench),
        Command::Version(args) => version::run(&args),
        Command::EtcdImage => {
            println!("built {}", etcd::build_image()?);
            Ok(())
        }
    }
}
