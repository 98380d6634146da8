//! The one place that hands out a client, and takes it back when it may be what fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use tokio::sync::Mutex;
use tokio::time::timeout;

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

/// A way to etcd that is made when it is needed, and made anew when it has failed.
#[derive(Debug)]
pub(super) struct Connection {
    config: EtcdConfig,
    endpoints: Vec<String>,
    current: Mutex<Option<Clients>>,
    /// Clients up to this number are not handed out again.
    failed: AtomicU64,
}

/// The parts of one client. They share one connection; a clone is cheap.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    /// Told to [`Connection::blame`].
    pub(super) number: u64,
    /// Without it the channel would know no endpoints.
    _client: Client,
}

impl Connection {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        #[cfg(feature = "etcd-tls")]
        let tls_configured = config.tls.is_some();
        #[cfg(not(feature = "etcd-tls"))]
        let tls_configured = false;
        let endpoints = parse_endpoints(&config.endpoints, tls_configured)?;
        let connection =
            Self { config, endpoints, current: Mutex::default(), failed: AtomicU64::new(0) };
        // What is wrong with the files is told now, and not at the first call.
        connection.options()?;
        Ok(connection)
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
        let mut number = None;
        let attempt = async {
            let clients = self.clients().await?;
            number = Some(clients.number);
            call(clients).await
        };
        let time = self.config.call_timeout;
        let result = timeout(time, attempt).await.unwrap_or(Err(Failure::Silence(time)));
        if let (Err(failure), Some(number)) = (&result, number) {
            self.blame(number, failure);
        }
        result
    }

    /// Takes a client out of use if a failure may be its own: its connection or its token.
    pub(super) fn blame(&self, number: u64, failure: &Failure) {
        if matches!(failure.meaning(), Meaning::TokenExpired | Meaning::Unavailable) {
            self.failed.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// The client in use, or a new one.
    async fn clients(&self) -> Result<Clients, Failure> {
        let mut current = self.current.lock().await;
        let failed = self.failed.load(Ordering::Relaxed);
        if let Some(clients) = current.as_ref().filter(|clients| clients.number > failed) {
            return Ok(clients.clone());
        }
        let options = self.options().map_err(Failure::Config)?;
        // Without credentials this does nothing yet; the first call connects.
        let client = Client::connect(&self.endpoints, Some(options)).await?;
        let clients = Clients {
            kv: client.kv_client().max_decoding_message_size(MAX_MESSAGE),
            watch: client.watch_client().max_decoding_message_size(MAX_MESSAGE),
            lease: client.lease_client(),
            number: failed + 1,
            _client: client,
        };
        *current = Some(clients.clone());
        Ok(clients)
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

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("number", &self.number).finish_non_exhaustive()
    }
}
