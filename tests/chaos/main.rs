//! Random faults under load, for minutes; then all that was recorded is held against what must be.
//!
//! `cargo xtask chaos --minutes 10 --seed 7` builds the programs, finds an etcd, and runs it. There
//! are an etcd of three members, two frontends of one namespace, workers of that namespace and of
//! another one, engines that move to others' addresses, a name that leads elsewhere, scripts that write
//! what they like, and a network of its own for each of them.
//!
//! What is checked: no frontend shows anything of another namespace, ever; no prompt reaches an engine
//! of another namespace for longer than is promised; no request fails for which a frontend knew a
//! worker that could answer; no request is sent twice because its engine is silent; every list and
//! every watch of ours tells what happened, whole, once and in order; and when it is over, all know
//! the same, and all workers are there again.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]
#![allow(unreachable_pub, missing_docs, missing_debug_implementations, reason = "test code")]
#![allow(clippy::print_stdout, reason = "it tells what it does")]

mod inflict;
mod lodging;
mod named;
mod operator;
mod plan;
mod record;
mod script;
mod stage;
mod traffic;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use stage::Stage;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str| -> Option<u64> {
        let place = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(place + 1)?.parse().ok()
    };
    let time = Duration::from_secs(60 * number("--minutes").unwrap_or(1));
    let seed = number("--seed").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("chaos: {} minutes, seed {seed}", time.as_secs() / 60);

    let mut rng = Rng::with_seed(seed);
    let mut stage = Stage::set().await;
    if stage.named.is_none() {
        println!("names are left as they are: port 53 may not be taken on this machine");
    }
    let began = Instant::now();
    let mut faults = BTreeMap::<String, usize>::new();
    while began.elapsed() < time {
        let pause = Duration::from_millis(rng.u64(2_000..5_000));
        let fault = plan::next(&mut rng, stage::ECHOES, stage::FRONTENDS, stage::NETWORKS);
        println!("{:6.1} s  {fault:?}", began.elapsed().as_secs_f64());
        let name = format!("{fault:?}");
        let name = name.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
        *faults.entry(name).or_default() += 1;
        let next = Instant::now() + pause;
        stage.inflict(fault).await;
        tokio::time::sleep_until(next).await;
    }
    println!("{:6.1} s  all is healed", began.elapsed().as_secs_f64());
    let mut breaches = stage.settle().await;
    // What was lost to the store just before the end must be told by now.
    sleep(Duration::from_secs(2)).await;
    let summary = stage.check(&mut breaches).await;
    println!("faults: {faults:?}\n{summary}");
    if faults.is_empty() {
        breaches.push("no fault happened at all".to_owned());
    }
    for breach in &breaches {
        println!("BREACH: {breach}");
    }
    if breaches.is_empty() {
        println!("chaos: nothing was breached");
        ExitCode::SUCCESS
    } else {
        println!("chaos: {} breaches; the same faults again: --seed {seed}", breaches.len());
        ExitCode::FAILURE
    }
}
