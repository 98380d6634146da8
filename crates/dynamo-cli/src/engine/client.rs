//! Short questions over HTTP: one connection each, bounded in time and size, no redirects.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynamo_discovery::{ErrorChain, WorkerUrl};
use dynamo_http::{Networks, Resolve, SystemResolver, WorkerKey, WorkerTls};
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// No list of models, and no page of metrics, is longer.
const LARGEST_ANSWER: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks one engine.
#[derive(Clone)]
pub(crate) struct Client {
    url: WorkerUrl,
    key: WorkerKey,
    tls: WorkerTls,
    networks: Networks,
    resolver: Arc<dyn Resolve>,
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
    /// It did not come in time, or the question could not be asked. The engine may be busy.
    Silence,
    /// Nobody listens at the address.
    Refused,
    /// There is no connection for another reason, or it broke.
    Broken(io::Error),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("no answer in time"),
            Self::Refused => f.write_str("connection refused"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl Client {
    pub(crate) fn new(url: WorkerUrl, key: WorkerKey, tls: WorkerTls) -> Self {
        Self { url, key, tls, networks: Networks::default(), resolver: Arc::new(SystemResolver) }
    }

    /// The same, at addresses in these networks only, which this resolver finds.
    pub(crate) fn within(self, networks: Networks, resolver: Arc<dyn Resolve>) -> Self {
        Self { networks, resolver, ..self }
    }

    /// What is asked for a path below the engine's URL.
    pub(crate) fn asked(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Gets a path below the engine's URL.
    pub(crate) async fn get(&self, path: &str, timeout: Duration) -> Result<Answer, NoAnswer> {
        self.exchange(Method::GET, path, timeout).await
    }

    /// Posts nothing to a path below the engine's URL.
    pub(crate) async fn post(&self, path: &str, timeout: Duration) -> Result<Answer, NoAnswer> {
        self.exchange(Method::POST, path, timeout).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        timeout: Duration,
    ) -> Result<Answer, NoAnswer> {
        match tokio::time::timeout(timeout, self.ask(method, path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(match error.kind() {
                _ if is_our_own(&error) => NoAnswer::Silence,
                io::ErrorKind::TimedOut => NoAnswer::Silence,
                io::ErrorKind::ConnectionRefused => NoAnswer::Refused,
                _ => NoAnswer::Broken(error),
            }),
            Err(_) => Err(NoAnswer::Silence),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> io::Result<Answer> {
        let uri = self.url.to_uri();
        let connecting = connect(&self.url, &self.networks, &*self.resolver);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
        stream.set_nodelay(true)?;

        let below = format!("{}{path}", uri.path().trim_end_matches('/'));
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(below)
            .header(HOST, authority)
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(io::Error::other)?;
        if let Some(key) = self.key.header() {
            request.headers_mut().insert(AUTHORIZATION, key);
        }
        if self.url.is_https() {
            exchange(self.tls.connect(self.url.host(), stream).await?, request).await
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

/// Whether anybody accepts connections where a URL leads. An address that does not answer in time is
/// one where nobody does.
pub(crate) async fn somebody_listens(url: &WorkerUrl) -> bool {
    let anywhere = Networks::default();
    let connecting = connect(url, &anywhere, &SystemResolver);
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.is_ok_and(|tried| tried.is_ok())
}

/// Whether an error is about this process or its machine, and so says nothing about the engine: no
/// descriptors, no ports or no memory are left.
fn is_our_own(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let ours = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    errno.is_some_and(|errno| ours.contains(&errno))
}

async fn connect(
    url: &WorkerUrl,
    networks: &Networks,
    resolver: &dyn Resolve,
) -> io::Result<TcpStream> {
    let host = url.host();
    let addresses = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => resolver
            .resolve(host)
            .await
            .map_err(|error| io::Error::other(format!("{host}: {}", ErrorChain(&error))))?,
    };
    let mut last = io::Error::other(format!("{host} has no address that may be asked"));
    for address in addresses.into_iter().filter(|address| networks.permit(*address)) {
        match TcpStream::connect((address, url.port())).await {
            // The kernel may choose the port that is asked for as our own, and connects it to itself.
            Ok(stream) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_our_own_machine_lacks_says_nothing_about_an_engine() {
        let ours = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
        assert!(ours.into_iter().all(|errno| is_our_own(&errno.into())));
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::HOSTUNREACH, Errno::TIMEDOUT] {
            assert!(!is_our_own(&errno.into()), "{errno}");
        }
        assert!(!is_our_own(&io::Error::other("no descriptors")));
    }
}
