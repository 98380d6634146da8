//! The time from the start of a proxy's process to its first answer to a chat.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::contender::{Contender, Proxy, Setup};
use crate::{http, signals::check_interrupt};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts each proxy `rounds` times, in turns; the times are in ms.
pub(crate) fn measure(
    proxies: &[Proxy],
    setup: Setup<'_>,
    rounds: usize,
) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let mut figures: Vec<_> = proxies.iter().map(|proxy| (proxy.name(), Vec::new())).collect();
    for _ in 0..rounds {
        for (proxy, (_, all)) in proxies.iter().zip(&mut figures) {
            all.push(once(*proxy, setup)?.as_secs_f64() * 1e3);
        }
    }
    Ok(figures)
}

fn once(proxy: Proxy, setup: Setup<'_>) -> Result<Duration> {
    let body = json!({"model": "bench", "messages": [{"role": "user", "content": "Hello"}]});
    let began = Instant::now();
    let mut contender = Contender::start(proxy, setup)?;
    let url = format!("http://127.0.0.1:{}/v1/chat/completions", contender.port);
    loop {
        if http::post(&url, &body).is_ok_and(|answer| answer.status == 200) {
            return Ok(began.elapsed());
        }
        contender.check()?;
        check_interrupt()?;
        ensure!(began.elapsed() < LIMIT, "{} does not answer", contender.name);
        thread::sleep(Duration::from_millis(1));
    }
}
