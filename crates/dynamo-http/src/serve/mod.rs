//! Serving a service with deadlines, limits and a drain.

mod clock;
mod connection;
pub(crate) mod cores;
mod drain;
mod http1;
mod http2;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tower_service::Service;
use tracing::{debug, info, warn};

use self::connection::Connection;
pub use self::cores::Cores;
use self::drain::Drain;
#[cfg(feature = "tls")]
use crate::tls::ServerTls;

/// Deadlines and limits of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// How long the head of a request may take, from its first byte, or from the connection's
    /// beginning for the first one. Default 10 s.
    pub header_timeout: Duration,
    /// The largest head of a request, in bytes; above, 431. Default 64 KiB, at least 8 KiB.
    pub max_header_bytes: usize,
    /// How many header fields a request may have; above, 431. Default 100.
    pub max_headers: usize,
    /// How long a connection may be idle between two requests. Default 75 s.
    pub keep_alive_timeout: Duration,
    /// How long a client may take nothing of its answer. Default 300 s.
    pub write_stall_timeout: Duration,
    /// How many requests a client may have under way on one connection of HTTP/2. Default 200.
    pub max_streams: u32,
    /// How long connections are still accepted after the shutdown: as long as load balancers need to
    /// notice. Default 5 s.
    pub drain_grace: Duration,
    /// How long requests may go on after that. Default 30 s.
    pub drain_timeout: Duration,
    /// The threads that serve connections. Default none: the runtime on which [`serve`] is called.
    pub cores: Option<Cores>,
    /// What makes connections TLS. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<ServerTls>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            keep_alive_timeout: Duration::from_secs(75),
            write_stall_timeout: Duration::from_secs(300),
            max_streams: 200,
            drain_grace: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            cores: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// What [`serve`] needs of a service.
trait Answers:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}

/// Serves a service over HTTP/1.1 and HTTP/2 until `shutdown`, then drains.
///
/// HTTP/2 is spoken with whoever begins with it, and over TLS with whoever agrees on it there.
///
/// Draining: for [`ServeOptions::drain_grace`] everything goes on, while answers over HTTP/1 ask the
/// client to connect anew the next time. Then no connection is accepted, idle ones are closed, HTTP/2
/// is told to go away, and requests in flight go on for as long as [`ServeOptions::drain_timeout`]
/// allows. What is left then is cut, with the threads of [`ServeOptions::cores`] or else with the runtime.
/// Returns whether everything ended in time.
///
/// The service is a [`FrontendService`](crate::FrontendService), an axum router, or any other one
/// that is always ready. `axum::serve` has no deadline for heads and no limits, hence this.
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::get};
/// use dynamo_http::{ServeOptions, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let router = Router::new().route("/", get(|| async { "hello" }));
/// let mut options = ServeOptions::default();
/// options.drain_grace = Duration::ZERO;
/// let shutdown = async {}; // At once, here.
/// assert!(serve(listener, router, options, shutdown).await);
/// # Ok(())
/// # }
/// ```
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    mut options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> bool
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        tls.reload_on_change();
    }
    let drain = Drain::new();
    // Connections have the other options, and must not keep the threads that serve them.
    let cores = options.cores.take();
    let options = Arc::new(options);
    let accepting = accept(&listener, &service, &options, cores.as_ref(), &drain);
    let until = async {
        shutdown.await;
        drain.leave();
        info!(connections = drain.connections(), "leaving: clients are asked to go elsewhere");
        sleep(options.drain_grace).await;
    };
    tokio::select! {
        () = accepting => {}
        () = until => {}
    }
    drop(listener);
    info!(connections = drain.connections(), "draining");
    drain.begin();
    timeout(options.drain_timeout, drain.ended()).await.is_ok()
}

/// Accepts connections, for ever.
async fn accept<S: Answers>(
    listener: &TcpListener,
    service: &S,
    options: &Arc<ServeOptions>,
    cores: Option<&Cores>,
    drain: &Drain,
) {
    loop {
        let stream = match next(listener).await {
            Ok(stream) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let connection =
            Connection { service: service.clone(), options: options.clone(), drain: drain.watch() };
        match cores {
            Some(cores) => {
                // Its readiness is told to the thread that serves it.
                let stream = stream.into_std();
                cores.spawn(async move {
                    match stream.and_then(TcpStream::from_std) {
                        Ok(stream) => connection.serve(stream).await,
                        Err(error) => warn!(%error, "cannot serve a connection"),
                    }
                });
            }
            None => {
                tokio::spawn(connection.serve(stream));
            }
        }
    }
}

/// The next connection, which does not wait to fill a packet: a token would wait with it.
async fn next(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    if let Err(error) = stream.set_nodelay(true) {
        // It is closed already, as whoever reads from it will find.
        debug!(%error, "a connection ended before it began");
    }
    Ok(stream)
}

/// An error of one connection does not matter; one of our own, such as too many open files, would
/// come again at once.
async fn pause_after(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !of_one_connection {
        warn!(%error, "cannot accept connections");
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_do_not_wait_to_fill_a_packet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(next(&listener).await.unwrap().nodelay().unwrap());
    }
}
