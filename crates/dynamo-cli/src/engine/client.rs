//! Short questions over HTTP: one connection each, bounded in time and size, no redirects.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{WorkerUrl, is_forbidden_address};
use dynamo_http::{WorkerKey, WorkerTls};
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// No list of models is longer.
const LARGEST_ANSWER: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks one engine.
#[derive(Clone)]
pub(crate) struct Client {
    url: WorkerUrl,
    key: WorkerKey,
    tls: WorkerTls,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// It did not come in time. The engine may be busy.
    Silence,
    /// There is no connection, or it broke.
    Broken(io::Error),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("no answer in time"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl Client {
    pub(crate) fn new(url: WorkerUrl, key: WorkerKey, tls: WorkerTls) -> Self {
        Self { url, key, tls }
    }

    /// Gets a path below the engine's URL.
    pub(crate) async fn get(&self, path: &str, timeout: Duration) -> Result<Answer, NoAnswer> {
        match tokio::time::timeout(timeout, self.ask(path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(NoAnswer::Silence),
            Ok(Err(error)) => Err(NoAnswer::Broken(error)),
            Err(_) => Err(NoAnswer::Silence),
        }
    }

    async fn ask(&self, path: &str) -> io::Result<Answer> {
        let uri = self.url.to_uri();
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let https = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(host, port)).await??;
        stream.set_nodelay(true)?;

        let below = format!("{}{path}", uri.path().trim_end_matches('/'));
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let mut request = Request::get(below)
            .header(HOST, authority)
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(io::Error::other)?;
        if let Some(key) = self.key.header() {
            request.headers_mut().insert(AUTHORIZATION, key);
        }
        if https {
            exchange(self.tls.connect(host, stream).await?, request).await
        } else {
            exchange(stream, request).await
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::other(format!("{host} has no address that may be asked"));
    for address in tokio::net::lookup_host((host, port)).await? {
        if is_forbidden_address(address.ip()) {
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    // It ends with the sender; its error is also the request's.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(told)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Answer { status, body })
}

/// An error of hyper's with its causes, which its text leaves out.
fn told(error: hyper::Error) -> io::Error {
    io::Error::other(format!("{:#}", anyhow::Error::new(error)))
}
