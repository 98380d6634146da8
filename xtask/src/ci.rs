//! `cargo xtask ci`: everything that must hold before a change lands.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    chaos, contents, coverage, downstream,
    etcd::{self, Mode},
    itest, layering, modules, operators, pages, process,
    row::{Features, Row, Targets},
    workspace,
};

/// The tests that need neither an etcd nor anything else.
const TESTS: [Row; 13] = [
    Row::of("dynamo-namespace", Features::Default, Targets::All),
    Row::of("dynamo-namespace", Features::All, Targets::All),
    Row::of("dynamo-discovery", Features::Default, Targets::All),
    // Its integration tests with all features need an etcd, so `itest` runs them.
    Row::of("dynamo-discovery", Features::All, Targets::Lib),
    Row::of("dynamo-discovery", Features::All, Targets::Doc),
    // The conformance suite on stores that break the contract, and on one that keeps it.
    Row::of("dynamo-discovery", Features::All, Targets::Test("mutants")),
    Row::of("dynamo-discovery", Features::All, Targets::Example("own_store")),
    Row::of("dynamo-http", Features::None, Targets::All),
    Row::of("dynamo-http", Features::Default, Targets::All),
    Row::of("dynamo-http", Features::All, Targets::All),
    Row::of("dynamo-cli", Features::Default, Targets::All),
    Row::of("xtask", Features::All, Targets::All),
    Row::of("xtask-protoc", Features::Default, Targets::All),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only the steps whose name contains this, for instance "layering"
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut steps = Steps { only: args.only.unwrap_or_default(), ended: Vec::new() };
    let outcome = all(&mut steps);
    steps.summary();
    outcome?;
    ensure!(!steps.ended.is_empty(), "no step has a name with {:?} in it", steps.only);
    Ok(())
}

fn all(steps: &mut Steps) -> Result<()> {
    steps.run("lockfile", || {
        let mut command = workspace::cargo(["metadata", "--locked", "--format-version", "1"]);
        process::capture(&mut command).map(drop)
    })?;
    steps.run("formatting", || cargo(&["fmt", "--all", "--check"]))?;
    steps.run("layering of crates", layering::check)?;
    steps.run("layering of modules", modules::check)?;
    steps.run("coverage", || {
        coverage::check(&[&TESTS[..], &itest::suites(false), &itest::suites(true)].concat())
    })?;
    steps.run("troubleshooting page", crate::docs::check)?;
    steps.run("tests and addresses in the pages", pages::check)?;
    steps.run("contents of packages", contents::check)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--"];
    steps.run("clippy", || cargo(&[&clippy[..], &["-D", "warnings"]].concat()))?;
    for row in TESTS {
        let mut command = row.command();
        steps.run(&process::shown(&command), || process::run(&mut command))?;
    }
    steps.run("seeds of the fuzz targets", || {
        // The lockfile and the target directory are those of the workspace, so that most crates are
        // built already.
        let lock = workspace::root().join("Cargo.lock");
        fs::copy(lock, workspace::root().join("fuzz/Cargo.lock"))?;
        let target = workspace::target()?.display().to_string();
        let seeds = ["test", "--manifest-path", "fuzz/Cargo.toml", "--no-default-features"];
        cargo(&[&seeds[..], &["--lib", "--target-dir", &target]].concat())
    })?;
    steps.run("combinations of features", downstream::check)?;
    steps.run("documentation", || {
        let mut command = workspace::cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
        process::run(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.run("itest, etcd local", || itest(Mode::Local))?;
    steps.run("what operators use", || {
        operators::run(&operators::Args {
            etcd: etcd::Source::of(Mode::Local),
            browser_if_there: true,
        })
    })?;
    steps.run("chaos, one minute", || chaos::run(&chaos::Args { minutes: 1, seed: Some(1) }))?;
    if etcd::engine_runs() {
        steps.run("itest, etcd in compose", || {
            etcd::build_image_if_absent()?;
            itest(Mode::Compose)
        })?;
    } else {
        println!("\nno Docker engine here: the compose path is not tried");
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    process::run(&mut workspace::cargo(args.iter().copied()))
}

fn itest(mode: Mode) -> Result<()> {
    itest::run(&itest::Args { etcd: etcd::Source::of(mode), cargo_test: Vec::new() })
}

struct Steps {
    /// What the name of a step must contain for it to run.
    only: String,
    /// The steps so far: the name, the time that it took, and whether it passed.
    ended: Vec<(String, Duration, bool)>,
}

impl Steps {
    fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        if !name.contains(&self.only) {
            return Ok(());
        }
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = step();
        self.ended.push((name.into(), started.elapsed(), outcome.is_ok()));
        outcome.with_context(|| format!("ci: the step \"{name}\" failed"))
    }

    fn summary(&self) {
        println!("\n== summary");
        for (name, took, passed) in &self.ended {
            let mark = if *passed { "" } else { "  FAILED" };
            println!("{:7.1} s  {name}{mark}", took.as_secs_f64());
        }
    }
}
