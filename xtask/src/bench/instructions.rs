//! The instructions of a request or a token, in user space: they show a change of one percent, where
//! CPU time on a shared machine moves by ten.
//!
//! `perf` counts them at any running proxy, where the machine has the counters. Elsewhere Valgrind counts
//! them, which takes a process of its own and some thirty times the time, so it counts those of our
//! frontend only.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::usage;
use crate::process::{capture, output};

/// What counts instructions on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    Perf,
    Valgrind,
}

impl Counter {
    /// The one that works here; `None` where there is none.
    pub(crate) fn find() -> Option<Self> {
        let perf = output(perf().args(["--", "true"]));
        if perf.is_ok_and(|seen| of_perf(&seen.stderr).is_some()) {
            return Some(Self::Perf);
        }
        let valgrind = output(Command::new("valgrind").arg("--version"));
        valgrind.is_ok_and(|seen| seen.status.success()).then_some(Self::Valgrind)
    }
}

/// Runs a load, and counts the instructions of a process group meanwhile. Returns what the load printed.
pub(crate) fn by_perf(leader: u32, load: &Command, told: &Path) -> Result<(u64, String)> {
    let processes = usage::processes_of_group(leader)?;
    let processes: Vec<_> = processes.iter().map(u32::to_string).collect();
    let mut perf = perf();
    perf.args(["-p", &processes.join(",")]).arg("-o").arg(told).arg("--");
    let printed = capture(perf.arg(load.get_program()).args(load.get_args()))?;
    let told = fs::read_to_string(told)?;
    let instructions = of_perf(&told).with_context(|| format!("perf says {told:?}"))?;
    Ok((instructions, printed))
}

/// Runs a load, and counts the instructions of a process under Valgrind meanwhile, which dumps what it
/// counts to numbered files of this name. Returns what the load printed.
pub(crate) fn by_valgrind(process: u32, load: &mut Command, told: &Path) -> Result<(u64, String)> {
    let control = |order: &str| {
        capture(Command::new("callgrind_control").args([order, &process.to_string()]))
    };
    control("--zero")?;
    let printed = capture(load)?;
    control("--dump")?;
    let name = told.file_name().context("a file")?.to_string_lossy();
    let dumps = fs::read_dir(told.parent().context("a directory")?)?;
    let number = |entry: fs::DirEntry| -> Option<u32> {
        entry.file_name().to_str()?.strip_prefix(&*name)?.strip_prefix('.')?.parse().ok()
    };
    let last = dumps.filter_map(Result::ok).filter_map(number).max().context("no dump")?;
    let dump = fs::read_to_string(told.with_file_name(format!("{name}.{last}")))?;
    let instructions = of_callgrind(&dump).context("a dump of callgrind without a total")?;
    Ok((instructions, printed))
}

/// A command under Valgrind.
pub(crate) fn under_valgrind(command: &Command, told: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", told.display()))
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => valgrind.env(name, value),
            None => valgrind.env_remove(name),
        };
    }
    valgrind
}

fn perf() -> Command {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ",", "-e", "instructions:u"]);
    perf
}

/// The count in the output of perf: `123,,instructions:u,…`, or `<not supported>` in place of it.
fn of_perf(told: &str) -> Option<u64> {
    let line = told.lines().find(|line| line.contains(",instructions:u,"))?;
    line.split(',').next()?.parse().ok()
}

/// The total in a dump of callgrind.
fn of_callgrind(dump: &str) -> Option<u64> {
    let total = dump.lines().find_map(|line| line.strip_prefix("totals: "))?;
    total.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_perf_is_read_where_the_machine_has_one() {
        let counted = "# started on Mon\n\n12345,,instructions:u,1000,100.00,,\n";
        assert_eq!(of_perf(counted), Some(12345));
        assert_eq!(of_perf("<not supported>,,instructions:u,0,100.00,,\n"), None);
        assert_eq!(of_perf(""), None);
    }

    #[test]
    fn the_total_of_callgrind_is_behind_all_lines() {
        assert_eq!(
            of_callgrind("events: Ir\nfn=(1) main\n0 12\n\ntotals: 266834\n"),
            Some(266_834)
        );
        assert_eq!(of_callgrind("events: Ir\n"), None);
    }
}
