//! Serving a service with deadlines, limits and a drain.

mod accept;
mod answers;
mod clock;
mod connection;
mod connections;
mod drain;
mod http1;
mod http2;
mod joined;
mod options;
mod places;
mod socket;

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tower_service::Service;
use tracing::{debug, info};

use self::accept::accept;
pub use self::connections::Connections;
use self::drain::Drain;
pub use self::options::ServeOptions;
use crate::tcp;

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
    if let Err(error) = tcp::keep_waiting(&listener) {
        debug!(%error, "the listener keeps as few connections waiting as before");
    }
    options.connections.note_limit(options.max_connections);
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
