//! The load generator: a number of connections, each with one request at a time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::LocalSet};

use crate::{kind::Kind, message::Reader};

#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    target: SocketAddr,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: f64,
    #[arg(long, value_enum)]
    kind: Kind,
}

/// The measurements of one connection.
#[derive(Debug, Default)]
struct Seen {
    /// From a request to the end of its answer.
    latencies: Vec<Duration>,
    /// From a request to the first byte of its answer's body.
    first: Vec<Duration>,
    errors: usize,
    /// The first error, for the report.
    reason: Option<String>,
}

pub(crate) async fn run(load: Load) -> Result<Value> {
    let body = load.kind.request();
    let expected = load.kind.answer().concat().len();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        load.target,
        body.len()
    );
    let request: &'static str = request.leak();
    let started = Instant::now();
    let deadline = started + Duration::from_secs_f64(load.seconds);
    let tasks = LocalSet::new();
    let connections: Vec<_> = (0..load.connections)
        .map(|_| tasks.spawn_local(connection(load.target, request, expected, deadline)))
        .collect();
    let mut all = Seen::default();
    tasks
        .run_until(async {
            for task in connections {
                let seen = task.await?;
                all.latencies.extend(seen.latencies);
                all.first.extend(seen.first);
                all.errors += seen.errors;
                all.reason = all.reason.take().or(seen.reason);
            }
            anyhow::Ok(())
        })
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    all.first.sort_unstable();
    let requests = all.latencies.len();
    Ok(json!({
        "requests": requests,
        "tokens": requests * load.kind.tokens(),
        "errors": all.errors,
        "reason": all.reason,
        "seconds": seconds,
        "p50_us": percentile(&all.latencies, 50),
        "p99_us": percentile(&all.latencies, 99),
        "first_p50_us": percentile(&all.first, 50),
        "first_p99_us": percentile(&all.first, 99),
    }))
}

async fn connection(target: SocketAddr, request: &str, expected: usize, deadline: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < deadline {
        if let Err(error) = requests(target, request, expected, deadline, &mut seen).await {
            seen.errors += 1;
            seen.reason.get_or_insert_with(|| format!("{error:#}"));
            // Without a pause, retries would take the cores that a starting server needs.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    seen
}

async fn requests(
    target: SocketAddr,
    request: &str,
    expected: usize,
    deadline: Instant,
    seen: &mut Seen,
) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut reader = Reader::default();
    loop {
        let started = Instant::now();
        if started >= deadline {
            return Ok(());
        }
        stream.write_all(request.as_bytes()).await?;
        let Some(head) = reader.head(&mut stream).await? else { return Ok(()) };
        ensure!(head.first_line.starts_with("HTTP/1.1 200 "), "{}", head.first_line);
        let mut length = 0;
        let mut first = None;
        let piece = |piece: &[u8]| {
            first.get_or_insert_with(|| started.elapsed());
            length += piece.len();
        };
        reader.body(&mut stream, head.body, piece).await?;
        ensure!(length == expected, "a body of {length} bytes instead of {expected}");
        seen.first.extend(first);
        seen.latencies.push(started.elapsed());
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> u128 {
    let place = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(place).map_or(0, Duration::as_micros)
}
