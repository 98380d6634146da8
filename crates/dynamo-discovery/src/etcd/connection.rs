//! The one place that hands out a client, and takes it back when it may be what fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, LeaseClient, WatchClient};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::EtcdConfigError;
use super::config::{EtcdConfig, parse_endpoints};
use super::failure::{Failure, Meaning};

/// The largest message that is taken from etcd. Its own limit for what it takes is 1.5 MiB, but
/// replays and pages are larger.
const MAX_MESSAGE: usize = 64 << 20;

/// HTTP/2 pings, which notice a host that went without a word. Under 5 seconds etcd throws its
/// clients out (`--grpc-keepalive-min-time`), and while idle too.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one member may take to answer before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(250);

/// A way to one member of the cluster, which is found when it is needed, and anew when it has
/// failed.
#[derive(Debug)]
pub(super) struct Connection {
    config: EtcdConfig,
    endpoints: Vec<String>,
    /// What answered last.
    current: Mutex<Option<Clients>>,
    /// Clients up to this number are not handed out again.
    failed: AtomicU64,
}

/// The parts of one client of one member. They share one connection; a clone is cheap.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    /// Told to [`Connection::blame`].
    pub(super) number: u64,
    /// Which endpoint it is.
    member: usize,
    /// Without it the channel would know no endpoints.
    _client: Client,
}

impl Connection {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let endpoints = parse_endpoints(&config.endpoints, config.asks_for_tls())?;
        let connection =
            Self { config, endpoints, current: Mutex::default(), failed: AtomicU64::new(0) };
        // What is wrong with the files is told now, and not at the first call.
        connection.options()?;
        Ok(connection)
    }

    /// How long a call may take.
    pub(super) fn call_timeout(&self) -> Duration {
        self.config.call_timeout
    }

    /// Makes a call, within the configured time.
    ///
    /// A client that may be the cause of a failure is not used again. A call that is refused for
    /// an expired token is made a second time, with a new one.
    pub(super) async fn call<T, F>(&self, call: impl Fn(Clients) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        match self.call_once(&call).await {
            Err(failure) if failure.meaning() == Meaning::TokenExpired => {
                self.call_once(&call).await
            }
            result => result,
        }
    }

    async fn call_once<T, F>(&self, call: &impl Fn(Clients) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let clients = self.within_call_timeout(self.clients()).await?;
        let asked = Asked { connection: self, number: clients.number, at: Instant::now() };
        let result = self.within_call_timeout(call(clients)).await;
        asked.answered(&result);
        result
    }

    async fn within_call_timeout<T>(
        &self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let time = self.config.call_timeout;
        timeout(time, attempt).await.unwrap_or(Err(Failure::Silence(time)))
    }

    /// Takes a client out of use if a failure may be its own: its connection or its token.
    pub(super) fn blame(&self, number: u64, failure: &Failure) {
        if matches!(failure.meaning(), Meaning::TokenExpired | Meaning::Unavailable) {
            self.failed.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// The client in use, or one of the member that answers first now.
    async fn clients(&self) -> Result<Clients, Failure> {
        let mut current = self.current.lock().await;
        let failed = self.failed.load(Ordering::Relaxed);
        if let Some(clients) = current.as_ref().filter(|clients| clients.number > failed) {
            return Ok(clients.clone());
        }
        // The one that has just failed comes last.
        let before = current.as_ref().map(|clients| clients.member);
        let first = before.map_or(0, |member| member + 1);
        let clients = self.find(first, failed + 1).await?;
        if let Some(before) = before.filter(|before| *before != clients.member) {
            let (from, to) = (&self.endpoints[before], &self.endpoints[clients.member]);
            info!(%from, %to, "moved to another endpoint of etcd");
        }
        *current = Some(clients.clone());
        Ok(clients)
    }

    /// Asks the members, one after the other and each with a head start, until one answers. It may
    /// be refused, silent, or a name that nobody knows: none of that holds up the others.
    async fn find(&self, first: usize, number: u64) -> Result<Clients, Failure> {
        let options = self.options().map_err(Failure::Config)?;
        let count = self.endpoints.len();
        let mut waiting = (first..first + count).map(|member| member % count);
        let mut asked = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            match waiting.next() {
                Some(member) => asked.push(self.ask(member, number, &options)),
                None if asked.is_empty() => return Err(Failure::none_of(failures)),
                None => {}
            }
            tokio::select! {
                Some((member, answer)) = asked.next() => match answer {
                    Err(failure) if failure.meaning() == Meaning::Unavailable => {
                        let endpoint = &self.endpoints[member];
                        debug!(%endpoint, error = %failure, "an endpoint of etcd does not answer");
                        failures.push((endpoint.clone(), failure));
                    }
                    // That we are not let in is an answer, and the same everywhere.
                    answer => return answer,
                },
                () = sleep(HEAD_START), if waiting.len() > 0 => {}
            }
        }
    }

    /// Connects to a member, and reads something that it must ask the leader for: one that is cut
    /// off from the others is of no use.
    async fn ask(
        &self,
        member: usize,
        number: u64,
        options: &ConnectOptions,
    ) -> (usize, Result<Clients, Failure>) {
        let answer = async {
            // Without credentials this does nothing yet; the first call connects.
            let client = Client::connect([&self.endpoints[member]], Some(options.clone())).await?;
            let mut clients = Clients {
                kv: client.kv_client().max_decoding_message_size(MAX_MESSAGE),
                watch: client.watch_client().max_decoding_message_size(MAX_MESSAGE),
                lease: client.lease_client(),
                number,
                member,
                _client: client,
            };
            let nothing = GetOptions::new().with_count_only();
            match clients.kv.get([0], Some(nothing)).await.map_err(Failure::from) {
                // Who may not read this may read something else.
                Err(failure) if failure.meaning() != Meaning::Denied => Err(failure),
                _ => Ok(clients),
            }
        };
        (member, answer.await)
    }

    fn options(&self) -> Result<ConnectOptions, EtcdConfigError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.config.connect_timeout)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            // A member without a leader would keep a watch open and silent.
            .with_require_leader(true);
        if let Some(credentials) = &self.config.credentials {
            options = options.with_user(&credentials.username, &credentials.password);
        }
        #[cfg(feature = "etcd-tls")]
        if self.endpoints.iter().any(|url| url.starts_with("https:")) {
            options = options.with_tls(self.config.tls.clone().unwrap_or_default().load()?);
        }
        Ok(options)
    }
}

/// A call under way.
struct Asked<'a> {
    connection: &'a Connection,
    number: u64,
    at: Instant,
}

impl Asked<'_> {
    fn answered<T>(self, result: &Result<T, Failure>) {
        if let Err(failure) = result {
            self.connection.blame(self.number, failure);
        }
        std::mem::forget(self);
    }
}

/// Given up by a caller who is less patient than we are, such as a lease that must be renewed soon:
/// unless it did not wait at all, the next call goes elsewhere.
impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let waited = self.at.elapsed();
        if waited >= self.connection.config.call_timeout / 4 {
            self.connection.blame(self.number, &Failure::Silence(waited));
        }
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("number", &self.number).finish_non_exhaustive()
    }
}
