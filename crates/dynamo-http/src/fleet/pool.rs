//! Connections to one worker, and one exchange over one of them.
//!
//! A connection has no task of its own: whoever uses it polls it. So the bytes that a worker sends
//! wake the request that waits for them and nothing else, and what is readable together leaves
//! together. An idle connection is polled by nobody: whether it still lives shows when it is polled
//! to send, before anything is sent, and it is swept out when it has been idle for too long.

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use crossbeam_utils::CachePadded;
use dynamo_discovery::WorkerUrl;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Response};
use tracing::info;

use super::connect::{ConnectError, Connected, Connector, Transport};
use super::patience::{End, Patience};
use super::terms::Terms;
use crate::exchange::{self, Request};
use crate::route::Route;
use crate::threads;

/// The longest target of a request, in bytes: what `http::Uri` takes.
const MAX_TARGET: usize = 65_534;
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
    http: exchange::Connection<Transport>,
    idle_since: Instant,
    /// Whether it has carried an exchange before.
    reused: bool,
    /// How long the worker may take to begin its answer.
    patience: Patience,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// No connection: nothing was sent.
    Connect(ConnectError),
    /// The server is none of the model any more, as its worker says: nothing was sent.
    Gone,
    /// The connection had ended, or the worker had sent something, before a byte of the request was
    /// written.
    Unsent(exchange::Error),
    /// The connection ended before the answer. Bytes of the request may have reached the server.
    Lost { reused: bool, error: exchange::Error },
    /// The answer is no HTTP that we take.
    Invalid(exchange::Error),
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

    /// The target of a request on a route, below the worker's base path. None if it is longer than
    /// most software takes.
    pub(crate) fn target(&self, route: Route, query: Option<&str>) -> Option<Cow<'static, str>> {
        let base = &*self.base;
        let target: Cow<'_, _> = match query {
            None if base.is_empty() => route.path().into(),
            None => format!("{base}{}", route.path()).into(),
            Some(query) => format!("{base}{}?{query}", route.path()).into(),
        };
        Some(target).filter(|target| target.len() <= MAX_TARGET)
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
        request: &Request<'_>,
        max_idle: Option<Duration>,
        wait: Wait<'_>,
    ) -> Result<(Response<()>, Box<Connection>), ExchangeError> {
        if let Some(idle) = max_idle.and_then(|max_idle| self.take(max_idle)) {
            match idle.exchange(request, wait.judge).await {
                Err(ExchangeError::Unsent(_)) => {}
                answer => return answer,
            }
        }
        // Boxed, as it is rare: its state is no part of every request's.
        let new = Box::pin(self.open_confirmed(connector, wait)).await?;
        new.exchange(request, wait.judge).await
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
        Ok(Box::new(Connection {
            address,
            http: exchange::Connection::new(transport),
            idle_since: Instant::now(),
            reused: false,
            patience: Patience::new(first_byte).with_glances(GLANCE),
        }))
    }
}

impl Connection {
    async fn exchange(
        mut self: Box<Self>,
        request: &Request<'_>,
        judge: &(dyn Judge + Sync),
    ) -> Result<(Response<()>, Box<Self>), ExchangeError> {
        judge.sends();
        self.patience.renew();
        let mut is_sent = false;
        let answer = poll_fn(|cx| {
            if !is_sent {
                self.http.send(cx, request).map_err(ExchangeError::Unsent)?;
                is_sent = true;
            }
            match self.http.poll_head(cx) {
                Poll::Ready(Err(error)) if error.is_invalid() => {
                    Poll::Ready(Err(ExchangeError::Invalid(error)))
                }
                Poll::Ready(Err(error)) => {
                    Poll::Ready(Err(ExchangeError::Lost { reused: self.reused, error }))
                }
                Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
                Poll::Pending => self.patience.poll_over_or(cx, || judge.gives_up()).map(|end| {
                    Err(match end {
                        End::Late => ExchangeError::Silent,
                        End::GivenUp => ExchangeError::GivenUp,
                    })
                }),
            }
        });
        let answer = answer.await?;
        Ok((answer, self))
    }

    /// The next data of an answer's body: all that can be read now. None at its end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, exchange::Error>>> {
        self.http.poll_data(cx)
    }

    /// Whether all of an answer's body was read.
    pub(crate) fn is_ended(&self) -> bool {
        self.http.is_ended()
    }

    /// How many bytes of an answer's body are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.http.left()
    }

    /// Gives the connection back after a whole answer, unless it is closed or about to be, or the
    /// worker has answered before all of the request was written.
    pub(crate) fn recycle(mut self: Box<Self>, pool: &Pool) {
        if self.http.is_reusable() {
            self.idle_since = Instant::now();
            self.reused = true;
            pool.put(self);
        }
    }
}

#[cfg(test)]
mod tests;
