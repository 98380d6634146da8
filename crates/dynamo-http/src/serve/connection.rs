//! One connection, from its first byte to its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, once, select};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::answers::Answers;
use super::clock::{Clock, Timed};
use super::connections::Open;
use super::drain::DrainWatch;
use super::joined::Joined;
use super::options::ServeOptions;
use super::places::Place;
use super::socket::Socket;
use super::{http1, http2};
use crate::client_address::ClientAddress;
use crate::client_name::ClientName;
use crate::relay::Relay;

/// Serves a connection from its first request on. Boxed: its task would else have room for each kind
/// of connection, and a hundred thousand quiet streams would take that room a hundred thousand times.
pub(super) type Conversation = BoxFuture<'static, ()>;

/// Opens a connection and serves it. What only its opening needs is free once it is open.
pub(super) fn serve(
    opening: impl Future<Output = Option<Conversation>> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let opening = Box::pin(opening);
    async {
        if let Some(conversation) = opening.await {
            conversation.await;
        }
    }
}

/// A connection that was accepted, with what serving it needs.
pub(super) struct Accepted<S> {
    pub(super) service: S,
    /// Whose connection it is, where requests are to tell.
    pub(super) client: Option<ClientAddress>,
    pub(super) options: Arc<ServeOptions>,
    pub(super) drain: DrainWatch,
    pub(super) place: Place,
    pub(super) counted: Open,
}

impl<S: Answers> Accepted<S> {
    /// Waits for what comes before the first request. Returns what serves the connection from there
    /// on, until the client, a deadline or the drain ends it.
    pub(super) async fn open(mut self, stream: TcpStream) -> Option<Conversation> {
        let clock = Arc::new(Clock::new(self.options.clone()));
        let deadline = Instant::now() + self.options.header_timeout;
        let mut socket = Socket::new(stream, clock.clone());
        #[cfg(feature = "tls")]
        if let Some(tls) = self.options.tls.clone() {
            // Boxed, so that a handshake takes no memory where there is none.
            let accept = Box::pin(tls.accept(socket));
            let stream = self.until(deadline, accept).await?;
            let (http2, client) = (tls.agreed_on_http2(&stream), tls.client(&stream));
            return Some(self.speak(stream, http2, clock, client));
        }
        let http2 = self.until(deadline, socket.begins_http2()).await?;
        Some(self.speak(socket, http2, clock, None))
    }

    /// Waits for an opening until a deadline or the drain ends it.
    async fn until<T>(
        &mut self,
        deadline: Instant,
        opening: impl Future<Output = io::Result<T>>,
    ) -> Option<T> {
        let opened = tokio::select! {
            opened = timeout_at(deadline, opening) => opened,
            () = self.drain.begun() => return None,
        };
        match opened {
            Ok(Ok(opened)) => return Some(opened),
            Ok(Err(error)) => debug!(%error, "a connection ended before it began"),
            Err(_) => debug!("connection timed out"),
        }
        None
    }

    /// What serves the connection from here on.
    fn speak<IO>(
        self,
        io: IO,
        http2: bool,
        clock: Arc<Clock>,
        client: Option<ClientName>,
    ) -> Conversation
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { service, client: address, options, drain, place, counted } = self;
        let client = Client { name: client, address };
        let io = Timed::new(Joined::new(io), clock.clone());
        let held = Held { clock, options, drain: None, _place: place, _counted: counted };
        if http2 {
            held.clock.wait_for_next();
            let (streams, max_headers) = (held.clock.clone(), held.options.max_headers);
            let answer = service_fn(move |request| {
                http2::answer(&service, &streams, max_headers, client.introduce(request))
            });
            let connection = http2::builder(&held.options).serve_connection(io, answer);
            Box::pin(Driven::new(held, Box::pin(connection), drain))
        } else {
            held.clock.head_comes();
            let (requests, leaving) = (held.clock.clone(), drain.leaving().clone());
            let answer = service_fn(move |request| {
                http1::answer(&service, &requests, &leaving, client.introduce(request))
            });
            let connection = http1::builder(&held.options).serve_connection(io, answer);
            Box::pin(Driven::new(held, Box::pin(connection), drain))
        }
    }
}

/// What is known of the client of a connection.
struct Client {
    name: Option<ClientName>,
    address: Option<ClientAddress>,
}

impl Client {
    /// A request with what is known of its client.
    fn introduce(&self, mut request: Request<Incoming>) -> Request<Incoming> {
        if let Some(name) = &self.name {
            request.extensions_mut().insert(name.clone());
        }
        if let Some(address) = self.address {
            request.extensions_mut().insert(address);
        }
        request
    }
}

/// What a connection has until it is closed.
struct Held {
    clock: Arc<Clock>,
    options: Arc<ServeOptions>,
    /// Once the server drains.
    drain: Option<DrainWatch>,
    _place: Place,
    _counted: Open,
}

/// What ends a connection that would go on.
enum End {
    /// A deadline has passed.
    Late,
    /// The server drains, and waits for the connection until this is dropped.
    Drain(DrainWatch),
}

/// A connection that is polled until it ends by itself or by its clock, and told of the drain.
///
/// It is no `async` block, since each token of a stream polls it, and the state of a block would be one
/// more cache line to fetch from memory.
struct Driven<C> {
    connection: Pin<Box<C>>,
    /// Has `ends` polled when they are woken, and not each time that the connection is.
    relay: Relay,
    ends: Pin<Box<dyn Stream<Item = End> + Send>>,
    held: Held,
}

impl<C> Driven<C> {
    fn new(held: Held, connection: Pin<Box<C>>, mut drain: DrainWatch) -> Self {
        let glance = held.options.header_timeout.max(Duration::from_millis(40)) / 4;
        let clock = held.clock.clone();
        let late = async move {
            clock.expires(glance).await;
            End::Late
        };
        let drain = async move {
            drain.begun().await;
            End::Drain(drain)
        };
        let ends = Box::pin(select(once(late), once(drain)));
        Self { connection, relay: Relay::new(), ends, held }
    }
}

impl<C: GracefulConnection<Error = hyper::Error>> Future for Driven<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { connection, relay, ends, held } = self.get_mut();
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
                return Poll::Ready(());
            }
            match ready!(relay.poll(cx, |cx| ends.as_mut().poll_next(cx))) {
                Some(End::Drain(drain)) => {
                    held.drain = Some(drain);
                    held.clock.drains();
                    connection.as_mut().graceful_shutdown();
                }
                Some(End::Late) | None => {
                    debug!("connection timed out");
                    return Poll::Ready(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_open_connection_keeps_nothing_of_its_opening() {
        let mut serving = Box::pin(serve(async {
            let handshake = [0_u8; 4096];
            tokio::task::yield_now().await;
            std::hint::black_box(&handshake);
            Some(pending().boxed())
        }));
        let size = size_of_val(&*serving);
        assert!(size <= 64, "{size} bytes for each open connection");
        assert!((&mut serving).now_or_never().is_none(), "it opens");
        assert!((&mut serving).now_or_never().is_none(), "it serves for ever");
    }
}
