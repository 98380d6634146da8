//! `cargo xtask bench proxy`: our frontend beside nginx and haproxy, in interleaved rounds.

use std::{fmt::Write, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use super::{
    contender::{Contender, DIRECT, OURS, Setup},
    cpu,
};
use crate::{
    http, poll,
    process::{self, Service, capture},
    workspace,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each figure is taken; the median is printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each figure is taken
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Threads of each proxy; the load generator and the mock server have one each
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A proxy to leave out; repeatable
    #[arg(long, value_enum)]
    without: Vec<Other>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    Nginx,
    Haproxy,
}

/// One kind of load.
#[derive(Debug, Clone, Copy)]
struct Case {
    connections: usize,
    stream: bool,
}

const CASES: [Case; 5] = [
    Case { connections: 1, stream: false },
    Case { connections: 16, stream: false },
    Case { connections: 64, stream: false },
    Case { connections: 256, stream: false },
    Case { connections: 16, stream: true },
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let release = ["build", "--release", "-p"];
    let builds: [&[&str]; 2] =
        [&["dynamo-cli", "--bin", OURS], &["xtask", "--features", "load", "--bin", "load"]];
    for build in builds {
        process::run(workspace::cargo(release).args(build))?;
    }
    let generator = workspace::target()?.join("release/load");
    let directory = tempfile::tempdir()?;
    let [worker] = http::free_ports()?;
    let _mock = mock_server(&generator, worker, &directory.path().join("mock.log"))?;

    let setup = Setup { directory: directory.path(), worker, threads: args.threads };
    let mut contenders = vec![Contender::direct(worker)];
    if !args.without.contains(&Other::Nginx) {
        contenders.push(Contender::nginx(setup)?);
    }
    if !args.without.contains(&Other::Haproxy) {
        contenders.push(Contender::haproxy(setup)?);
    }
    contenders.push(Contender::ours(setup)?);
    let figures = measure(&generator, &mut contenders, args)?;
    print(&figures, args);
    Ok(())
}

fn mock_server(generator: &Path, port: u16, log: &Path) -> Result<Service> {
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

/// What a round gave for one contender and one case.
#[derive(Debug, Clone, Copy)]
struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// Per request, or per token of a stream; in µs.
    cpu: f64,
}

/// All rounds of one contender in one case.
struct Figures {
    case: Case,
    name: &'static str,
    rounds: Vec<Round>,
}

impl Figures {
    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        let mut all: Vec<_> = self.rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 }
    }
}

/// Rounds are interleaved, so that a noisy minute of the machine hits all alike.
fn measure(generator: &Path, contenders: &mut [Contender], args: &Args) -> Result<Vec<Figures>> {
    let mut figures = Vec::new();
    for case in CASES {
        for contender in &mut *contenders {
            let warm_up = 0.5;
            round(generator, contender, case, warm_up)?;
            figures.push(Figures { case, name: contender.name, rounds: Vec::new() });
        }
    }
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}", args.rounds);
        let mut places = figures.iter_mut();
        for case in CASES {
            for contender in &mut *contenders {
                let round = round(generator, contender, case, args.seconds)?;
                places.next().context("a place for each figure")?.rounds.push(round);
            }
        }
    }
    Ok(figures)
}

fn round(generator: &Path, contender: &mut Contender, case: Case, seconds: f64) -> Result<Round> {
    let leader = contender.service.as_ref().map(Service::id);
    let cpu_time = || leader.map_or(Ok(Duration::ZERO), cpu::time);
    let mut command = Command::new(generator);
    command
        .args(["run", &format!("127.0.0.1:{}", contender.port)])
        .args(["--connections", &case.connections.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .args(case.stream.then_some("--stream"));
    let before = cpu_time()?;
    let seen: Value = serde_json::from_str(&capture(&mut command)?)?;
    let used = cpu_time()?.saturating_sub(before);
    if let Some(service) = &mut contender.service {
        service.check()?;
    }
    let figure = |name: &str| seen[name].as_f64().unwrap_or(f64::NAN);
    ensure!(
        figure("errors") == 0.0 && figure("requests") > 0.0,
        "{}, {} connections: {seen}",
        contender.name,
        case.connections
    );
    let units = figure(if case.stream { "tokens" } else { "requests" });
    Ok(Round {
        per_second: units / figure("seconds"),
        p50: figure("p50_us"),
        p99: figure("p99_us"),
        cpu: used.as_secs_f64() * 1e6 / units,
    })
}

fn print(figures: &[Figures], args: &Args) {
    println!(
        "\nmedians of {} rounds of {} s, {} threads each; ours/CPU: our CPU time over theirs",
        args.rounds, args.seconds, args.threads
    );
    for case in figures
        .chunk_by(|a, b| (a.case.connections, a.case.stream) == (b.case.connections, b.case.stream))
    {
        println!("\n{}", table(case));
    }
}

fn table(figures: &[Figures]) -> String {
    let Some(Figures { case, .. }) = figures.first() else { return String::new() };
    let unit = if case.stream { "token" } else { "request" };
    let what =
        if case.stream { "stream of 64 tokens in a burst" } else { "chat, 103 bytes in, 259 out" };
    let plural = if case.connections == 1 { "" } else { "s" };
    let mut text = format!("{what}, {} connection{plural}\n", case.connections);
    let _ = writeln!(
        text,
        "{:16} {:>12} {:>9} {:>9} {:>16} {:>9}",
        "",
        format!("{unit}s/s"),
        "p50 µs",
        "p99 µs",
        format!("CPU µs/{unit}"),
        "ours/CPU"
    );
    let ours = figures.iter().find(|one| one.name == OURS).map(|one| one.median(|r| r.cpu));
    for one in figures {
        let (per_second, p50, p99) =
            (one.median(|r| r.per_second), one.median(|r| r.p50), one.median(|r| r.p99));
        let _ = write!(text, "{:16} {per_second:12.0} {p50:9.0} {p99:9.0}", one.name);
        if one.name != DIRECT {
            let cpu = one.median(|r| r.cpu);
            let ratio = ours.map_or(f64::NAN, |ours| ours / cpu);
            let _ = write!(text, " {cpu:16.2} {ratio:9.2}");
        }
        text.push('\n');
    }
    text
}
