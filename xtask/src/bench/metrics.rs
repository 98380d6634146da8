//! `cargo xtask bench metrics`: what a scrape of `/metrics` costs with many keys and models, and what
//! chats notice of it.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use super::{contender::OURS, proxy};
use crate::{
    http, poll,
    process::{Service, capture},
    signals::check_interrupt,
    workspace,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The number of keys, each with requests of its own
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// The number of models, each with requests of its own
    #[arg(long, default_value_t = 100)]
    models: usize,
    /// The number of scrapes, and of chats with and without scrapes beside them
    #[arg(long, default_value_t = 200)]
    rounds: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.keys > 0 && args.models > 0 && args.rounds > 0, "each number is at least 1");
    proxy::build()?;
    let release = workspace::target()?.join("release");
    let directory = tempfile::tempdir()?;
    let [worker, port, admin] = http::free_ports()?;
    let _mock =
        proxy::mock_server(&release.join("load"), worker, &directory.path().join("mock.log"))?;
    let frontend = release.join(OURS);
    let secrets = keys(&frontend, args.keys, &directory.path().join("keys.json"))?;

    let mut command = Command::new(frontend);
    command
        .args(["--http-host", "127.0.0.1", "--http-port", &port.to_string()])
        .args(["--admin-port", &admin.to_string(), "--api-keys"])
        .arg(directory.path().join("keys.json"))
        .env("DYN_LOG", "error");
    for model in 0..args.models {
        command.args(["--worker-url", &format!("model-{model}=http://127.0.0.1:{worker}")]);
    }
    let mut service = Service::start(OURS, &mut command, &directory.path().join("frontend.log"))?;
    let chat = |number: usize| -> Result<Duration> {
        let body = json!({
            "model": format!("model-{}", number % args.models),
            "messages": [{"role": "user", "content": "Hello"}],
        });
        let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
        let began = Instant::now();
        let answer = http::post_with_key(&url, &body, &secrets[number % secrets.len()])?;
        ensure!(answer.status == 200, "a chat got {}: {}", answer.status, answer.body);
        Ok(began.elapsed())
    };
    poll::until("the frontend serves", Duration::from_secs(30), || {
        service.check()?;
        Ok(chat(0).is_ok().then_some(()))
    })?;
    // Each key and each model has its series.
    for number in 0..args.keys.max(args.models) {
        chat(number)?;
    }

    let mut scrapes = Vec::new();
    let mut page = String::new();
    for _ in 0..args.rounds {
        check_interrupt()?;
        let began = Instant::now();
        page = scrape(admin)?;
        scrapes.push(began.elapsed());
    }
    let series = page.lines().filter(|line| line.starts_with("dynamo_")).count();
    println!(
        "{} keys, {} models: {series} series, {} KiB",
        args.keys,
        args.models,
        page.len() >> 10
    );
    println!("{:<28} {:>8} {:>8} {:>8}", "ms", "p50", "p99", "longest");
    print("a scrape", scrapes);

    let chats = || (0..args.rounds).map(chat).collect::<Result<Vec<_>>>();
    print("a chat", chats()?);
    let is_over = AtomicBool::new(false);
    let (beside, scraped) = thread::scope(|scope| {
        let scraping = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                scrape(admin)?;
            }
            Ok(())
        });
        let beside = chats();
        is_over.store(true, Ordering::Relaxed);
        (beside, scraping.join())
    });
    // Without the scrapes, the times of the chats would tell nothing.
    scraped.map_err(|_| anyhow!("the client that scrapes has panicked"))??;
    print("a chat beside scrapes", beside?);
    service.check()
}

/// Reads the page as it comes: a debug build of an HTTP client takes longer to read the page than the
/// frontend takes to make it.
fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "a scrape got {:.100}", answer);
    Ok(answer)
}

/// Writes a file of so many keys. Returns the keys.
fn keys(frontend: &Path, count: usize, file: &Path) -> Result<Vec<String>> {
    let mut secrets = Vec::new();
    let mut entries = Vec::new();
    for number in 0..count {
        let printed = capture(Command::new(frontend).args(["hash-key", "--generate"]))?;
        let (secret, hash) = printed.trim().split_once('\n').context("a key and its hash")?;
        let name = format!("key-{number}");
        entries.push(json!({"name": name, "hash": hash, "all_namespaces": true}));
        secrets.push(secret.to_owned());
    }
    fs::write(file, json!(entries).to_string())?;
    Ok(secrets)
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("{what:<28} {:>8.1} {:>8.1} {:>8.1}", at(50), at(99), at(100));
}
