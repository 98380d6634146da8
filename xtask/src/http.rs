//! A small HTTP client, and free ports for servers.

use std::{
    io::BufReader,
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::{Agent, Body, http::Response};

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

pub(crate) fn get(url: &str) -> Result<Answer> {
    answer(agent().get(url).call()?)
}

pub(crate) fn post(url: &str, body: &Value) -> Result<Answer> {
    answer(agent().post(url).send_json(body)?)
}

pub(crate) fn post_with_key(url: &str, body: &Value, key: &str) -> Result<Answer> {
    let bearer = format!("Bearer {key}");
    answer(agent().post(url).header("authorization", bearer).send_json(body)?)
}

/// The answer's body as it arrives.
pub(crate) fn stream(
    url: &str,
    body: &Value,
) -> Result<(u16, BufReader<impl std::io::Read + use<>>)> {
    let answer = agent().post(url).send_json(body)?;
    Ok((answer.status().as_u16(), BufReader::new(answer.into_body().into_reader())))
}

fn answer(mut answer: Response<Body>) -> Result<Answer> {
    let status = answer.status().as_u16();
    Ok(Answer { status, body: answer.body_mut().read_to_string()? })
}

/// The client has no pool, so each request shows the present state of the server.
fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into()
}

/// Loopback ports that are free now. They are below the ephemeral range, so that no connection and no
/// listener takes one before its server does, and no other call in this process returns them.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    const RANGE: std::ops::Range<u16> = 15_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(RANGE.end - RANGE.start);
    // Another process begins elsewhere.
    let begin = std::process::id().wrapping_mul(61);
    let mut ports = [0; N];
    for port in &mut ports {
        *port = (0..count)
            .map(|_| begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count)
            .filter_map(|place| Some(RANGE.start + u16::try_from(place).ok()?))
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .context("no port from 15000 to 31999 is free")?;
    }
    Ok(ports)
}
