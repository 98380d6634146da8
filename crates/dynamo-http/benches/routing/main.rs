//! `cargo xtask bench routing`: policies of routing in front of simulated engines, in virtual time or,
//! with `--real`, as programs over HTTP.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is for people")]

mod cost;
mod engine;
mod policy;
mod real;
mod simulation;
mod workload;

use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use self::engine::Spec;
use self::simulation::Figures;
use self::workload::{CELLS, Request, Workload};

fn main() -> ExitCode {
    match run(&Given(std::env::args().skip(1).collect())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(given: &Given) -> Result<(), Box<dyn Error>> {
    if given.0.iter().any(|one| one == "--cost") {
        cost::print();
        return Ok(());
    }
    if given.0.iter().any(|one| one == "--real") {
        return real::run(given);
    }
    let seeds: Vec<u64> = given.list("--seeds")?.unwrap_or(vec![1, 2, 3]);
    let only: Option<Vec<String>> = given.list("--only")?;
    let policies: Option<Vec<String>> = given.list("--policies")?;
    let policies = policies.unwrap_or_else(|| policy::NAMES.map(str::to_owned).to_vec());
    let frontends = given.value("--frontends")?.unwrap_or(1);
    let (load, stretch) =
        (given.value("--load")?.unwrap_or(1.0), given.value("--stretch")?.unwrap_or(3.0));
    let spec = given.spec()?;
    let is_asked = |name: &str| only.as_ref().is_none_or(|only| only.iter().any(|one| one == name));

    println!("hits: share of prompt tokens that were cached; TTFT in ms; busiest engine / mean\n");
    println!("| workload | policy | hits | p50 | p90 | p99 | imbalance |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    for (name, kind, engines) in CELLS.iter().filter(|cell| is_asked(cell.0)) {
        let workloads: Vec<_> =
            seeds.iter().map(|seed| Workload::new(*kind, *engines, *seed, load)).collect();
        cell(name, &workloads, &vec![spec; *engines], &policies, frontends, &seeds)?;
    }
    if let Some(file) = given.value::<String>("--trace")?.filter(|_| is_asked("trace")) {
        let trace = Workload::read(file.as_ref(), stretch)?;
        cell("trace", &[trace], &[spec; 4], &policies, frontends, &seeds)?;
    }
    Ok(())
}

/// Runs and prints one workload with each seed. A trace is the same for all seeds, which then only say
/// what is random in the policy.
fn cell(
    name: &str,
    workloads: &[Workload],
    specs: &[Spec],
    policies: &[String],
    frontends: usize,
    seeds: &[u64],
) -> Result<(), Box<dyn Error>> {
    for policy in policies {
        let mut figures = Vec::new();
        for (workload, seed) in workloads.iter().cycle().zip(seeds) {
            let mut policy = policy::of(policy, specs.len(), frontends, *seed)
                .ok_or_else(|| format!("no policy {policy:?}; there are {:?}", policy::NAMES))?;
            let requests: &[Arc<Request>] = &workload.requests;
            figures.push(simulation::run(requests, specs, &mut *policy));
        }
        let Figures { hits, p50, p90, p99, imbalance } = Figures::mean(&figures);
        println!(
            "| {name} | {policy} | {hits:.3} | {p50:.0} | {p90:.0} | {p99:.0} | {imbalance:.2} |"
        );
    }
    Ok(())
}

/// The arguments: names, each before its value.
struct Given(Vec<String>);

impl Given {
    /// How the engines are built.
    fn spec(&self) -> Result<Spec, String> {
        let mut spec = Spec::default();
        spec.blocks = self.value("--blocks")?.unwrap_or(spec.blocks);
        spec.prefill = self.value("--prefill")?.unwrap_or(spec.prefill);
        Ok(spec)
    }

    fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(at) = self.0.iter().position(|one| one == name) else { return Ok(None) };
        let value = self.0.get(at + 1).ok_or_else(|| format!("{name} needs a value"))?;
        value.parse().map(Some).map_err(|_| format!("{name} does not take {value:?}"))
    }

    fn list<T: FromStr>(&self, name: &str) -> Result<Option<Vec<T>>, String> {
        let Some(values) = self.value::<String>(name)? else { return Ok(None) };
        let read = |one: &str| one.parse().map_err(|_| format!("{name} does not take {one:?}"));
        values.split(',').map(read).collect::<Result<_, _>>().map(Some)
    }
}
