//! The load generator: so many connections, each with one request at a time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::LocalSet};

use crate::{
    message::Reader,
    server::{TOKENS, chat_length, stream_length},
};

/// A short chat, 103 bytes.
const CHAT: &str = r#"{"model":"bench","messages":[{"role":"user","content":"Hello, how are you today?"}],"temperature":0.25}"#;

/// The same as a stream; the mock server knows it by its end.
const STREAM: &str = r#"{"model":"bench","messages":[{"role":"user","content":"Hello, how are you?"}],"stream":true}"#;

#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    target: SocketAddr,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    stream: bool,
}

/// What one connection saw.
#[derive(Debug, Default)]
struct Seen {
    latencies: Vec<Duration>,
    errors: usize,
    /// The first error, to tell what is wrong.
    reason: Option<String>,
}

pub(crate) async fn run(load: Load) -> Result<Value> {
    let body = if load.stream { STREAM } else { CHAT };
    let expected = if load.stream { stream_length() } else { chat_length() };
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
                all.errors += seen.errors;
                all.reason = all.reason.take().or(seen.reason);
            }
            anyhow::Ok(())
        })
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let requests = all.latencies.len();
    let tokens = if load.stream { requests * TOKENS } else { 0 };
    Ok(json!({
        "requests": requests,
        "tokens": tokens,
        "errors": all.errors,
        "reason": all.reason,
        "seconds": seconds,
        "p50_us": percentile(&all.latencies, 50),
        "p99_us": percentile(&all.latencies, 99),
    }))
}

async fn connection(target: SocketAddr, request: &str, expected: usize, deadline: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < deadline {
        if let Err(error) = requests(target, request, expected, deadline, &mut seen).await {
            seen.errors += 1;
            seen.reason.get_or_insert_with(|| format!("{error:#}"));
            // A server that is down must not keep the cores from getting up.
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
        reader.body(&mut stream, head.body, |piece| length += piece.len()).await?;
        ensure!(length == expected, "a body of {length} bytes instead of {expected}");
        seen.latencies.push(started.elapsed());
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> u128 {
    let place = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(place).map_or(0, Duration::as_micros)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_as_long_as_the_one_that_earlier_figures_were_taken_with() {
        assert_eq!(super::CHAT.len(), 103);
    }
}
