//! The cells in real time: engines that answer over HTTP, routers that are programs, one client.
//!
//! The routers of a cell run side by side, each before engines of its own, so that all of them see the
//! same hour of the machine.

mod client;
mod router;
mod served;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};

use self::router::{Kind, Router};
use self::served::Served;
use crate::Given;
use crate::engine::Spec;
use crate::simulation::Figures;
use crate::workload::{CELLS, Request, Workload};

/// The cells without a choice of them.
const THREE: [&str; 3] = ["chats", "documents", "agents"];
/// How long after the last request answers are awaited.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of one router in one cell.
struct Run {
    figures: Figures,
    /// Seconds of CPU time of the router.
    cpu: f64,
    /// Requests without an answer.
    failed: usize,
}

/// Runs and prints the cells.
pub(crate) fn run(given: &Given) -> Result<(), Box<dyn Error>> {
    let only: Option<Vec<String>> = given.list("--only")?;
    let seed = given.list("--seeds")?.and_then(|seeds| seeds.first().copied()).unwrap_or(1);
    let load = given.value("--load")?.unwrap_or(1.0);
    let spec = given.spec()?;
    let kinds = kinds(given)?;
    let is_asked = |name: &str| {
        only.as_ref().map_or(THREE.contains(&name), |only| only.iter().any(|one| one == name))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("hits: share of prompt tokens that were cached; TTFT in ms; busiest engine / mean;");
    println!("CPU time of the router in ms a request\n");
    println!("| workload | router | hits | p50 | p90 | p99 | imbalance | CPU | failed |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    for (name, kind, engines) in CELLS.iter().filter(|cell| is_asked(cell.0)) {
        let workload = Workload::new(*kind, *engines, seed, load);
        let specs = vec![spec; *engines];
        let runs = kinds.iter().map(|kind| one(kind, &workload.requests, &specs));
        for (kind, run) in kinds.iter().zip(runtime.block_on(try_join_all(runs))?) {
            let Run { figures: Figures { hits, p50, p90, p99, imbalance }, cpu, failed } = run;
            let cpu = cpu * 1000.0 / workload.requests.len() as f64;
            println!(
                "| {name} | {kind} | {hits:.3} | {p50:.0} | {p90:.0} | {p99:.0} | {imbalance:.2} | \
                 {cpu:.2} | {failed} |"
            );
        }
    }
    Ok(())
}

/// The routers that are asked for.
fn kinds(given: &Given) -> Result<Vec<Kind>, Box<dyn Error>> {
    let frontend: PathBuf = given.value("--frontend")?.ok_or("--real needs --frontend PATH")?;
    let modes: Option<Vec<String>> = given.list("--policies")?;
    let modes =
        modes.unwrap_or_else(|| ["cache-aware", "round-robin", "random"].map(Into::into).into());
    let mut kinds: Vec<_> = modes
        .into_iter()
        .map(|mode| Kind::Frontend { program: frontend.clone(), mode: Some(mode) })
        .collect();
    if let Some(program) = given.value("--before")? {
        kinds.push(Kind::Frontend { program, mode: None });
    }
    kinds.extend(given.value("--smg")?.map(|packages| Kind::Smg { packages }));
    Ok(kinds)
}

/// Sends all requests through one router, each at its time.
async fn one(
    kind: &Kind,
    requests: &[Arc<Request>],
    specs: &[Spec],
) -> Result<Run, Box<dyn Error>> {
    let starts = specs.iter().map(|spec| Served::start(*spec, requests.to_vec()));
    let engines = try_join_all(starts).await?;
    let urls: Vec<_> = engines.iter().map(|engine| engine.url.clone()).collect();
    let router = Router::start(kind, &urls).await?;
    let idle = router.cpu()?;
    let began = Instant::now();
    let sent = requests.iter().enumerate().map(|(number, request)| {
        let (request, address) = (request.clone(), router.address);
        tokio::spawn(async move {
            tokio::time::sleep_until((began + Duration::from_secs_f64(request.at)).into()).await;
            let body = client::body(number, &request);
            let asked = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, client::ask(address, body, asked));
            answer.await.ok()?.ok()
        })
    });
    let answers = join_all(sent).await;
    let mut first: Vec<_> =
        answers.into_iter().flatten().flatten().map(|at| at.as_secs_f64()).collect();
    let failed = requests.len() - first.len();
    if first.is_empty() {
        return Err(format!("{kind} answered nothing").into());
    }
    let cpu = router.cpu()? - idle;
    let cached: usize = engines.iter().map(Served::cached).sum();
    let computed: Vec<_> = engines.iter().map(Served::computed).collect();
    let figures = Figures::of(&mut first, cached, &computed);
    Ok(Run { figures, cpu, failed })
}
