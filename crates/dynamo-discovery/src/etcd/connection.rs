//! The one place that hands out a client, and takes it back when it may be what fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, LeaseClient, WatchClient};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::EtcdConfigError;
use super::config::{Credentials, EtcdConfig, parse_endpoints};
use super::failure::{Failure, Meaning, Stage};
use crate::backoff::Backoff;

/// The largest message that is taken from etcd. Its own limit for what it takes is 1.5 MiB, but
/// replays and pages are larger.
const MAX_MESSAGE: usize = 64 << 20;

/// HTTP/2 pings, which notice a host that went without a word. Under 5 seconds etcd throws its
/// clients out (`--grpc-keepalive-min-time`), and while idle too.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two renewals of a long lease nothing is sent, and a balancer or a firewall forgets a
/// connection on which nothing is. What the system sends by itself does not reach etcd.
const TCP_KEEPALIVE: Duration = Duration::from_secs(45);

/// How long one member may take to answer before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long etcd may take to check a password. It takes bcrypt for that, about 50 ms of one core;
/// after a restart, everybody's at once. One who gave up and asked again would make it longer.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before etcd is asked again to check a password, where it gave no answer.
const AUTHENTICATE_RETRY: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(10));

/// A way to one member of the cluster, which is found when it is needed, and anew when it has
/// failed.
#[derive(Debug)]
pub(super) struct Connection {
    config: EtcdConfig,
    endpoints: Vec<String>,
    /// Locked by a search, so that there is one at a time.
    current: Arc<Mutex<Current>>,
    /// Clients up to this number are not handed out again.
    failed: AtomicU64,
    /// The endpoint that checks our password now, counted from 1; 0 is none.
    authenticating: AtomicUsize,
}

/// What answered last, and how it went on.
#[derive(Debug)]
struct Current {
    clients: Option<Clients>,
    authenticate_at: Instant,
    retry: Backoff,
}

/// The parts of one client of one member. They share one connection; a clone is cheap.
#[derive(Clone, derive_more::Debug)]
#[debug("Clients({origin:?})")]
pub(super) struct Clients {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    /// Told to [`Connection::blame`].
    pub(super) origin: Origin,
    /// Without it the channel would know no endpoints.
    client: Client,
}

/// Which client it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Each client has a higher one than all before it.
    number: u64,
    /// Which endpoint it is.
    member: usize,
    /// Whether it has a token. Without credentials, or where etcd knows no users, it has none.
    authenticated: bool,
}

impl Clients {
    /// The client of the member, for what is asked rarely.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Connection {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let endpoints = parse_endpoints(&config.endpoints, config.asks_for_tls())?;
        let (first, longest) = AUTHENTICATE_RETRY;
        let current = Current {
            clients: None,
            authenticate_at: Instant::now(),
            retry: Backoff::new(first, longest),
        };
        let connection = Self {
            config,
            endpoints,
            current: Arc::new(Mutex::new(current)),
            failed: AtomicU64::new(0),
            authenticating: AtomicUsize::new(0),
        };
        // What is wrong with the files is told now, and not at the first call.
        connection.options()?;
        if let Some(credentials) = &connection.config.credentials {
            credentials.password.read()?;
        }
        Ok(connection)
    }

    /// The name of our user, if there is one.
    pub(super) fn username(&self) -> Option<&str> {
        self.config.credentials.as_ref().map(Credentials::username)
    }

    /// How long a call may take.
    pub(super) fn call_timeout(&self) -> Duration {
        self.config.call_timeout
    }

    /// Makes a call, within the configured time.
    ///
    /// A client that may be the cause of a failure is not used again. A call that is refused for
    /// want of a token that we can get is made a second time, with a new one.
    pub(super) async fn call<T, F>(
        self: &Arc<Self>,
        call: impl Fn(Clients) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        match self.call_once(&call).await {
            (Some(origin), Err(failure)) if self.lacks_token(origin, &failure) => {
                self.call_once(&call).await.1
            }
            (_, result) => result,
        }
    }

    async fn call_once<T, F>(
        self: &Arc<Self>,
        call: &impl Fn(Clients) -> F,
    ) -> (Option<Origin>, Result<T, Failure>)
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let time = self.config.call_timeout;
        let clients = match timeout(time, self.clients()).await {
            Ok(Ok(clients)) => clients,
            Ok(Err(failure)) => return (None, Err(failure)),
            Err(_) => return (None, Err(Failure::Search(time, self.stage()))),
        };
        let origin = clients.origin;
        let asked = Asked { connection: self, origin, at: Instant::now() };
        let result = timeout(time, call(clients)).await.unwrap_or(Err(Failure::Silence(time)));
        let result = result.map_err(|failure| self.name(origin, failure));
        asked.answered(&result);
        (Some(origin), result)
    }

    /// Says at which endpoint it failed.
    pub(super) fn name(&self, origin: Origin, failure: Failure) -> Failure {
        failure.at(&self.endpoints[origin.member])
    }

    /// Takes a client out of use if a failure may be its own: its connection or its token.
    pub(super) fn blame(&self, origin: Origin, failure: &Failure) {
        let unavailable = failure.meaning() == Meaning::Unavailable;
        if !unavailable && !self.lacks_token(origin, failure) {
            return;
        }
        let before = self.failed.fetch_max(origin.number, Ordering::Relaxed);
        if before < origin.number && unavailable {
            let endpoint = &self.endpoints[origin.member];
            let error = failure as &dyn std::error::Error;
            info!(%endpoint, error, "an endpoint of etcd has failed");
        }
    }

    /// Whether a token would help that we have not, or not any more.
    fn lacks_token(&self, origin: Origin, failure: &Failure) -> bool {
        match failure.meaning() {
            Meaning::TokenExpired => true,
            // Authentication was enabled meanwhile.
            Meaning::Denied => self.config.credentials.is_some() && !origin.authenticated,
            _ => false,
        }
    }

    /// What the search under way is doing.
    fn stage(&self) -> Stage {
        match self.authenticating.load(Ordering::Relaxed).checked_sub(1) {
            Some(member) => Stage::Authenticating(self.endpoints[member].clone()),
            None => Stage::Asking(self.endpoints.join(",")),
        }
    }

    /// The client in use, or one of the member that answers first now.
    async fn clients(self: &Arc<Self>) -> Result<Clients, Failure> {
        let mut current = Arc::clone(&self.current).lock_owned().await;
        let failed = self.failed.load(Ordering::Relaxed);
        if let Some(clients) =
            current.clients.as_ref().filter(|clients| clients.origin.number > failed)
        {
            return Ok(clients.clone());
        }
        // A task, which goes on when the caller has given up: were it begun again with every call,
        // a password that takes longer to check than a call may take would never be checked.
        let connection = Arc::clone(self);
        let search = tokio::spawn(async move { connection.search(&mut current, failed + 1).await });
        search.await.unwrap_or(Err(Failure::Broken("the search for etcd was ended")))
    }

    /// Puts a new client in use.
    async fn search(&self, current: &mut Current, number: u64) -> Result<Clients, Failure> {
        let before = current.clients.as_ref().map(|clients| clients.origin);
        // The one that has just failed comes last.
        let first = before.map_or(0, |before| before.member + 1);
        let mut clients = self.find(first, number).await?;
        let member = clients.origin.member;
        let endpoint = &self.endpoints[member];
        self.authenticating.store(member + 1, Ordering::Relaxed);
        let authenticated = self.authenticate(&mut clients, current).await;
        self.authenticating.store(0, Ordering::Relaxed);
        let authenticated = authenticated.map_err(|failure| failure.at(endpoint))?;
        clients.origin.authenticated = authenticated;
        match before.map(|before| &self.endpoints[before.member]) {
            None => info!(%endpoint, endpoints = self.endpoints.join(","), "etcd answers"),
            Some(from) if from != endpoint => {
                info!(%from, to = %endpoint, "moved to another endpoint of etcd");
            }
            Some(_) => debug!(%endpoint, "connected to etcd again"),
        }
        let known = before.map(|before| before.authenticated);
        if self.config.credentials.is_some() && known != Some(authenticated) {
            if authenticated {
                info!(%endpoint, "etcd has authenticated our user");
            } else {
                warn!(
                    %endpoint,
                    "etcd's authentication is not enabled: going on without our user, until it is"
                );
            }
        }
        current.clients = Some(clients.clone());
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
                    Ok(clients) => return Ok(clients),
                    Err(failure) => {
                        let endpoint = &self.endpoints[member];
                        debug!(%endpoint, error = %failure, "an endpoint of etcd does not answer");
                        failures.push(failure.at(endpoint));
                    }
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
                origin: Origin { number, member, authenticated: false },
                client,
            };
            let nothing = GetOptions::new().with_count_only();
            let mut cluster = clients.client.cluster_client();
            let (read, members) =
                tokio::join!(clients.kv.get([0], Some(nothing)), cluster.member_list());
            match read.map_err(Failure::from) {
                // That we are not let in is an answer, too: who may not read this may read
                // something else, and who has no token yet gets one from the member that answered.
                Err(failure) if failure.meaning() != Meaning::Denied => Err(failure),
                // The proxy lists itself, without a cluster.
                _ if members.is_ok_and(|members| {
                    members.header().is_none_or(|header| header.cluster_id() == 0)
                }) =>
                {
                    Err(Failure::GrpcProxy)
                }
                _ => Ok(clients),
            }
        };
        let time = self.config.call_timeout;
        (member, timeout(time, answer).await.unwrap_or(Err(Failure::Silence(time))))
    }

    /// Gets a token for our user, if we have one, and returns whether there is one now.
    ///
    /// One at a time, of one member, with a time of its own.
    async fn authenticate(
        &self,
        clients: &mut Clients,
        current: &mut Current,
    ) -> Result<bool, Failure> {
        let Some(credentials) = &self.config.credentials else { return Ok(false) };
        sleep_until(current.authenticate_at).await;
        // As it is now: it may have been changed.
        let password = credentials.password.read().map_err(Failure::Config)?;
        let user = (credentials.username.clone(), password);
        let result =
            match timeout(AUTHENTICATE_TIMEOUT, clients.client.update_user(Some(user))).await {
                Ok(result) => result.map_err(Failure::from),
                Err(_) => Err(Failure::Silence(AUTHENTICATE_TIMEOUT)),
            };
        match result {
            Err(failure) if failure.meaning() == Meaning::Unavailable => {
                current.authenticate_at = Instant::now() + current.retry.wait();
                return Err(failure);
            }
            _ => current.retry.reset(),
        }
        match result {
            Ok(()) => Ok(true),
            Err(failure) if failure.meaning() == Meaning::NoUsers => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn options(&self) -> Result<ConnectOptions, EtcdConfigError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(self.config.connect_timeout)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(TCP_KEEPALIVE)
            // A member without a leader would keep a watch open and silent.
            .with_require_leader(true);
        #[cfg(feature = "etcd-tls")]
        if self.endpoints.iter().any(|url| url.starts_with("https:")) {
            return Ok(options.with_tls(self.config.tls.clone().unwrap_or_default().load()?));
        }
        Ok(options)
    }
}

/// A call under way.
struct Asked<'a> {
    connection: &'a Connection,
    origin: Origin,
    at: Instant,
}

impl Asked<'_> {
    fn answered<T>(self, result: &Result<T, Failure>) {
        if let Err(failure) = result {
            self.connection.blame(self.origin, failure);
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
            self.connection.blame(self.origin, &Failure::Silence(waited));
        }
    }
}

#[cfg(test)]
mod tests;
