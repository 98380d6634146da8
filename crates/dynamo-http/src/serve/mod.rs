//! Serving a service with deadlines, limits and a drain.

mod answers;
mod clock;
mod connection;
mod drain;
mod http1;
mod http2;
mod joined;
mod options;
mod socket;

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

use self::answers::Answers;
use self::connection::Accepted;
use self::drain::Drain;
pub(crate) use self::joined::Joined;
pub use self::options::ServeOptions;
use crate::threads::Threads;

/// Serves a service over HTTP/1.1 and HTTP/2 until `shutdown`, then drains.
///
/// HTTP/2 is spoken with whoever begins with it, and over TLS with whoever agrees on it there.
///
/// Draining: for [`ServeOptions::with_drain_grace`] everything goes on, while answers over HTTP/1 ask the
/// client to connect anew the next time. Then no connection is accepted, idle ones are closed, HTTP/2
/// is told to go away, and requests in flight go on for as long as [`ServeOptions::with_drain_timeout`]
/// allows. What is left then is cut, with the threads of [`ServeOptions::with_threads`] or else with the runtime.
/// Returns whether everything ended in time.
///
/// The service is a `FrontendService`, an axum router, or any other one
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
/// let options = ServeOptions::new().with_drain_grace(Duration::ZERO);
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
    let threads = options.threads.take();
    let options = Arc::new(options);
    let accepting = accept(&listener, &service, &options, threads.as_ref(), &drain);
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
    threads: Option<&Threads>,
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
            Accepted { service: service.clone(), options: options.clone(), drain: drain.watch() };
        match threads {
            Some(threads) => {
                // Its readiness is told to the thread that serves it.
                let stream = stream.into_std();
                threads.spawn(async move {
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
