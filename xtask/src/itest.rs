//! `cargo xtask itest`: the integration tests against a real etcd.

use std::{
    env,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    etcd,
    process::{self, Group, shown},
    row::{Features, Row, Targets},
    workspace,
};

/// The variable that names the directory of the workspace's own binaries.
pub(crate) const BINARIES_VAR: &str = "DYN_TEST_BIN_DIR";

/// The number of tests that run at once.
const THREADS_VAR: &str = "RUST_TEST_THREADS";

/// The tests that need an etcd, and those of them that need a Docker engine.
pub(crate) const fn suites(with_docker: bool) -> [Row; 2] {
    let features = if with_docker { Features::All } else { Features::Default };
    [
        Row::of("dynamo-tests", features, Targets::All),
        Row::of("dynamo-discovery", Features::All, Targets::Test("etcd")),
    ]
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) etcd: etcd::Source,
    /// Passed to `cargo test`, for instance `-- NAME` or `-- --no-fail-fast -- --nocapture`
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) cargo_test: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::run(&mut workspace::cargo(["build", "-p", "dynamo-cli", "--bins"]))?;
    let binaries = workspace::debug_binaries()?;
    // Tests that stop and wipe an etcd start one of their own, in each mode.
    let binary = etcd::binary(args.etcd.etcd_version)
        .inspect_err(|error| {
            println!("note: tests that start an etcd of their own will fail: {error:#}");
        })
        .ok();
    let etcd = etcd::provision(&args.etcd)?;
    println!("itest: etcd at {} ({})", etcd.endpoints, etcd.origin);

    let mut total = Counts::default();
    for suite in suites(args.etcd.is_compose()) {
        let mut command = suite.command();
        command.args(&args.cargo_test);
        command.env(etcd::ENDPOINTS_VAR, &etcd.endpoints).env(BINARIES_VAR, &binaries);
        // Most tests wait most of the time, so several run on one core. The user's number wins.
        if env::var_os(THREADS_VAR).is_none() {
            command.env(THREADS_VAR, "4");
        }
        if let Some(binary) = &binary {
            command.env(etcd::BINARY_VAR, binary);
        }
        let counts = test(&mut command)?;
        // A name that the user gave may match tests of one suite only.
        ensure!(
            counts.passed > 0 || !args.cargo_test.is_empty(),
            "no test ran: {}",
            shown(&command)
        );
        total.add(&counts);
    }
    println!("itest: {} passed, {} failed", total.passed, total.failed);
    ensure!(total.passed > 0, "no test ran: no name matches {}", args.cargo_test.join(" "));
    Ok(())
}

/// The counts that `cargo test` printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Adds the counts of a line `test result: ok. 5 passed; 0 failed; 1 ignored; …`; other lines
    /// count nothing.
    fn of_line(line: &str) -> Self {
        let Some(result) = line.strip_prefix("test result: ") else { return Self::default() };
        let words: Vec<_> = result.split_whitespace().collect();
        let before = |unit: &str| {
            let place = words.iter().position(|word| word.trim_end_matches(';') == unit)?;
            words.get(place.checked_sub(1)?)?.parse().ok()
        };
        Self { passed: before("passed").unwrap_or(0), failed: before("failed").unwrap_or(0) }
    }
}

/// Runs `cargo test`, passes its output through, and counts the tests.
fn test(command: &mut std::process::Command) -> Result<Counts> {
    println!("itest: {}", shown(command));
    let mut group = Group::spawn(command.stdout(Stdio::piped()))?;
    let stdout = group.take_stdout().context("no pipe to cargo test")?;
    let (result, counted) = mpsc::channel();
    thread::spawn(move || {
        let mut counts = Counts::default();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            println!("{line}");
            counts.add(&Counts::of_line(&line));
        }
        // After an interrupt the output has no reader.
        let _ = result.send(counts);
    });
    let status = group.wait()?;
    // The pipe stays open while a process holds it.
    let counts = counted
        .recv_timeout(Duration::from_secs(5))
        .context("the tests left a process behind that holds their output")?;
    ensure!(status.success(), "{}: {status}", shown(command));
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(Counts::of_line(line), Counts { passed: 12, failed: 3 });
        assert_eq!(Counts::of_line("test a ... ok, 3 passed; 1 failed"), Counts::default());
        assert_eq!(Counts::of_line("test result: passed"), Counts::default());
    }
}
