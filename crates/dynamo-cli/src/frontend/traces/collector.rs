//! The HTTP client for the collector: one connection for each request, no redirects.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynamo_http::WorkerTls;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The answers of collectors have a few bytes.
const LARGEST_ANSWER: usize = 64 << 10;

/// The collector.
#[derive(Debug)]
pub(super) struct Collector {
    tls: WorkerTls,
    timeout: Duration,
}

impl Collector {
    /// A collector that may take `timeout` for a request.
    pub(super) fn new(tls: WorkerTls, timeout: Duration) -> Self {
        Self { tls, timeout }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the collector's URL has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        let request = for_origin(request, &uri)?;
        if is_https {
            exchange(self.tls.connect(host, stream).await?, request).await
        } else {
            exchange(stream, request).await
        }
    }
}

/// A request for the server that it is sent to.
fn for_origin(request: Request<Bytes>, uri: &Uri) -> Result<Request<Full<Bytes>>, HttpError> {
    let (mut parts, body) = request.into_parts();
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    parts.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    parts.headers.insert(HOST, HeaderValue::from_str(authority)?);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(Request::from_parts(parts, Full::new(body)))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; its error is also the request's.
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LARGEST_ANSWER).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        timeout(self.timeout, self.send(request)).await?
    }
}
