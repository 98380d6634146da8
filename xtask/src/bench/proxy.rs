//! `cargo xtask bench proxy`: our frontend beside nginx, haproxy and Envoy, in interleaved rounds.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde_json::Value;

use super::{
    case::Case,
    contender::{self, Contender, OURS, Proxy, Setup},
    figures::{self, Figures, Round},
    instructions::{self, Counter},
    start,
};
use crate::{
    http, poll,
    process::{self, Service, capture},
    workspace,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The number of rounds; the median is printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The time of each measurement, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Threads of each proxy; the load generator and the mock server have one each
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A proxy to leave out; repeatable
    #[arg(long, value_enum)]
    without: Vec<Proxy>,
    /// Another build of dynamo-frontend, measured in the same rounds: shows the effect of a change
    #[arg(long)]
    before: Option<PathBuf>,
    /// A kind of load to measure; repeatable. By default all kinds
    #[arg(long, value_enum)]
    case: Vec<Case>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    build()?;
    let generator = workspace::target()?.join("release/load");
    let directory = tempfile::tempdir()?;
    let [worker] = http::free_ports()?;
    let _mock = mock_server(&generator, worker, &directory.path().join("mock.log"))?;
    let before = args.before.as_deref();
    let setup = Setup { directory: directory.path(), worker, threads: args.threads, before };

    let proxies = proxies(args);
    let cases = if args.case.is_empty() { Case::value_variants() } else { &args.case };
    let mut loads = cases.to_vec();
    loads.retain(|case| *case != Case::Start);
    if !loads.is_empty() {
        let mut contenders = vec![Contender::direct(worker)];
        for proxy in &proxies {
            contenders.push(Contender::start(*proxy, setup)?.served()?);
        }
        let mut figures = measure(&generator, &mut contenders, &loads, args)?;
        count(&generator, contenders, &loads, setup, args, &mut figures)?;
        print(&figures, args);
    }
    if cases.contains(&Case::Start) {
        println!("\n{}", figures::starts(&start::measure(&proxies, setup, args.rounds)?));
    }
    Ok(())
}

/// Builds the frontend and the load generator.
pub(super) fn build() -> Result<()> {
    let release = ["build", "--release", "-p"];
    let builds: [&[&str]; 2] =
        [&["dynamo-cli", "--bin", OURS], &["xtask", "--features", "load", "--bin", "load"]];
    for build in builds {
        process::run(workspace::cargo(release).args(build))?;
    }
    Ok(())
}

/// The wanted proxies and our frontend. Envoy comes from pip, which some machines lack.
fn proxies(args: &Args) -> Vec<Proxy> {
    let mut proxies = Proxy::value_variants().to_vec();
    proxies.retain(|proxy| !args.without.contains(proxy));
    if proxies.contains(&Proxy::Envoy)
        && let Err(error) = contender::envoy()
    {
        eprintln!("envoy is left out: {error:#}");
        proxies.retain(|proxy| *proxy != Proxy::Envoy);
    }
    proxies.extend(args.before.is_some().then_some(Proxy::Before));
    proxies.push(Proxy::Ours);
    proxies
}

pub(super) fn mock_server(generator: &Path, port: u16, log: &Path) -> Result<Service> {
    let mut command = Command::new(generator);
    command.args(["serve", &format!("127.0.0.1:{port}")]);
    let mut mock = Service::start("mock server", &mut command, log)?;
    let url = format!("http://127.0.0.1:{port}/v1/models");
    poll::until("the mock server answers", Duration::from_secs(10), || {
        mock.check()?;
        Ok(http::get(&url).is_ok().then_some(()))
    })?;
    Ok(mock)
}

/// Interleaves the rounds, so that a noisy minute of the machine affects all proxies alike.
fn measure(
    generator: &Path,
    contenders: &mut [Contender],
    cases: &[Case],
    args: &Args,
) -> Result<Vec<Figures>> {
    let mut figures = Vec::new();
    for case in cases {
        for contender in &mut *contenders {
            let warm_up = 0.5;
            round(generator, contender, *case, warm_up)?;
            figures.push(Figures {
                case: *case,
                name: contender.name,
                rounds: Vec::new(),
                instructions: None,
            });
        }
    }
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}", args.rounds);
        let mut places = figures.iter_mut();
        for case in cases {
            for contender in &mut *contenders {
                let round = round(generator, contender, *case, args.seconds)?;
                places.next().context("a place for each figure")?.rounds.push(round);
            }
        }
    }
    Ok(figures)
}

/// Counts the instructions of each case, after the rounds, since that slows the proxies.
fn count(
    generator: &Path,
    mut contenders: Vec<Contender>,
    cases: &[Case],
    setup: Setup<'_>,
    args: &Args,
    figures: &mut [Figures],
) -> Result<()> {
    let Some(counter) = Counter::find() else {
        eprintln!("instructions are not counted: neither perf nor valgrind works here");
        return Ok(());
    };
    eprintln!("counting instructions");
    let told = setup.directory.join("instructions");
    if counter == Counter::Valgrind {
        contenders.clear();
        for proxy in args.before.iter().map(|_| Proxy::Before).chain([Proxy::Ours]) {
            contenders.push(Contender::start_counted(proxy, setup, &told)?.served()?);
        }
    }
    for case in cases {
        for contender in &mut contenders {
            let Some(leader) = contender.service.as_ref().map(Service::id) else { continue };
            let mut load = load(generator, contender, *case, args.seconds)?;
            let (instructions, printed) = match counter {
                Counter::Perf => instructions::by_perf(leader, &load, &told)?,
                Counter::Valgrind => {
                    capture(&mut load)?;
                    instructions::by_valgrind(leader, &mut load, &told)?
                }
            };
            contender.check()?;
            let units = seen(contender, *case, &printed)?[case.figures()[0]].as_f64();
            let each = units.map(|units| instructions as f64 / units);
            let is_this = |one: &&mut Figures| one.case == *case && one.name == contender.name;
            figures.iter_mut().find(is_this).context("a place for each figure")?.instructions =
                each;
        }
    }
    Ok(())
}

/// The command that puts a load on a contender.
fn load(generator: &Path, contender: &Contender, case: Case, seconds: f64) -> Result<Command> {
    let mut command = Command::new(generator);
    command
        .args(["run", &format!("127.0.0.1:{}", contender.port)])
        .args(["--connections", &case.connections().to_string()])
        .args(["--seconds", &seconds.to_string()])
        .args(["--kind", case.kind().context("a kind of load")?]);
    Ok(command)
}

/// What the load generator has printed. Fails if a request has failed.
fn seen(contender: &Contender, case: Case, printed: &str) -> Result<Value> {
    let seen: Value = serde_json::from_str(printed)?;
    let figure = |name: &str| seen[name].as_f64().unwrap_or(f64::NAN);
    ensure!(
        figure("errors") == 0.0 && figure("requests") > 0.0,
        "{}, {}: {seen}",
        contender.name,
        case.title()
    );
    Ok(seen)
}

fn round(generator: &Path, contender: &mut Contender, case: Case, seconds: f64) -> Result<Round> {
    let before = contender.usage()?;
    let mut load = load(generator, contender, case, seconds)?;
    // All connections are open in the middle of a round.
    let (printed, middle) = thread::scope(|scope| {
        let middle = scope.spawn(|| {
            thread::sleep(Duration::from_secs_f64(seconds / 2.0));
            contender.usage()
        });
        let printed = capture(&mut load)?;
        let middle = middle.join().map_err(|_| anyhow!("the middle of a round was not seen"))?;
        anyhow::Ok((printed, middle?))
    })?;
    let after = contender.usage()?;
    contender.check()?;
    let seen = seen(contender, case, &printed)?;
    let figure = |name: &str| seen[name].as_f64().unwrap_or(f64::NAN);
    let [units, p50, p99] = case.figures().map(figure);
    let grown = middle.resident.saturating_sub(contender.idle) as f64 / 1024.0;
    Ok(Round {
        per_second: units / figure("seconds"),
        p50,
        p99,
        cpu: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / units,
        resident: after.resident as f64 / 1e6,
        of_connection: grown / case.connections() as f64,
    })
}

fn print(figures: &[Figures], args: &Args) {
    println!(
        "\nmedians of {} rounds of {} s, {} threads each; under \"ours\": our figure over theirs",
        args.rounds, args.seconds, args.threads
    );
    for case in figures.chunk_by(|a, b| a.case == b.case) {
        println!("\n{}", figures::table(case));
    }
}
