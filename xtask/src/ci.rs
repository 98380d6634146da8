//! `cargo xtask ci`: everything that must hold before a change lands.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    chaos,
    etcd::{self, Mode},
    itest, layering, modules, process, workspace,
};

/// What is tested alone. A build of the whole workspace would unify the features and hide what is
/// missing.
const TESTS: [&[&str]; 8] = [
    &["dynamo-namespace"],
    &["dynamo-namespace", "--features", "serde"],
    &["dynamo-discovery"],
    // The backend's own units. Its conformance needs an etcd, so that is for itest.
    &["dynamo-discovery", "--features", "etcd-tls,test-util", "--lib"],
    &["dynamo-http"],
    &["dynamo-http", "--features", "tls", "--test", "proxy"],
    &["dynamo-cli"],
    &["xtask"],
];

/// Features that must build without the others.
const FEATURES: [&[&str]; 6] = [
    &["-p", "dynamo-discovery", "--no-default-features"],
    &["-p", "dynamo-discovery", "--features", "etcd"],
    &["-p", "dynamo-discovery", "--features", "etcd-tls"],
    &["-p", "dynamo-discovery", "--features", "test-util"],
    &["-p", "dynamo-http", "--no-default-features"],
    &["-p", "dynamo-cli", "--no-default-features"],
];

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    let outcome = all(&mut steps);
    steps.summary();
    outcome
}

fn all(steps: &mut Steps) -> Result<()> {
    steps.run("lockfile", || {
        let mut command = workspace::cargo(["metadata", "--locked", "--format-version", "1"]);
        process::capture(&mut command).map(drop)
    })?;
    steps.run("formatting", || cargo(&["fmt", "--all", "--check"]))?;
    steps.run("layering", layering::check)?;
    steps.run("order of modules", modules::check)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--"];
    steps.run("clippy", || cargo(&[&clippy[..], &["-D", "warnings"]].concat()))?;
    for tests in TESTS {
        let name = format!("tests of {}", tests.join(" "));
        steps.run(&name, || cargo(&[&["test", "-p"], tests].concat()))?;
    }
    steps.run("seeds of the fuzz targets", || {
        // The versions and the target directory of all, so that most of it is built already.
        let lock = workspace::root().join("Cargo.lock");
        fs::copy(lock, workspace::root().join("fuzz/Cargo.lock"))?;
        let target = workspace::target()?.display().to_string();
        let seeds = ["test", "--manifest-path", "fuzz/Cargo.toml", "--no-default-features"];
        cargo(&[&seeds[..], &["--lib", "--target-dir", &target]].concat())
    })?;
    steps.run("features", || {
        FEATURES.iter().try_for_each(|features| cargo(&[&["check"], *features].concat()))
    })?;
    steps.run("documentation", || {
        let mut command = workspace::cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
        process::run(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.run("itest, etcd local", || itest(Mode::Local))?;
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

/// The steps so far, with the time that each took.
#[derive(Default)]
struct Steps(Vec<(String, Duration, bool)>);

impl Steps {
    fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = step();
        self.0.push((name.into(), started.elapsed(), outcome.is_ok()));
        outcome.with_context(|| format!("ci: the step \"{name}\" failed"))
    }

    fn summary(&self) {
        println!("\n== summary");
        for (name, took, passed) in &self.0 {
            let mark = if *passed { "" } else { "  FAILED" };
            println!("{:7.1} s  {name}{mark}", took.as_secs_f64());
        }
    }
}
