//! The client: a request's body, and the time to the first content of its answer.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::workload;

/// The model of all engines.
pub(super) const MODEL: &str = "bench";

/// The body of a request. `user` is its number: it names no session for any router.
pub(super) fn body(number: usize, request: &workload::Request) -> Bytes {
    let messages = request.messages();
    let count = messages.len();
    let messages: Vec<_> = messages
        .enumerate()
        .map(|(at, content)| {
            let role = match count - at {
                _ if at == 0 && count > 1 => "system",
                left if left % 2 == 1 => "user",
                _ => "assistant",
            };
            json!({"role": role, "content": content})
        })
        .collect();
    let tools: Vec<_> = request
        .tools()
        .enumerate()
        .map(|(at, text)| {
            let name = format!("tool_{at}");
            let function =
                json!({"name": name, "description": text, "parameters": {"type": "object"}});
            json!({"type": "function", "function": function})
        })
        .collect();
    let mut body = json!({
        "model": MODEL, "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": request.output, "user": number.to_string(), "messages": messages,
    });
    if !tools.is_empty() {
        body["tools"] = tools.into();
    }
    body.to_string().into()
}

/// Sends a request, and reads the answer to its end. Returns how long its first content took.
pub(super) async fn ask(
    address: SocketAddr,
    body: Bytes,
    asked: Instant,
) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post("/v1/chat/completions")
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let answer = sender.send_request(request).await?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status()).into());
    }
    let mut answer = answer.into_body();
    let mut first = None;
    while let Some(frame) = answer.frame().await {
        // A comment, which keeps a connection alive, is no content.
        if first.is_none() && frame?.data_ref().is_some_and(|data| data.starts_with(b"data:")) {
            first = Some(asked.elapsed());
        }
    }
    first.ok_or_else(|| "an answer without content".into())
}

/// Whether a router lists the model.
pub(super) async fn serves(address: SocketAddr) -> bool {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/v1/models").header(HOST, address.to_string());
        let answer = sender.send_request(request.body(Full::<Bytes>::default())?).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, Box<dyn Error + Send + Sync>>(
            body.windows(MODEL.len()).any(|at| at == MODEL.as_bytes()),
        )
    };
    asked.await.unwrap_or(false)
}
