//! Connections to one worker, and one exchange over one of them.
//!
//! A connection has no task of its own: whoever uses it polls it. So the bytes that a worker sends
//! wake the request that waits for them and nothing else, and what is readable together leaves
//! together. An idle connection is polled by nobody: whether it still lives shows when it is polled
//! to send, before anything is sent, and it is swept out when it has been idle for too long.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use crossbeam_utils::CachePadded;
use dynamo_discovery::WorkerUrl;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use tracing::info;

use super::connect::{ConnectError, Connected, Connector, Transport};
use super::patience::{End, Patience};
use super::read_on::Written;
use super::terms::Terms;
use crate::relay::Relay;
use crate::route::Route;
use crate::threads;

/// How many idle connections a worker keeps.
const MAX_IDLE: usize = 256;

/// The idle connections to one worker, and what every request to it needs.
pub(crate) struct Pool {
    url: WorkerUrl,
    terms: Arc<Terms>,
    /// The path of the URL, without a slash at its end.
    base: Box<str>,
    /// The `Host` of every request.
    host: HeaderValue,
    /// One list for each serving thread, and one for all other threads. Serving threads that were
    /// started later than this pool share these lists. A thread locks its own list; the sweep locks
    /// each list for a moment once a second.
    idle: Box<[CachePadded<Mutex<Idle>>]>,
    /// The addresses of the server's name; none before they are looked up beside requests, and where
    /// the URL has an address.
    addresses: ArcSwapOption<Vec<IpAddr>>,
}

/// Idle connections. The one that was used last is at the end, and is used next: its memory is the
/// most likely to be at hand.
type Idle = Vec<Box<Connection>>;

/// What panicked under the lock has not left a list half changed.
fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that is not in use.
pub(crate) struct Connection {
    /// Where it leads.
    address: IpAddr,
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    relay: Relay,
    /// Whether its socket took all that was sent.
    written: Written,
    idle_since: Instant,
    /// Whether it has carried an exchange before.
    reused: bool,
    /// How long the worker may take to begin its answer.
    patience: Patience,
}

/// The half of a connection that reads and writes; done when the connection is closed.
struct Driver {
    connection: Option<http1::Connection<Transport, Full<Bytes>>>,
}

impl Driver {
    /// Reads and writes what is possible now. Ready when the connection is closed.
    ///
    /// Why it closed does not matter here: whoever waits for an answer is told.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            std::task::ready!(Pin::new(connection).poll(cx)).ok();
            self.connection = None;
        }
        Poll::Ready(())
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// No connection: nothing was sent.
    Connect(ConnectError),
    /// The server is none of the model any more, as its worker says: nothing was sent.
    Gone,
    /// A new connection ended before a byte of the request was written.
    Unsent(hyper::Error),
    /// The connection ended before the answer. Bytes of the request may have reached the server.
    Lost { reused: bool, error: hyper::Error },
    /// The answer is no HTTP that we take.
    Invalid(hyper::Error),
    /// The answer did not begin in time.
    Silent,
    /// Nothing came, and there was no use in waiting longer.
    GivenUp,
}

/// How long a worker may take to begin its answer.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    pub(crate) limit: Duration,
    pub(crate) judge: &'a (dyn Judge + Sync),
}

/// Decides about the server of a request.
pub(crate) trait Judge {
    /// Whether to wait no longer for a server that has sent nothing yet. It is asked now and then.
    fn gives_up(&self) -> bool;

    /// Notes that the request is about to be written to the server.
    fn sends(&self);

    /// Whether the server may get the request. It is asked while a new connection is made.
    fn confirms(&self) -> BoxFuture<'_, bool>;
}

/// How often it is asked.
const GLANCE: Duration = Duration::from_secs(1);

impl Pool {
    pub(crate) fn new(url: &WorkerUrl, terms: Arc<Terms>) -> Self {
        let uri = url.to_uri();
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(host)
            .unwrap_or_else(|_| unreachable!("an authority is visible ASCII"));
        let base = uri.path().trim_end_matches('/').into();
        let idle = (0..=threads::started()).map(|_| CachePadded::default()).collect();
        let addresses = ArcSwapOption::empty();
        Self { url: url.clone(), terms, base, host, idle, addresses }
    }

    /// The `Host` of requests to this worker.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The target of a request on a route, below the worker's base path. None if it is longer than a
    /// URI can be, which is 65,534 bytes.
    pub(crate) fn target(&self, route: Route, query: Option<&str>) -> Option<Uri> {
        /// Nearly all targets: no base path, no query.
        static PLAIN: LazyLock<[Uri; Route::ALL.len()]> =
            LazyLock::new(|| std::array::from_fn(|at| Uri::from_static(Route::ALL[at].path())));

        let base = &*self.base;
        if base.is_empty() && query.is_none() {
            return Some(PLAIN[route as usize].clone());
        }
        let mut target = format!("{base}{}", route.path());
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        // The parts are of valid URIs, so nothing but their length can be wrong.
        target.parse().ok()
    }

    /// Takes the connection that was used last, unless it has been idle for too long.
    fn take(&self, max_idle: Duration) -> Option<Box<Connection>> {
        let last = self.here().pop();
        last.filter(|connection| connection.idle_since.elapsed() < max_idle)
    }

    fn here(&self) -> MutexGuard<'_, Idle> {
        lock(&self.idle[threads::here() % self.idle.len()])
    }

    fn put(&self, connection: Box<Connection>) {
        if !self.is_current(&connection) {
            return;
        }
        let mut idle = self.here();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    /// Whether the server's name still leads where a connection does.
    fn is_current(&self, connection: &Connection) -> bool {
        self.addresses.load().as_ref().is_none_or(|all| all.contains(&connection.address))
    }

    /// Closes the connections to other addresses than these: idle ones now, and one that is in use
    /// when its answer has ended.
    pub(super) fn keep_only(&self, addresses: &[IpAddr]) {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        let before = self.addresses.swap(Some(Arc::new(addresses.clone())));
        if before.is_some_and(|before| *before != addresses) {
            info!(url = %self.url, ?addresses, "the name of a worker leads to other addresses");
        }
        // Also where nothing has changed: a connection may have been put back in between.
        for idle in &self.idle {
            let mut idle = lock(idle);
            let (kept, closed): (Idle, Idle) =
                idle.drain(..).partition(|connection| self.is_current(connection));
            *idle = kept;
            drop((idle, closed));
        }
    }

    /// Closes what has been idle for too long. Others may use the pool meanwhile.
    pub(crate) fn sweep(&self, max_idle: Duration) {
        for idle in &self.idle {
            // Oldest first. What is closed is dropped when others can go on.
            let mut idle = lock(idle);
            let old = idle.iter().take_while(|one| one.idle_since.elapsed() >= max_idle).count();
            let closed: Idle = idle.drain(..old).collect();
            drop((idle, closed));
        }
    }

    /// Sends a request over an idle connection, or a new one, and waits for the head of the answer.
    ///
    /// An idle connection that turns out to be closed before a byte was written is replaced by a new
    /// one.
    pub(crate) async fn exchange(
        &self,
        connector: &Connector,
        mut request: Request<Full<Bytes>>,
        max_idle: Option<Duration>,
        wait: Wait<'_>,
    ) -> Result<(Response<Incoming>, Box<Connection>), ExchangeError> {
        let mut idle = max_idle.and_then(|max_idle| self.take(max_idle));
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                // Boxed, as it is rare: its state is no part of every request's.
                None => Box::pin(self.open_confirmed(connector, wait)).await?,
            };
            let reused = connection.reused;
            match connection.exchange(request, wait.judge).await {
                Err(Failure { unsent: Some(unsent), .. }) if reused => request = *unsent,
                answer => return answer.map_err(|failure| failure.error),
            }
        }
    }

    /// A new connection to a server that may get the request. The connect and the question whether
    /// it may run beside each other; the first no ends both.
    async fn open_confirmed(
        &self,
        connector: &Connector,
        wait: Wait<'_>,
    ) -> Result<Box<Connection>, ExchangeError> {
        let open = async { self.open(connector, wait.limit).await.map_err(ExchangeError::Connect) };
        let confirm =
            async { wait.judge.confirms().await.then_some(()).ok_or(ExchangeError::Gone) };
        let (connection, ()) = tokio::try_join!(open, confirm)?;
        Ok(connection)
    }

    async fn open(
        &self,
        connector: &Connector,
        first_byte: Duration,
    ) -> Result<Box<Connection>, ConnectError> {
        let Connected { transport, address } =
            connector.connect(&self.url, &self.terms.networks).await?;
        let written = transport.inner().written().clone();
        let (sender, connection) =
            http1::Builder::new().handshake(transport).await.map_err(io::Error::other)?;
        let driver = Driver { connection: Some(connection) };
        Ok(Box::new(Connection {
            address,
            sender,
            driver,
            relay: Relay::new(),
            written,
            idle_since: Instant::now(),
            reused: false,
            patience: Patience::new(first_byte).with_glances(GLANCE),
        }))
    }
}

/// Why an exchange over one connection gave no answer.
struct Failure {
    error: ExchangeError,
    /// The request, where no byte of it was written.
    unsent: Option<Box<Request<Full<Bytes>>>>,
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        Self { error, unsent: None }
    }
}

impl Connection {
    async fn exchange(
        mut self: Box<Self>,
        request: Request<Full<Bytes>>,
        judge: &(dyn Judge + Sync),
    ) -> Result<(Response<Incoming>, Box<Self>), Failure> {
        judge.sends();
        let answer = {
            let mut answer = pin!(self.sender.try_send_request(request));
            let (driver, patience) = (&mut self.driver, &mut self.patience);
            patience.renew();
            let mut poll = |cx: &mut Context<'_>| {
                // First the bytes, then what they mean. Once closed, the answer knows why. This reads
                // before it writes, so a connection that the worker has closed carries nothing.
                let _closed = driver.poll(cx);
                match answer.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                    Poll::Pending => patience.poll_over_or(cx, || judge.gives_up()).map(Err),
                }
            };
            poll_fn(|cx| self.relay.poll(cx, &mut poll)).await
        };
        let answer = answer.map_err(|end| match end {
            End::Late => ExchangeError::Silent,
            End::GivenUp => ExchangeError::GivenUp,
        })?;
        match answer {
            Ok(response) => Ok((response, self)),
            Err(mut failure) => {
                // hyper gives the request back where it has not begun to write it.
                let unsent = failure.take_message().map(Box::new);
                let error = failure.into_error();
                let error = match unsent {
                    Some(_) => ExchangeError::Unsent(error),
                    None if error.is_parse() => ExchangeError::Invalid(error),
                    None => ExchangeError::Lost { reused: self.reused, error },
                };
                Err(Failure { error, unsent })
            }
        }
    }

    /// The next frame of an answer's body: one that was read already, else what can be read now.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.relay.poll(cx, |cx| {
            let frame = Pin::new(&mut *body).poll_frame(cx);
            if frame.is_ready() {
                return frame;
            }
            let _closed = self.driver.poll(cx);
            Pin::new(&mut *body).poll_frame(cx)
        })
    }

    /// The next frame after one of `poll_frame`, if it can be read now. Else nobody is woken for it:
    /// whoever wants it asks with `poll_frame`.
    ///
    /// For the many frames of a burst, where half the work would be wakers.
    pub(crate) fn next_now(
        &mut self,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.relay.poll_now(|cx| {
            let _closed = self.driver.poll(cx);
            Pin::new(body).poll_frame(cx)
        })
    }

    /// Gives the connection back after a whole answer, unless it is closed or about to be, or the
    /// worker has answered without reading all of the request.
    pub(crate) fn recycle(mut self: Box<Self>, cx: &mut Context<'_>, pool: &Pool) {
        // Lets the connection see that the answer ended.
        let closed = self.relay.poll(cx, |cx| self.driver.poll(cx)).is_ready();
        self.relay.release();
        if !closed && self.written.is_all() && self.sender.is_ready() {
            self.idle_since = Instant::now();
            self.reused = true;
            pool.put(self);
        }
    }
}

#[cfg(test)]
mod tests;
