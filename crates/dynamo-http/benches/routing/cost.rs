//! What a choice costs: time for paths and servers of several sizes, and the memory of a full index,
//! also after many more prompts and without its model.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_http::placement::{
    Candidate, Knowledge, Limits, Path, Placement, Request, Seed, Server,
};

/// How many random prompts a full index gets.
const PROMPTS: usize = 10_000_000;
/// How often each case is measured.
const TIMES: usize = 2000;

/// Measures and prints.
pub(crate) fn print() {
    println!("| prompt | servers | others' servers | path | choice | begun |");
    println!("|--:|--:|--:|--:|--:|--:|");
    for (kib, servers, others) in
        [(20, 8, 0), (20, 64, 0), (20, 64, 10_000), (20, 1000, 0), (100, 8, 0), (100, 64, 0)]
    {
        case(kib, servers, others);
    }
    memory();
}

fn servers(count: usize, now: Instant) -> Vec<Arc<Server>> {
    (0..count).map(|n| Arc::new(Server::new(&format!("http://192.0.2.1:{n}"), now))).collect()
}

fn text(rng: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| rng.alphanumeric() as u8).collect()
}

fn seed() -> Seed {
    Seed::of([&b"team"[..], b"model"])
}

/// Sends a path to a server without a choice among several.
fn send(knowledge: &Knowledge, path: &Path, server: &Arc<Server>, now: Instant) {
    let request = Request { path, session: None };
    let only = [Candidate { server, in_flight: 0 }];
    if let Some(choice) = knowledge.choose(request, &only, now) {
        drop(knowledge.begun(request, &choice, server, true, now));
    }
}

fn case(kib: usize, count: usize, others: usize) {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let placement = Placement::new(Limits::default());
    let other_models: Vec<_> = (0..others / 10).map(|_| placement.knowledge()).collect();
    for knowledge in &other_models {
        let path = Path::of(seed(), b"", [&text(&mut rng, 20 << 10)[..]]);
        servers(10, now).iter().for_each(|server| send(knowledge, &path, server, now));
    }
    let (knowledge, servers) = (placement.knowledge(), servers(count, now));
    // Every server knows the first half of all prompts, as with a common system prompt.
    let common = text(&mut rng, kib << 9);
    let prompts: Vec<_> =
        (0..100).map(|_| [&common[..], &text(&mut rng, kib << 9)].concat()).collect();
    for (n, prompt) in prompts.iter().enumerate() {
        let path = Path::of(seed(), b"", [&prompt[..]]);
        send(&knowledge, &path, &servers[n % count], now);
    }
    let common = Path::of(seed(), b"", [&common[..]]);
    servers.iter().for_each(|server| send(&knowledge, &common, server, now));

    let mut taken: [Vec<Duration>; 3] = Default::default();
    for n in 0..TIMES {
        let prompt = &prompts[n % prompts.len()];
        let began = Instant::now();
        let path = black_box(Path::of(seed(), b"", [&prompt[..]]));
        let hashed = Instant::now();
        let candidates: Vec<_> =
            servers.iter().map(|server| Candidate { server, in_flight: n % 3 }).collect();
        let request = Request { path: &path, session: None };
        let Some(choice) = black_box(knowledge.choose(request, &candidates, hashed)) else {
            return;
        };
        let chosen = Instant::now();
        drop(knowledge.begun(request, &choice, &servers[choice.server], true, chosen));
        let begun = Instant::now();
        for (times, took) in taken.iter_mut().zip([hashed - began, chosen - hashed, begun - chosen])
        {
            times.push(took);
        }
    }
    let [path, choice, begun] = taken.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    });
    println!("| {kib} KiB | {count} | {others} | {path:.1} µs | {choice:.1} µs | {begun:.1} µs |");
}

fn memory() {
    let now = Instant::now();
    let before = resident();
    let placement = Placement::new(Limits::default());
    let (knowledge, servers) = (placement.knowledge(), servers(8, now));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut prompt = text(&mut rng, 64 << 10);
    let mut n = 0_u64;
    while placement.blocks() < Limits::new().blocks() {
        n += 1;
        prompt[..8].copy_from_slice(&n.to_le_bytes());
        let path = Path::of(seed(), b"", [&prompt[..]]);
        send(&knowledge, &path, &servers[n as usize % 8], now);
    }
    let used = || resident().saturating_sub(before) as f64 / 1e6;
    println!("\n{} blocks at 8 servers: {:.1} MB", placement.blocks(), used());
    for n in 0..PROMPTS {
        rng.fill(&mut prompt[..64]);
        let path = Path::of(seed(), b"", [&prompt[..1024 * (1 + n % 3)]]);
        send(&knowledge, &path, &servers[n % 8], now);
    }
    println!("{} blocks after {PROMPTS} random prompts: {:.1} MB", placement.blocks(), used());
    drop(knowledge);
    println!("{} blocks without the model: {:.1} MB", placement.blocks(), used());
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}
